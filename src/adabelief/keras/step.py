"""The rule in `keras.ops`, for one variable."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from adabelief.options import is_number
from adabelief.rule import Coefficients


def stepped(
    g: Any, p: Any, m: Any, s: Any, *s_max: Any, c: Coefficients, dims: tuple[int, ...] = (), gc_loc: bool = True
) -> list[Any]:
    """One step, in the type of the state.

    Args:
        g: The gradient.
        p: The variable.
        m: The mean of the gradients.
        s: The mean of (g − m)².
        *s_max: The largest s so far, where that is what divides.
        c: The step's scalars.
        dims: Dimensions that centralization averages over; none where nothing is centralized.
        gc_loc: Centralize the gradient, or else the step.

    Returns:
        The new p, m, s, and the largest s where there is one.
    """
    if not _is(c.shrink, 1.0):
        p = c.shrink * p
    if not _is(c.l2, 0.0):
        g = g + c.l2 * p
    if dims and gc_loc:
        g = g - _mean(g, dims)
    d, belief_gain = g - m, c.belief_gain
    m = m + c.mean_gain * d
    if c.mean_gain <= 0.5:  # no digit is lost in taking d from the new m, and compilers step m in place, uncopied
        d, belief_gain = g - m, belief_gain / (1.0 - c.mean_gain) ** 2
    s = c.beta2 * s + (belief_gain * d * d + c.eps)
    state = [s, *(ops.maximum(x, s) for x in s_max)]
    step = m / (ops.sqrt(state[-1]) * c.root_scale + c.offset)
    if dims and not gc_loc:
        step = step - _mean(_cut(step, c.bound), dims)
    return [p - c.step_size * _cut(step, c.bound), m, *state]


def _cut(x: Any, bound: Any) -> Any:
    """A step cut to [−bound, bound]; nan stays nan, which not every backend's `clip` promises."""
    return x if _is(bound, math.inf) else ops.where(x > bound, bound, ops.where(x < -bound, -bound, x))


def _mean(x: Any, dims: tuple[int, ...]) -> Any:
    count = max(1, math.prod(x.shape[d] for d in dims))
    return ops.sum(x, dims, keepdims=True) / count  # ops.mean is in float32 on JAX


def _is(x: Any, number: float) -> bool:
    return is_number(x) and bool(x == number)
