"""What a search costs: the best of k trials, as it is expected for every k up to all of them (Dodge et al. 2019)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln


class Curve(NamedTuple):
    """For k = 1, 2, ...: the expected best of k trials, and the ends of its bootstrap interval."""

    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def expected_best(values: ArrayLike) -> NDArray[np.float64]:
    """The mean, over all subsets of k of the n values, of the highest one, for k = 1 to n.

    The i-th lowest is the highest of C(i − 1, k − 1) of the C(n, k) subsets. Unlike Dodge et al.'s draws with
    replacement this has no bias (Tang et al. 2020). Negate values of which lower is better.

    Example:
        >>> expected_best([3.0, 1.0, 2.0]).round(4).tolist()
        [2.0, 2.6667, 3.0]
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return np.asarray(_shares(len(ordered)) @ ordered)


def expected_best_curve(values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Curve:
    """`expected_best` with percentile intervals of a bootstrap over the trials."""
    x = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    drawn = np.sort(x[generator.integers(len(x), size=(resamples, len(x)))], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn @ _shares(len(x)).T, [tail, 100 - tail], axis=0)
    return Curve(expected_best(x), low, high)


def _shares(n: int) -> NDArray[np.float64]:
    """C(i − 1, k − 1)/C(n, k) for k, i = 1, ..., n: (k, i)."""
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)

    def log_choose(top: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(gammaln(top + 1) - gammaln(below + 1) - gammaln(np.maximum(top - below, 0) + 1))

    shares = np.exp(log_choose(i - 1, k - 1) - log_choose(np.full_like(k, n), k))
    return np.where(i >= k, shares, 0.0)
