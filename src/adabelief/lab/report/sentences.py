"""What an experiment says, in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from adabelief.lab.analysis.differences import Comparison
from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Search, Verdict
from adabelief.lab.report import times
from adabelief.lab.report.words import count, join, number, seeds


def on_experiment(verdict: Verdict) -> list[str]:
    """What an experiment says. A difference within the noise is never called one, nor anything of a smoke run."""
    experiment = verdict.experiment
    if experiment.smoke:
        sentences = ["A smoke run: it shows that everything runs. Its numbers say nothing of the optimizers."]
    else:
        sentences = [*on_search(verdict), *_on_test(verdict)]
    sentences += filter(None, [without_learning(experiment)])
    if diverged := divergences(experiment):
        sentences.append(
            f"{diverged}. A diverged run is a loss: its optimizer has no mean, and counts as behind all that have one."
        )
    if len(verdict.contenders) > 1 and not experiment.smoke:
        sentences.append(times.in_short(verdict))
    return [*sentences, *_on_what_is_missing(experiment)]


def on_search(verdict: Verdict) -> list[str]:
    """What was searched, on which seeds, and whose settings were not; empty where nothing was searched."""
    if not verdict.search:
        return []
    tried, picked_on = verdict.search.tried, verdict.search.seeds
    searched = [name for name, settings in tried.items() if settings > 1]
    others = [name for name, settings in tried.items() if settings == 1]
    numbers = sorted({tried[name] for name in searched})
    how_many = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    sentence = (
        f"A search: {how_many} {_settings(verdict.search)} each were tried for {join(searched)}, picked by validation"
    )
    if picked_on:
        again = f"which {_counts(len(picked_on))} again below" if verdict.search.again else "left out below"
        sentence += f" on {join([f'seed {seed}' for seed in picked_on])}, {again}"
    if others:
        sentence += f"; {join(others)} had one setting"
    return [f"{sentence}. A wider search might pick others."]


def _settings(search: Search) -> str:
    return "learning rates" if list(search.changed) == ["lr"] else f"values of {join(list(search.changed))}"


def _counts(n: int) -> str:
    return "counts" if n == 1 else "count"


def _on_test(verdict: Verdict) -> list[str]:
    metric = verdict.experiment.metric
    groups = {label: runs for label, runs in verdict.contenders.items() if all(run.tested for run in runs)}
    if verdict.contenders and not groups:
        return ["The test set was not read in these runs, as in a search: they say what validation says, no more."]
    means = {label: statistics.fmean(run.test for run in runs) for label, runs in groups.items()}
    if not means:
        return ["Nothing has come to its end."]
    if len(means) == 1:
        ((label, mean),) = means.items()
        return [f"There is {label} alone, with a test {metric.called} of {number(mean)}{metric.suffix}: no comparison."]
    top = (max if metric.higher_is_better else min)(means.values())
    best = join([label for label, mean in means.items() if mean == top])
    between = f"lies between {number(min(means.values()))} and {number(max(means.values()))}{metric.suffix}"
    if all(len(runs) == 1 for runs in groups.values()):
        sentences = [f"Test {metric.called} {between}; the best is that of {best}, with one seed."]
    else:
        sentences = [
            f"Mean test {metric.called} {between}; the best mean is that of {best}{_of_one_seed(best, groups)}."
        ]
    if verdict.reference is None:
        return [*sentences, "AdaBelief is not among those that came to their end, so nothing is compared with it."]
    return [*sentences, _on_comparisons(verdict, means)]


def _of_one_seed(best: str, groups: Mapping[str, Sequence[Run]]) -> str:
    return ", with one seed" if len(groups.get(best, (1, 2))) == 1 else ""


def _on_comparisons(verdict: Verdict, means: Mapping[str, float]) -> str:
    metric, ours = verdict.experiment.metric, str(verdict.reference)
    told, last = (_judged(verdict, found) for found in (verdict.comparisons, verdict.last_comparisons))
    sentence = f"{ours} has {number(means[ours])}{metric.suffix}; {told}."
    if last == told or set(map(_unknown, verdict.comparisons.values())) == {True}:
        return sentence
    return f"{sentence} After the last epoch instead of the picked one: {last}."


def _judged(verdict: Verdict, comparisons: Mapping[str, Comparison]) -> str:
    """Who is better than the reference, and who is not, as far as the intervals show it."""
    judged: dict[str, list[str]] = {
        "better than it beyond the noise": [],
        "worse beyond the noise": [],
        "not told apart from it": [],
        "not judged, as one seed does not show how much another would change": [],
    }
    better, worse, same, unknown = judged.values()
    for label, comparison in comparisons.items():
        higher = (comparison.difference > 0) == verdict.experiment.metric.higher_is_better
        if comparison.clear:
            (better if higher else worse).append(label)
        else:
            (unknown if _unknown(comparison) else same).append(label)
    return "; ".join(f"{words}: {join(labels)}" for words, labels in judged.items() if labels)


def _unknown(comparison: Comparison) -> bool:
    return math.isnan(comparison.margin)


def _on_what_is_missing(experiment: Experiment) -> list[str]:
    unfinished = sum(run.started and not run.finished for run in experiment.runs)
    waiting = sum(not run.started for run in experiment.runs)
    parts = [
        f"{n} {'is' if n == 1 else 'are'} {what}"
        for n, what in ((unfinished, "unfinished"), (waiting, "not started"))
        if n
    ]
    return [f"Of {count(len(experiment.runs), 'run')}, {' and '.join(parts)}, and in no number here."] if parts else []


def without_learning(experiment: Experiment) -> str:
    """What agents return that learn nothing, in the episodes of the test; empty where none was played."""
    line = next((run.epochs[-1] for runs in experiment.valid.values() for run in runs), {})
    if "constant_action" not in line:
        return ""
    always, drawn = number(line["test_constant_return"]), number(line["test_random_return"])
    (action,) = line["constant_action"]
    return (
        f"Without learning: an agent whose action is always {action} returns {always}, one with random actions "
        f"{drawn}; nothing shows that an agent has learned which is not above both."
    )


def divergences(experiment: Experiment) -> str:
    """Which runs diverged, and when, by optimizer; empty where none did."""
    told = []
    for label, runs in experiment.groups.items():
        broken = [f"{seeds([run])} in epoch {len(run.epochs)}" for run in runs if run.diverged]
        told += [f"{label} diverged ({', '.join(broken)})"] if broken else []
    return "; ".join(told)
