"""What an experiment's numbers are, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adabelief.lab.analysis.differences import Comparison, comparisons
from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run

DISTURBED = 2.0
"""A run whose seconds per median step are so many times those of the middle run was disturbed by other work."""


class Search(NamedTuple):
    """What was tried to find the settings that are compared.

    Attributes:
        tried: How many settings of each optimizer were tried, by the optimizer's name.
        changed: What they differ in: `lr`, say.
        seeds: Those by which validation picked: an optimizer's settings share them.
        again: Whether these count again in what is compared, for want of others.
    """

    tried: Mapping[str, int]
    changed: Sequence[str]
    seeds: Sequence[int]
    again: bool


class Target(NamedTuple):
    """A level of the validation metric, and the runs' first epochs that reach it with the seconds until then."""

    level: float
    reached: Mapping[str, Sequence[tuple[int, float] | None]]


@dataclass(frozen=True)
class Verdict:
    """All that is concluded from an experiment, once, for whoever tells or draws it.

    Attributes:
        experiment: What it is on.
        complete: The valid runs of the labels that none diverged of: an average of what is left of the others would
            flatter them.
        contenders: What is compared: all of `complete`, or of a search the settings that validation picks, one of each
            optimizer, on the seeds that picked nothing, if all of them have two or more of those.
        search: What was tried; None where nothing was searched.
        reference: Whom the others are compared with: AdaBelief, as little changed as there is; None where it diverged,
            has not finished, or is not there.
        comparisons: Every other one of `contenders` against `reference`, on the test metric of the picked epoch; empty
            where nothing is compared, as in a smoke run.
        last_comparisons: The same of the last epoch.
        target: A level of the validation metric that tells who is quick; None where there is none, as in a smoke run.
        looks: How an optimizer's labels are told apart in figures: 0 for the one that stands for it (the one that
            validation picks of a search), 1, 2, ... for further settings; in the order in which they are drawn.
        disturbed: Runs whose seconds other work disturbed: they are in no mean of seconds.
    """

    experiment: Experiment
    complete: Mapping[str, Sequence[Run]]
    contenders: Mapping[str, Sequence[Run]]
    search: Search | None
    reference: str | None
    comparisons: Mapping[str, Comparison]
    last_comparisons: Mapping[str, Comparison]
    target: Target | None
    looks: Mapping[str, int]
    disturbed: Sequence[Run]


def judge(experiment: Experiment) -> Verdict:
    """What can be concluded from an experiment. A smoke run shows that everything runs: nothing is compared in it."""
    complete = _complete(experiment)
    picked = _contenders(experiment, complete)
    search = _search(complete, picked) if len(picked) < len(complete) else None
    contenders = {label: _fresh(runs, search) for label, runs in picked.items()}
    reference = next((label for label, runs in contenders.items() if runs[0].config.optimizer == "AdaBelief"), None)
    smoke = experiment.smoke
    compared = reference is not None and not smoke
    return Verdict(
        experiment=experiment,
        complete=complete,
        contenders=contenders,
        search=search,
        reference=reference,
        comparisons=comparisons(contenders, str(reference), lambda run: run.test) if compared else {},
        last_comparisons=comparisons(contenders, str(reference), lambda run: run.last_test) if compared else {},
        target=None if smoke else _target(experiment, contenders),
        looks=_looks(experiment, contenders),
        disturbed=_disturbed(experiment),
    )


def proportion_variance(percent: float, n: int) -> float:
    """The variance, in squared points, of a percentage of n examples: that of a proportion, p(1 − p)/n.

    Where all or none are right, p is taken as one example away from it: nobody is known to be perfect.
    """
    p = min(max(percent / 100, 1 / n), 1 - 1 / n)
    return 1e4 * p * (1 - p) / n


def standard_error(runs: Sequence[Run]) -> float:
    """The standard error of a mean test metric, from the size of the test set and from the spread over seeds.

    The first part is there for accuracies only, the second for two seeds or more.
    """
    values = [run.test for run in runs]
    return math.sqrt(_size_variance(runs[0], statistics.fmean(values)) + _seed_variance(values))


def _complete(experiment: Experiment) -> Mapping[str, Sequence[Run]]:
    broken = {label for label, runs in experiment.groups.items() if any(run.diverged for run in runs)}
    return {label: runs for label, runs in experiment.valid.items() if label not in broken}


