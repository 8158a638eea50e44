"""Values that people give for a name: read as the kind of value that it takes, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Integral
from typing import Any, TypeAlias

from adabelief.options import RATE, is_number

LARGEST = 2**63
"""Whole numbers are below it: torch and NumPy have no larger sizes."""

Bounds: TypeAlias = tuple[float, float]
"""The least and the largest value of a number."""


def read(name: str, value: Any, kind: type, *, optional: bool = False, bounds: Bounds | None = None) -> Any:
    """A value as its name takes it.

    Args:
        name: What it is for; the message begins with it.
        value: As it was given: of that kind, or a text that means one.
        kind: bool, int, float or str.
        optional: Whether None, or the text `none`, is a value too.
        bounds: Of a number, where it has other ones than from 0 to whatever is finite.

    Raises:
        ValueError: If it is of another kind, or out of range.

    Example:
        >>> read("rectify", "false", bool), read("width", 1, float), read("steps", "none", int, optional=True)
        (False, 1.0, None)
    """
    if optional and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    words, reader = _READERS[kind]
    found = reader(value)
    if bounds:
        least, most = bounds
        words = f"{'a whole' if kind is int else 'a finite'} number, at least {least} and at most {most}"
        found = found if found is not None and least <= found <= most else None
    if found is None:
        raise ValueError(f"{name} must be {words}{' or none' if optional else ''}, got {value!r}")
    return found


def _flag(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    whole = is_number(value) and (isinstance(value, Integral) or float(value).is_integer())
    return int(value) if whole and 0 <= value < LARGEST else None


def _number(value: Any) -> float | None:
    if is_number(value):
        with suppress(OverflowError):  # of a whole number with hundreds of digits
            number = float(value)
            return number if 0 <= number < math.inf else None
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Mapping[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", _flag),
    int: ("a whole number, at least 0 and below 2^63", _whole),
    float: (RATE[0], _number),
    str: ("a text", _text),
}
