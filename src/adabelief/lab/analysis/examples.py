"""What another test set would change: the paired difference of two arms over the examples that both were tested on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def paired_examples(hits: ArrayLike, others: ArrayLike) -> tuple[float, float]:
    """The difference in accuracy, in points, and its standard error over the examples.

    Each example has the mean over the seeds of whether one side is right minus whether the other is: its standard error
    is that of the mean of paired values. With one seed that is McNemar's, √(b + c − (b − c)²/n)/n for the counts b and
    c of examples that one side alone has right (but n(n − 1) for n² below the root).

    Args:
        hits: Whether an example was right, of shape (seeds, examples).
        others: The same of the other side, with the same examples in the same order.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two examples.

    Example:
        >>> difference, error = paired_examples([[True, True, False, True]], [[True, False, False, False]])
        >>> difference, round(error, 2)
        (50.0, 28.87)
    """
    first, second = (100 * np.asarray(x, dtype=np.float64) for x in (hits, others))
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] < 2:
        raise ValueError(
            f"hits and others must be of the same seeds and examples, got {first.shape} and {second.shape}"
        )
    each = (first - second).mean(0)
    return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
