"""What the arguments may be: their types, their ranges, and what is said of those that optax has and this does not."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adabelief import options

# Not optax's names for the same: optax ships no types, so to a type checker they are Any.
Scalar: TypeAlias = float | np.number[Any] | np.ndarray[Any, Any] | jax.Array
"""A number, or a scalar array, a traced one too."""

ScalarOrSchedule: TypeAlias = Scalar | Callable[[Any], jax.typing.ArrayLike]
"""A scalar, or a function of the number of steps taken before."""

DType: TypeAlias = jax.typing.DTypeLike
"""What NumPy and JAX take for a dtype."""

Tree: TypeAlias = Any
"""A tree of arrays in any of JAX's containers."""

P = ParamSpec("P")
T = TypeVar("T")

ELSEWHERE = {
    "eps_root": "here one eps is added both to s and to its root; what optax.adabelief takes as eps_root is eps",
    "nesterov": "there is no Nesterov momentum here; leave it out",
}
"""Arguments of optax's optimizers that these do not have, and what stands for them."""


def check_scalar(name: str, value: Any, range_: options.Range, schedule: bool = False) -> None:
    """Raises ValueError for a number out of its range, or what is neither number nor array, nor schedule if it may be.

    Arrays are not looked into: they may be traced, and a concrete one would have to be waited for.
    """

    def passes(x: Any) -> bool:
        return (hasattr(x, "shape") and hasattr(x, "dtype")) or (schedule and callable(x))

    options.check(name, value, *range_, passes=passes)


def check_dtype(name: str, dtype: Any) -> None:
    """Raises ValueError for what is neither a real floating-point type nor None."""
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a real floating-point type such as jnp.float32 or None, got {dtype!r}")


def warn_if_never_adaptive(b2: Any, adaptive_from: Any) -> None:
    """Warns, at the line that called this package, where rectified steps never become adaptive."""
    if not (options.is_number(b2) and options.is_number(adaptive_from) and options.never_adaptive(b2, adaptive_from)):
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("adabelief.optax"):
        frame, level = frame.f_back, level + 1
    text = options.never_adaptive_text(b2, adaptive_from, name="b2", instead="no rectification")
    warnings.warn(text, stacklevel=level)


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose TypeError for an argument that optax's optimizers have says what stands for it here."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            # Too many positional ones: in optax eps_root follows eps.
            names = [name for name in ELSEWHERE if name in kwargs] or ["eps_root"] * ("positional" in str(error))
            said = "".join(f"; {name}: {ELSEWHERE[name]}" for name in names)
            raise TypeError(f"{function.__name__}() {error}{said}") from None
        return function(*args, **kwargs)

    return call
