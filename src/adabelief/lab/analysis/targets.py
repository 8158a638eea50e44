"""Time to a target, and performance profiles over it, as in AlgoPerf (Dahl et al. 2023).

What does not reach the target in its budget has an infinite time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

TAU = 4.0
"""Up to how many times the quickest one's time a profile goes."""


def target(bests: Sequence[float]) -> float:
    """The median over seeds of the best validation metric that the tuned reference (AdamW) reaches."""
    return float(np.median(bests))


def time_to_target(values: Sequence[float], times: Sequence[float], goal: float, *, higher_is_better: bool) -> float:
    """The first of the times at which the value is as good as the goal; inf where none is.

    Example:
        >>> time_to_target([70.0, 91.0, 90.0], [100, 200, 300], 90.0, higher_is_better=True)
        200.0
    """
    sign = 1.0 if higher_is_better else -1.0
    return next((float(t) for value, t in zip(values, times, strict=True) if sign * value >= sign * goal), math.inf)


def performance_profile(times: ArrayLike, taus: ArrayLike) -> NDArray[np.float64]:
    """Dolan and Moré's (2002) profile ρ(τ): the share of workloads on which an arm takes at most τ times the quickest.

    Args:
        times: (arms, workloads), inf where the target was not reached; what nobody reaches counts against all.
        taus: Where to evaluate, from 1.

    Returns:
        (arms, taus).

    Example:
        >>> performance_profile([[1.0, 4.0], [2.0, np.inf]], [1.0, 2.0]).tolist()
        [[1.0, 1.0], [0.0, 0.5]]
    """
    return np.asarray((_ratios(times)[:, :, None] <= np.asarray(taus, dtype=np.float64)).mean(1))


def profile_score(times: ArrayLike, tau: float = TAU) -> NDArray[np.float64]:
    """AlgoPerf's benchmark score of every arm: the mean of ρ from 1 to τ.

    Exact: an arm gains from a workload the share of [1, τ] that lies above its ratio.

    Example:
        >>> profile_score([[1.0, 4.0], [2.0, np.inf]]).round(4).tolist()
        [1.0, 0.3333]
    """
    return np.asarray(np.clip((tau - _ratios(times)) / (tau - 1), 0, 1).mean(1))


def _ratios(times: ArrayLike) -> NDArray[np.float64]:
    """Each time over the quickest one on its workload."""
    t = np.asarray(times, dtype=np.float64)
    solved = np.isfinite(t)
    return np.asarray(np.divide(t, t.min(0), out=np.full_like(t, np.inf), where=solved))
