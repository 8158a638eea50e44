"""How the report writes numbers, names and lists."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence

from adabelief.lab.analysis.differences import Comparison
from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run


def number(value: float, *, beside: float | None = None) -> str:
    """A metric's value, or a part of one: with as many decimals as the value that it stands beside."""
    digits = 2 if abs(value if beside is None else beside) >= 1 else 4
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no −0.00


def rough(value: float) -> str:
    """A number that is told in passing: two digits."""
    return f"{value:.2g}".replace("-", "−")


def signed(value: float, *, beside: float) -> str:
    """A difference between two values of a metric, with its sign."""
    return ("+" if value >= 0 else "−") + number(abs(value), beside=beside)


def spread(values: Sequence[float]) -> str:
    """The mean and, of two values or more, the sample's standard deviation, as in `98.56 ± 0.51`.

    A dash stands for values that are not all known.
    """
    if not all(map(math.isfinite, values)):
        return "–"
    mean = statistics.fmean(values)
    deviation = f" ± {number(statistics.stdev(values), beside=mean)}" if len(values) > 1 else ""
    return number(mean) + deviation


def join(names: Sequence[str]) -> str:
    """Names in a sentence: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def margin(comparison: Comparison) -> str:
    """A difference with half of its confidence interval, as in `−0.50 ± 1.25`, or without where there is none."""
    difference = signed(comparison.difference, beside=comparison.level)
    if math.isnan(comparison.margin):
        return difference
    return f"{difference} ± {number(comparison.margin, beside=comparison.level)}"


def count(n: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`, `2 processes`."""
    ending = "" if n == 1 else "es" if thing.endswith("s") else "s"
    return f"{n:,} {thing}{ending}"


def seeds(runs: Iterable[Run]) -> str:
    """`seed 0`, `seeds 0, 1 and 2`."""
    numbers = sorted({run.config.seed for run in runs})
    return f"seed{'' if len(numbers) == 1 else 's'} {join(list(map(str, numbers)))}"


def stem(experiment: Experiment) -> str:
    """What the names of an experiment's figures begin with."""
    return re.sub(r"[^\w.=-]+", "-", experiment.name)