def _by_optimizer(groups: Mapping[str, Sequence[Run]]) -> Mapping[str, Sequence[str]]:
    labels: dict[str, list[str]] = defaultdict(list)
    for label, runs in groups.items():
        labels[runs[0].config.optimizer].append(label)
    return labels


def _shared_seeds(groups: Mapping[str, Sequence[Run]], labels: Sequence[str]) -> set[int]:
    return set.intersection(*({run.config.seed for run in groups[label]} for label in labels))


def _contenders(experiment: Experiment, complete: Mapping[str, Sequence[Run]]) -> Mapping[str, Sequence[Run]]:
    """Where several optimizers have several settings each, these were searched, and validation picks one of each.

    An optimizer's settings are judged by their mean validation metric over the seeds that all of them have, so that
    the best may be given more seeds.
    """
    settings = _by_optimizer(complete)
    if sum(len(labels) > 1 for labels in settings.values()) < 2:
        return complete
    better = max if experiment.metric.higher_is_better else min
    picked = []
    for labels in settings.values():
        shared = _shared_seeds(complete, labels)
        means = {
            label: statistics.fmean(
                run.validation for run in complete[label] if not shared or run.config.seed in shared
            )
            for label in labels
        }
        picked.append(better(labels, key=means.__getitem__))
    return {label: complete[label] for label in picked}


def _search(complete: Mapping[str, Sequence[Run]], picked: Mapping[str, Sequence[Run]]) -> Search:
    settings = _by_optimizer(complete)
    searched = [labels for labels in settings.values() if len(labels) > 1]
    arguments = [[complete[label][0].config.settings for label in labels] for labels in searched]
    changed = {
        name
        for group in arguments
        for one in group
        for name in one
        if len({str(other.get(name)) for other in group}) > 1
    }
    seeds = {seed for labels in searched for seed in _shared_seeds(complete, labels)}
    fresh = [sum(run.config.seed not in seeds for run in runs) for runs in picked.values()]
    tried = {name: len(labels) for name, labels in settings.items()}
    return Search(tried, sorted(changed), sorted(seeds), again=min(fresh) < 2)


def _fresh(runs: Sequence[Run], search: Search | None) -> Sequence[Run]:
    """The runs that picked nothing, where these do not count again."""
    if search is None or search.again:
        return runs
    return [run for run in runs if run.config.seed not in search.seeds]


def _target(experiment: Experiment, contenders: Mapping[str, Sequence[Run]]) -> Target | None:
    """A level that the better half of the optimizers reaches with every seed, and when each run reaches it.

    Every optimizer stands for the best validation metric of its worst seed; the level is that of the middle one, of
    two middle ones the worse. So no single optimizer, be it the best or the worst, sets the level.
    """
    sign = 1.0 if experiment.metric.higher_is_better else -1.0
    if len(contenders) < 2:
        return None
    level = sign * statistics.median_low(min(sign * run.validation for run in runs) for runs in contenders.values())
    return Target(level, {label: [run.reached(level) for run in runs] for label, runs in experiment.valid.items()})


def _looks(experiment: Experiment, contenders: Mapping[str, Sequence[Run]]) -> Mapping[str, int]:
    looks: dict[str, int] = {}
    variants: dict[str, int] = defaultdict(int)
    for label in sorted(experiment.groups, key=lambda label: label not in contenders):
        name = experiment.groups[label][0].config.optimizer
        looks[label] = variants[name]
        variants[name] += 1
    return looks


def _disturbed(experiment: Experiment) -> Sequence[Run]:
    """Runs that took far longer than their steps account for, by the middle one of the experiment's runs.

    The median step of a run hides what the other steps, the evaluations and the reading of data have waited for; the
    whole run's seconds do not. All runs of an experiment have as many steps, so their seconds per median step agree.
    """
    measured = {
        run.path: run.outcome["run_seconds"] / run.outcome["step_seconds"]
        for runs in experiment.valid.values()
        for run in runs
        if math.isfinite(run.outcome["step_seconds"]) and run.outcome["step_seconds"] > 0
    }
    if len(measured) < 3:  # of two runs none is the odd one
        return []
    middle = statistics.median(measured.values())
    return [run for run in experiment.runs if measured.get(run.path, 0.0) > DISTURBED * middle]


def _seed_variance(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else 0.0


def _size_variance(run: Run, mean: float) -> float:
    if run.metric.unit != "%" or run.test_examples is None:
        return 0.0
    return proportion_variance(mean, run.test_examples)
