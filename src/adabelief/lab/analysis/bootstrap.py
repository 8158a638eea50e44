"""Reliable figures of few runs on several workloads, as in rliable (Agarwal et al., NeurIPS 2021).

Scores are arrays (runs, workloads), higher is better. A run that failed has a score too, the worst there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

Scores = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its bootstrap interval."""

    estimate: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """The mean of the middle half of all runs of all workloads.

    Example:
        >>> interquartile_mean(np.array([[-100.0, 1.0], [2.0, 3.0]]))
        1.5
    """
    return float(trim_mean(scores, proportiontocut=0.25, axis=None))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """The mean over workloads of P(X > Y) + P(X = Y)/2 for a run X of one side and a run Y of the other.

    On one workload that is Mann and Whitney's U over the number of pairs.

    Example:
        >>> probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
        0.625
    """
    x, y = scores[:, None], others[None]
    return float(np.mean((x > y) + 0.5 * (x == y)))


def stratified_bootstrap(
    figure: Callable[..., float], *scores: Scores, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A figure of scores, with the percentile interval of a bootstrap that draws runs anew within each workload.

    Args:
        figure: What is estimated, of the arrays.
        scores: Arrays (runs, workloads); each is drawn by itself.
        confidence: Of the interval.
        resamples: How often to draw.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)

    def drawn(x: Scores) -> Any:
        return np.take_along_axis(x, generator.integers(len(x), size=x.shape), axis=0)

    figures = [figure(*map(drawn, scores)) for _ in range(resamples)]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(figures, [tail, 100 - tail])
    return Interval(figure(*scores), float(low), float(high))
