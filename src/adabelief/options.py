"""Checks that every front-end shares: which values an option may have, and what is said of the others.

A front-end gives the name that its users know the option by; ranges and texts stand here, once:

    check("lr", 1e-3, *RATE)
    betas = pair("betas", [0.9, 0.999], *BETA)

What is no plain number (a tensor, a traced array, a schedule) is the front-end's business: it passes where `passes`
says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from adabelief import rule

Range: TypeAlias = tuple[str, Callable[[Any], bool]]
"""A range in words, and whether a number is in it."""

RATE: Range = ("a finite number, at least 0", lambda x: 0 <= x < math.inf)
"""Learning rate, decay, eps."""

BETA: Range = ("a number in [0, 1)", lambda x: 0 <= x < 1)
"""Decay rate of a mean."""

MAX_UPDATE: Range = ("a number above 0, or None for no bound", lambda x: x > 0)
"""Bound on a step before the learning rate; an infinite one is none."""

ALPHA: Range = ("a number in [0, 1]", lambda x: 0 <= x <= 1)
"""Lookahead's share of the way to the fast weights; any other share too."""

SHARE: Range = ("a number in (0, 1]", lambda x: 0 < x <= 1)
"""How much is left of a learning rate."""

MIB: Range = ("a finite number above 0", lambda x: 0 < x < math.inf)
"""Size of what is taken at a time."""

K: Range = ("a whole number, at least 1", lambda x: 1 <= x < math.inf and x == int(x))
"""Steps between two synchronizations of Lookahead."""

ADAPTIVE_FROM: Range = ("a number, at least 4", lambda x: x >= 4)
"""Least length of the simple moving average for an adaptive step: the rectification divides by N − 4."""

FLAGS = frozenset(
    (
        *("amsgrad", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd", "eps_before_adaptive"),
        *("maximize", "use_gc", "gc_conv_only", "gc_loc", "gc_outputs_last"),
        *("skip_nonfinite", "capturable", "differentiable", "stochastic_rounding"),
    )
)
"""Options that are True or False, of whatever front-end has them."""

CHOICES = frozenset(("foreach", "fused"))
"""Those that are None as well, where the optimizer chooses."""


def is_number(value: Any) -> bool:
    """Whether a value is a plain real number, NumPy's scalars too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check(
    name: str,
    value: Any,
    range_: str,
    holds: Callable[[Any], bool],
    *,
    passes: Callable[[Any], bool] = lambda value: False,
) -> None:
    """Refuses a value that is out of its range.

    Args:
        name: The option's name, as the front-end's users know it.
        value: What was given.
        range_: The range in words; this and `holds` are what a `Range` consists of.
        holds: Whether a number is in the range.
        passes: Which values that are no plain numbers pass unseen; by default none.

    Raises:
        ValueError: If the value is a number out of the range, or neither a number nor one that passes.

    Example:
        >>> check("lr", -1.0, *RATE)
        Traceback (most recent call last):
        ValueError: lr must be a finite number, at least 0, got -1.0
    """
    if not (holds(value) if is_number(value) else passes(value)):
        raise ValueError(f"{name} must be {range_}, got {value!r}")


def check_flags(options: Mapping[str, Any]) -> None:
    """Refuses what is neither True nor False, nor 1 or 0, where an option is one of `FLAGS` or `CHOICES`.

    "no" and "false", as they come from a command line or a file of settings, would count as True.

    Args:
        options: Options by name, others too; these are not looked at.

    Raises:
        ValueError: For the first one that is neither.

    Example:
        >>> check_flags({"amsgrad": "no"})
        Traceback (most recent call last):
        ValueError: amsgrad must be True or False, got 'no'
    """
    for name, value in options.items():
        if name in FLAGS and not is_flag(value):
            raise ValueError(f"{name} must be True or False, got {value!r}")
        if name in CHOICES and not (value is None or is_flag(value)):
            raise ValueError(f"{name} must be True, False or None, got {value!r}")


def is_flag(value: Any) -> bool:
    """Whether a value says yes or no: True and False, NumPy's too, 1 and 0."""
    return isinstance(value, (bool, np.bool_)) or (is_number(value) and value in (0, 1))


def check_path(name: str, value: Any) -> Path:
    """A path, from the text of one or an object that stands for one.

    Args:
        name: The argument's name.
        value: What was given.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> check_path("out", 3)
        Traceback (most recent call last):
        ValueError: out must be a path, text or pathlib.Path, got 3
    """
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} must be a path, text or pathlib.Path, got {value!r}")
    return Path(value)


