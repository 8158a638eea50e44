"""What an experiment's numbers are, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run

CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """Two optimizers' mean test metrics: how far apart they are, and how far they could be by chance.

    The margin is half the width of a confidence interval, nan where seeds are too few to tell; the level is the mean of
    both, by which the numbers are printed.
    """

    difference: float
    margin: float
    level: float

    @property
    def clear(self) -> bool:
        """Whether the difference is larger than what noise explains."""
        return abs(self.difference) > self.margin


class Target(NamedTuple):
    """A level of the validation metric, and the runs' first epochs that reach it with the seconds until then."""

    level: float
    reached: Mapping[str, Sequence[tuple[int, float] | None]]


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


def compare(runs: Sequence[Run], others: Sequence[Run], comparisons: int = 1) -> Comparison:
    """The mean test metric of some runs minus that of others, with its margin.

    The variance of the difference has three parts: p(1 − p)/n for each side, with n the size of the test set and p the
    mean of all the runs, and s²/k for each side, with s the standard deviation over its k seeds. The first is for
    accuracies only, and takes the two sides as tested on different examples; tested on the same ones, they are closer
    than that. The margin is Student's t times the root of it, with Welch's degrees of freedom.

    Args:
        runs: One side.
        others: The other side.
        comparisons: How many are made together; all of them hold with `CONFIDENCE` (Bonferroni).
    """
    sides = [[run.test for run in side] for side in (runs, others)]
    difference = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    mean = statistics.fmean([*sides[0], *sides[1]])
    if min(map(len, sides)) < 2:
        return Comparison(difference, math.nan, mean)
    seeds = [_seed_variance(values) for values in sides]
    variance = sum(seeds) + _size_variance(runs[0], mean) + _size_variance(others[0], mean)
    if variance == 0:
        return Comparison(difference, 0.0, mean)
    uncertain = sum(v**2 / (len(values) - 1) for v, values in zip(seeds, sides, strict=True))
    freedom = variance**2 / uncertain if uncertain else math.inf
    quantile = float(stdtrit(min(freedom, 1e9), 1 - (1 - CONFIDENCE) / (2 * comparisons)))
    return Comparison(difference, quantile * math.sqrt(variance), mean)


def reference(experiment: Experiment) -> str | None:
    """Whom the others are compared with: AdaBelief, as little changed as there is; None where it diverged or is not."""
    groups = contenders(experiment)
    return next((label for label, runs in groups.items() if runs[0].config.optimizer == "AdaBelief"), None)


def contenders(experiment: Experiment) -> Mapping[str, Sequence[Run]]:
    """What is compared: all of `complete`, or of a search the settings that validation picks, one of each optimizer.

    Where several optimizers have several settings each, these were searched. An optimizer's settings are judged by
    their mean validation metric over the seeds that all of them have, so that it is fair to run more seeds of the best.
    """
    groups = complete(experiment)
    settings: dict[str, list[str]] = defaultdict(list)
    for label, runs in groups.items():
        settings[runs[0].config.optimizer].append(label)
    if sum(len(labels) > 1 for labels in settings.values()) < 2:
        return groups
    better = max if experiment.metric.higher_is_better else min
    picked = []
    for labels in settings.values():
        shared = set.intersection(*({run.config.seed for run in groups[label]} for label in labels))
        means = {
            label: statistics.fmean(run.validation for run in groups[label] if not shared or run.config.seed in shared)
            for label in labels
        }
        picked.append(better(labels, key=means.__getitem__))
    return {label: groups[label] for label in picked}


def complete(experiment: Experiment) -> Mapping[str, Sequence[Run]]:
    """The optimizers none of whose finished runs diverged: to average what is left of the others would flatter them."""
    broken = {label for label, runs in experiment.groups.items() if any(run.diverged for run in runs)}
    return {label: runs for label, runs in experiment.valid.items() if label not in broken}


def comparisons(experiment: Experiment) -> Mapping[str, Comparison]:
    """Every other one of `contenders` against `reference`, on the test metric; empty where nothing is compared."""
    ours, groups = reference(experiment), contenders(experiment)
    if ours is None:
        return {}
    rivals = [label for label in groups if label != ours]
    return {label: compare(groups[label], groups[ours], len(rivals)) for label in rivals}


def target(experiment: Experiment) -> Target | None:
    """A level that the better half of the optimizers reaches with every seed, and when each run reaches it.

    Every optimizer stands for the best validation metric of its worst seed; the level is that of the middle one, of
    two middle ones the worse. So no single optimizer, be it the best or the worst, sets the level.
    """
    sign = 1.0 if experiment.metric.higher_is_better else -1.0
    groups = contenders(experiment)
    if len(groups) < 2:
        return None
    level = sign * statistics.median_low(min(sign * run.validation for run in runs) for runs in groups.values())
    return Target(level, {label: [run.reached(level) for run in runs] for label, runs in experiment.valid.items()})


def _seed_variance(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else 0.0


def _size_variance(run: Run, mean: float) -> float:
    if run.metric.unit != "%" or run.test_examples is None:
        return 0.0
    return proportion_variance(mean, run.test_examples)
