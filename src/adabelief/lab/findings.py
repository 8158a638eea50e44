"""What the numbers say, in sentences, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from adabelief.lab.results import by_optimizer
from adabelief.lab.tasks import digits
from adabelief.lab.tasks.toy import FUNCTIONS, Walk
from adabelief.lab.train import Run


def standard_error(runs: Sequence[Run]) -> float:
    """One standard error, in points, of an accuracy on the digits' test set.

    It is that of a proportion, √(p(1 − p)/n), with p the mean accuracy of all the runs, taken as one error at least.
    """
    n = digits.TEST
    p = min(statistics.fmean(run.test_accuracy for run in runs), 1 - 1 / n)
    return 100 * math.sqrt(p * (1 - p) / n)


def margin(runs: Sequence[Run]) -> float:
    """Two standard errors, in points, of the difference between two independent accuracies."""
    return 2 * math.sqrt(2) * standard_error(runs)


def on_digits(runs: Sequence[Run]) -> list[str]:
    """What the training runs say. A difference within `margin` is never called one."""
    groups = by_optimizer(runs)
    means = {name: 100 * statistics.fmean(run.test_accuracy for run in group) for name, group in groups}
    if len(means) < 2:
        return [
            f"Digits: only {name} has finished, with a test accuracy of {mean:.2f} %." for name, mean in means.items()
        ]
    top, within = max(means.values()), margin(runs)
    best = join([name for name, mean in means.items() if mean == top])
    worse = [name for name, mean in means.items() if mean < top - within]
    verdict = f"only {join(worse)} did worse than {best} by more than that" if worse else "there is **no winner** here"
    findings = [
        f"Digits: mean test accuracies lie between {min(means.values()):.2f} % and {top:.2f} %, the highest that of "
        f"{best}. On {digits.TEST} test images, means less than about {within:.1f} points apart cannot be told apart: "
        f"{verdict}."
    ]
    if "AdaBelief" in means:
        near = sum(abs(mean - means["AdaBelief"]) <= within for mean in means.values()) - 1
        above = [name for name, mean in means.items() if mean > means["AdaBelief"]]
        findings.append(
            f"AdaBelief's mean is {means['AdaBelief']:.2f} %. Above it: {join(above) if above else 'none'}. Within "
            f"{within:.1f} points of it: {near} of the other {len(means) - 1}."
        )
    times = {name: 1e3 * statistics.median(run.optimizer_seconds for run in group) for name, group in groups}
    quick, slow = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    findings.append(
        f"Time: `step()` takes from {times[quick]:.2f} ms ({quick}) to {times[slow]:.2f} ms ({slow})"
        + (f"; AdaBelief's takes {times['AdaBelief']:.2f} ms." if "AdaBelief" in times else ".")
    )
    return findings


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
        f"Toy functions: AdaBelief arrives at the optimum before SGD and Adam on {len(first)} of {len(functions)}"
        f"{f' ({join(first)})' if first else ''}, SGD's momentum being dampened so that a step is as long as the "
        "learning rate says."
    )
    if beaten:
        finding += (
            " PyTorch's SGD, which does not dampen unless asked to and so takes steps ten times as long at momentum "
            f"0.9, arrives before AdaBelief on {join(beaten)}: who is first depends on how learning rates are matched."
        )
    return [finding]


def spread(values: Sequence[float]) -> str:
    """The mean and, of two values or more, the sample's standard deviation, as in `98.56 ± 0.51`."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def join(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
