"""What the numbers say, in sentences, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from adabelief.lab.results import Experiment, Run, pixels
from adabelief.lab.tasks.toy import FUNCTIONS, Walk

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

    def __str__(self) -> str:
        difference = signed(self.difference, beside=self.level)
        return difference if math.isnan(self.margin) else f"{difference} ± {number(self.margin, beside=self.level)}"


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


def base(experiment: Experiment) -> str | None:
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
    return {label: runs for label, runs in experiment.sound.items() if label not in broken}


def comparisons(experiment: Experiment) -> Mapping[str, Comparison]:
    """Every other one of `contenders` against `base`, on the test metric; empty where there is nothing to compare."""
    reference, groups = base(experiment), contenders(experiment)
    if reference is None:
        return {}
    rivals = [label for label in groups if label != reference]
    return {label: compare(groups[label], groups[reference], len(rivals)) for label in rivals}


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
    return Target(level, {label: [run.reached(level) for run in runs] for label, runs in experiment.sound.items()})


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
    if diverged := [told for label, runs in experiment.groups.items() if (told := divergences(label, runs))]:
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
    reference, compared = base(experiment), comparisons(experiment)
    if reference is None:
        return [*sentences, "AdaBelief is not among those that came to their end, so nothing is compared with it."]
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "unknown": []}
    for label, comparison in compared.items():
        higher = (comparison.difference > 0) == metric.higher_is_better
        verdict = "unknown" if math.isnan(comparison.margin) else "same"
        verdicts[("better" if higher else "worse") if comparison.clear else verdict].append(label)
    told = [
        f"{words}: {join(verdicts[verdict])}"
        for verdict, words in (
            ("better", "better than it beyond the noise"),
            ("worse", "worse beyond the noise"),
            ("same", "not told apart from it"),
            ("unknown", "not judged, as one seed does not show how much another would change"),
        )
        if verdicts[verdict]
    ]
    sentences.append(f"{reference} has {number(means[reference])}{metric.suffix}; {'; '.join(told)}.")
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
    reference = base(experiment)
    if reference not in times:
        return f"{sentence}."
    own, verdicts = times[reference], ["one seed does not show which differences would last"]
    if min(map(len, times.values())) > 1:
        quicker = [label for label, values in times.items() if max(values) < min(own)]
        slower = [label for label, values in times.items() if min(values) > max(own)]
        verdicts = [f"less with every seed: {join(quicker)}"] if quicker else []
        verdicts += [f"more with every seed: {join(slower)}"] if slower else []
    told = "; ".join(verdicts) or "none of the others takes more with every seed, or less"
    return f"{sentence}. {reference}'s takes {medians[reference]:.2f} ms; {told}."


def divergences(label: str, runs: Sequence[Run]) -> str:
    """Which of an optimizer's runs diverged, and when; empty where none did."""
    told = [f"seed {run.config.seed} in epoch {len(run.epochs)}" for run in runs if run.diverged]
    return f"{label} diverged ({', '.join(told)})" if told else ""


def on_toys(walks: Sequence[Walk]) -> list[str]:
    """What the walks say, of the functions that every optimizer has finished."""
    arrivals = {(walk.function, walk.optimizer): math.inf if walk.arrival is None else walk.arrival for walk in walks}
    functions = [
        name for name, function in FUNCTIONS.items() if all((name, label) in arrivals for label in function.settings())
    ]
    if not functions:
        return []
    first = [
        name for name in functions if arrivals[name, "AdaBelief"] < min(arrivals[name, "SGD"], arrivals[name, "Adam"])
    ]
    beaten = [name for name in functions if arrivals[name, "SGD, undamped"] < arrivals[name, "AdaBelief"]]
    finding = (
        f"AdaBelief arrives at the optimum before SGD and Adam on {len(first)} of {len(functions)}"
        f"{f' ({join(first)})' if first else ''}, SGD's momentum being dampened so that a step is as long as the "
        "learning rate says."
    )
    if beaten:
        finding += (
            " PyTorch's SGD, which does not dampen unless asked to and so takes steps ten times as long at momentum "
            f"0.9, arrives before AdaBelief on {join(beaten)}: who is first depends on how learning rates are matched."
        )
    return [finding]


def pixels_apart(images: Sequence[str]) -> float:
    """The root mean square difference between the pixels of two images, over all pairs of them.

    It is √(2 σ²), with the unbiased variance σ² of each pixel over the images, and its mean over the pixels.

    Args:
        images: Two or more of one size, as PNG files in base64.
    """
    return math.sqrt(2 * np.stack([pixels(image) for image in images]).var(0, ddof=1).mean())


def number(value: float, *, beside: float | None = None) -> str:
    """A metric's value, or a part of one: with as many decimals as the value that it stands beside."""
    return f"{value:.{2 if abs(value if beside is None else beside) >= 1 else 4}f}".replace("-", "−")


def rough(value: float) -> str:
    """A number that is told in passing: two digits."""
    return f"{value:.2g}".replace("-", "−")


def signed(value: float, *, beside: float) -> str:
    """A difference between two values of a metric, with its sign."""
    return ("+" if value >= 0 else "−") + number(abs(value), beside=beside)


def spread(values: Sequence[float]) -> str:
    """The mean and, of two values or more, the sample's standard deviation, as in `98.56 ± 0.51`."""
    mean = statistics.fmean(values)
    deviation = f" ± {number(statistics.stdev(values), beside=mean)}" if len(values) > 1 else ""
    return number(mean) + deviation


def join(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _seed_variance(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else 0.0


def _size_variance(run: Run, mean: float) -> float:
    if run.metric.unit != "%" or run.test_examples is None:
        return 0.0
    return proportion_variance(mean, run.test_examples)
