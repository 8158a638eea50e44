"""What an experiment says, in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import comparisons, complete, contenders, reference
from adabelief.lab.report.words import join, number


def on_experiment(experiment: Experiment) -> list[str]:
    """What an experiment says. A difference within the noise is never called one."""
    groups = contenders(experiment)
    sentences = _on_test(experiment, groups)
    if (tried := len(complete(experiment))) > len(groups):
        sentences.insert(
            0,
            f"A search: {tried} settings were tried, of which validation picks {join(list(groups))}; these are "
            "compared. A wider search might pick others.",
        )
    if diverged := [text for label, runs in experiment.groups.items() if (text := divergences(label, runs))]:
        sentences.append(f"{'; '.join(diverged)}. Diverged runs are in no mean, and their optimizers in no comparison.")
    if len(groups) > 1:
        sentences.append(_on_time(experiment, groups))
    if unfinished := sum(not run.finished for run in experiment.runs):
        sentences.append(f"{unfinished} of {len(experiment.runs)} runs are unfinished and in no number here.")
    return sentences


def _on_test(experiment: Experiment, groups: Mapping[str, Sequence[Run]]) -> list[str]:
    metric = experiment.metric
    means = {label: statistics.fmean(run.test for run in runs) for label, runs in groups.items()}
    if not means:
        return ["Nothing has come to its end."]
    if len(means) == 1:
        ((label, mean),) = means.items()
        return [f"There is {label} alone, with a test {metric.called} of {number(mean)}{metric.suffix}: no comparison."]
    top = (max if metric.higher_is_better else min)(means.values())
    best = join([label for label, mean in means.items() if mean == top])
    sentences = [
        f"Mean test {metric.called} lies between {number(min(means.values()))} and {number(max(means.values()))}"
        f"{metric.suffix}; the best mean is that of {best}."
    ]
    ours, compared = reference(experiment), comparisons(experiment)
    if ours is None:
        return [*sentences, "AdaBelief is not among those that came to their end, so nothing is compared with it."]
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "unknown": []}
    for label, comparison in compared.items():
        higher = (comparison.difference > 0) == metric.higher_is_better
        verdict = "unknown" if math.isnan(comparison.margin) else "same"
        verdicts[("better" if higher else "worse") if comparison.clear else verdict].append(label)
    judged = [
        f"{words}: {join(verdicts[verdict])}"
        for verdict, words in (
            ("better", "better than it beyond the noise"),
            ("worse", "worse beyond the noise"),
            ("same", "not told apart from it"),
            ("unknown", "not judged, as one seed does not show how much another would change"),
        )
        if verdicts[verdict]
    ]
    sentences.append(f"{ours} has {number(means[ours])}{metric.suffix}; {'; '.join(judged)}.")
    return sentences


def _on_time(experiment: Experiment, groups: Mapping[str, Sequence[Run]]) -> str:
    if not experiment.same_place:
        return "The runs were not all made on the same kind of machine: their times are not compared."
    times = {label: [1e3 * float(run.outcome["optimizer_seconds"]) for run in groups[label]] for label in groups}
    times = {label: values for label, values in times.items() if all(map(math.isfinite, values))}
    if not times:
        return "`step()` is not measured apart from the rest of a training step."
    medians = {label: statistics.median(values) for label, values in times.items()}
    quick, slow = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    sentence = f"`step()` takes from {medians[quick]:.2f} ms ({quick}) to {medians[slow]:.2f} ms ({slow})"
    ours = reference(experiment)
    if ours not in times:
        return f"{sentence}."
    own, verdicts = times[ours], ["one seed does not show which differences would last"]
    if min(map(len, times.values())) > 1:
        quicker = [label for label, values in times.items() if max(values) < min(own)]
        slower = [label for label, values in times.items() if min(values) > max(own)]
        verdicts = [f"less with every seed: {join(quicker)}"] if quicker else []
        verdicts += [f"more with every seed: {join(slower)}"] if slower else []
    verdict = "; ".join(verdicts) or "none of the others takes more with every seed, or less"
    return f"{sentence}. {ours}'s takes {medians[ours]:.2f} ms; {verdict}."


def divergences(label: str, runs: Sequence[Run]) -> str:
    """Which of an optimizer's runs diverged, and when; empty where none did."""
    seeds = [f"seed {run.config.seed} in epoch {len(run.epochs)}" for run in runs if run.diverged]
    return f"{label} diverged ({', '.join(seeds)})" if seeds else ""
