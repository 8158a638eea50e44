"""Equivalence: whether a difference is small, which is more than that nobody could show it."""

from __future__ import annotations

import math

from scipy.special import stdtr


def tost(difference: float, error: float, freedom: float, margin: float) -> float:
    """The p-value of two one-sided tests (Schuirmann 1987): small where the true difference is within ±margin.

    The larger p-value of the two t-tests of "it is −margin or less" and "it is margin or more". It is below 0.05 where
    the 90 % confidence interval lies within the margins.

    Args:
        difference: As it was measured.
        error: Its standard error.
        freedom: The degrees of freedom of that.
        margin: The largest difference that does not matter.

    Raises:
        ValueError: If the margin is not above 0.

    Example:
        >>> round(tost(0.1, 0.2, 10, 0.5), 4), round(tost(0.6, 0.2, 10, 0.5), 4)
        (0.0367, 0.6861)
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    room = margin - abs(difference)
    if error == 0:
        return 0.0 if room > 0 else 1.0
    return float(stdtr(freedom, -room / error)) if math.isfinite(room) else 1.0
