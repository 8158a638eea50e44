"""How much a learning rate that is not the best one costs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid


def lr_sensitivity(rates: ArrayLike, losses: ArrayLike, start: float) -> float:
    """Learning-rate sensitivity (Wortsman et al. 2023): E[min(loss, start) − lowest loss] over a range of log lr.

    Losses in between are taken as a straight line in log lr. A run that diverged, or has no finite loss, has not
    learned: it counts as the loss that it started from.

    Args:
        rates: Learning rates, in any order, no two alike.
        losses: The loss after training with each.
        start: The loss before training.

    Raises:
        ValueError: If there are fewer than two learning rates, or two are alike.

    Example:
        >>> lr_sensitivity([1e-3, 1e-2, 1e-1], [1.0, 0.5, float("inf")], start=2.0)
        0.5
    """
    x, y = np.log(np.asarray(rates, dtype=np.float64)), np.asarray(losses, dtype=np.float64)
    if len(x) < 2 or len(np.unique(x)) < len(x):
        raise ValueError(f"rates must be two different learning rates or more, got {list(np.exp(x))}")
    order: Any = np.argsort(x)
    x, y = x[order], np.fmin(y[order], start)  # fmin: nan counts as start
    return float(trapezoid(y - y.min(), x) / (x[-1] - x[0]))