def pair(
    name: str,
    value: Any,
    range_: str,
    holds: Callable[[Any], bool],
    *,
    passes: Callable[[Any], bool] = lambda value: False,
) -> tuple[Any, Any]:
    """Two values of the same range, from any sequence: a tuple, a list, an array, a configuration library's own.

    Args:
        name: The option's name.
        value: The sequence of two.
        range_: The range in words.
        holds: Whether a number is in the range.
        passes: Which elements that are no plain numbers pass unseen.

    Returns:
        The two, plain numbers as Python floats; what passes unseen as it is.

    Raises:
        ValueError: If there are not two, or one is out of the range.

    Example:
        >>> pair("betas", [0, 0.5], *BETA)
        (0.0, 0.5)
    """
    both = items(value)
    if len(both) != 2:
        raise ValueError(f"{name} must be a pair, each {range_}, got {value!r}")
    for i, item in enumerate(both):
        check(f"{name}[{i}]", item, range_, holds, passes=passes)
    first, second = (float(item) if is_number(item) else item for item in both)
    return first, second


def items(value: Any) -> tuple[Any, ...]:
    """The elements of a sequence of any kind, a configuration library's own too; none of what is no sequence.

    Example:
        >>> items([16, 8]), items("16"), items(8)
        ((16, 8), (), ())
    """
    if not isinstance(value, (Set, Mapping, str)):  # a set has no first element, and a mapping would give its keys
        with suppress(TypeError):  # no sequence, or an array without dimensions
            return tuple(value)
    return ()


def never_adaptive(beta2: float, adaptive_from: float = rule.ADAPTIVE_FROM) -> bool:
    """Whether rectified steps never become adaptive, since the moving average never grows as long as `adaptive_from`.

    Example:
        >>> never_adaptive(0.5), never_adaptive(0.999)
        (True, False)
    """
    return bool(rule.sma_limit(beta2) < adaptive_from)


def never_adaptive_text(
    beta2: float, adaptive_from: float = rule.ADAPTIVE_FROM, *, name: str, instead: str = ""
) -> str:
    """What a user is told where `never_adaptive` holds.

    Args:
        beta2: The second decay rate.
        adaptive_from: Least length for an adaptive step.
        name: The front-end's name of `beta2`.
        instead: What else would help, beside a larger `beta2`: for example "rectify=False".

    Example:
        >>> never_adaptive_text(0.5, name="b2", instead="rectify=False").split(". ")[-1]
        'Use a larger b2 or rectify=False.'
    """
    remedy = f"a larger {name} or {instead}" if instead else f"a larger {name}"
    return (
        f"{name} = {beta2}: rectified steps never become adaptive, since N_inf = 2/(1 - {name}) - 1 = "
        f"{rule.sma_limit(beta2):.3g} is below {adaptive_from:g}. Use {remedy}."
    )


def centralized_dims(ndim: int, min_dim: int, kept: int = 0) -> tuple[int, ...]:
    """The dimensions that gradient centralization averages over: all but one, where there are enough.

    Args:
        ndim: Dimensions of the gradient; a complex one's own, not those of its pairs of reals.
        min_dim: Least number of dimensions to centralize, at least 2; 0 to centralize nothing.
        kept: The dimension that is kept, that of the outputs; negative ones count from the last.

    Returns:
        The dimensions in order; none where nothing is centralized.

    Example:
        >>> centralized_dims(4, 2), centralized_dims(4, 2, kept=-1), centralized_dims(2, 4)
        ((1, 2, 3), (0, 1, 2), ())
    """
    return tuple(dim for dim in range(ndim) if dim != kept % ndim) if 0 < min_dim <= ndim else ()
