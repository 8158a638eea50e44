"""Reliable figures of few runs on several workloads, as in rliable (Agarwal et al., NeurIPS 2021).

Scores are arrays (runs, workloads), higher is better. A run that failed has a score too, the worst there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

Scores = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its bootstrap interval."""

    estimate: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> Scores:
    """The mean of the middle half of all runs of all workloads.

    Args:
        scores: (..., runs, workloads): of every such table by itself.

    Example:
        >>> float(interquartile_mean(np.array([[-100.0, 1.0], [2.0, 3.0]])))
        1.5
    """
    together = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(trim_mean(together, proportiontocut=0.25, axis=-1))


def probability_of_improvement(scores: Scores, others: Scores) -> Scores:
    """The mean over workloads of P(X > Y) + P(X = Y)/2 for a run X of one side and a run Y of the other.

    On one workload that is Mann and Whitney's U over the number of pairs.

    Args:
        scores: (..., runs, workloads): of every such table by itself.
        others: The same of the other side.

    Example:
        >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])))
        0.625
    """
    x, y = scores[..., :, None, :], others[..., None, :, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean((-3, -2, -1)))


def stratified_bootstrap(
    figure: Callable[..., Scores], *scores: Scores, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A figure of scores, with the percentile interval of a bootstrap that draws runs anew within each workload.

    Args:
        figure: What is estimated, of tables (..., runs, workloads).
        scores: Tables (runs, workloads); each is drawn by itself.
        confidence: Of the interval.
        resamples: How often to draw.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        np.take_along_axis(x[None], generator.integers(len(x), size=(resamples, *x.shape)), axis=1) for x in scores
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(figure(*drawn), [tail, 100 - tail])
    return Interval(float(figure(*scores)), float(low), float(high))
