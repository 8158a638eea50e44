"""Codes of 8 and 16 bits for the state of a step, for any array library; in NumPy, the reference of every kernel.

Eight bits: a row is cut into blocks of at most BLOCK neighbours, and each block has one byte beside its codes, the
exponent of its largest number as float32 has it. Codes count 16 octaves, of which the largest number is in the last:

    s    eeee mmmm    2^(e − 15) · (1 + m/16) times the last octave's beginning; code 0 is 0, and nothing else is
    m    seee emmm    2^(e − 15) · (1 + m/8) likewise, with a sign; what is below that range is 0

What is below the range of s becomes its smallest number: a shorter step, never one that divides by 0. Where a block
holds inf or nan, all of it is read as nan, and its codes are 255. Sixteen bits: a float32 without its lower half, bf16.

Codes are rounded by an additive dither: to the bits that are cut off, the top bits of r(i, t) = i·A + (t + phase)·B are
added first, in 32-bit integers that wrap around, with i the element's index in the whole tensor and t the step. With A
and B near golden-ratio fractions of 2^32 it is quasi-random in both: the errors of successive steps and of neighbours
cancel, where those of random numbers add up, and those of rounding to nearest would keep s from decaying.

Arrays here have the shape (rows, elements of a row). All is done in integers, so that a thread that flushes subnormals
has the same codes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from adabelief.kernels.layout import BLOCK, DITHER_A, DITHER_B

LOWEST = 16
"""A block's exponent counts as at least this: its smallest code is a normal float32."""

NOT_FINITE = 255
"""The exponent of inf and nan, of a float32 and of a block."""


class Code(NamedTuple):
    """How a column is coded."""

    mantissa: int
    """Bits of the mantissa in eight; the exponent has 4, the sign what is left."""
    positive: bool
    """Numbers have no sign, and only 0 becomes 0."""
    phase: int
    """Steps by which its dither is ahead of the others'."""


CODES = {"m": Code(3, False, 77_777), "s": Code(4, True, 0), "s_max": Code(4, True, 0), "p": Code(7, False, 155_554)}
"""By the columns' names in `kernels.layout`; weights, p, are in 16 bits at least."""


def dither(
    column: str, rows: int, length: int, first: int, t: Any, xp: Any = np, apart: int | None = None, **where: Any
) -> Any:
    """r(i, t) for `rows` rows of `length` elements, int32.

    Args:
        column: Of CODES.
        rows: How many rows.
        length: Elements of a row.
        first: The first element's index in the whole tensor.
        t: Step number; a number, or an array of `xp` without dimensions.
        xp: Where arrays come from: `numpy` by default, or `torch`.
        apart: Elements from one row to the next in the whole tensor; `length` by default.
        **where: What `xp.arange` takes beside it: a device.
    """
    phase = CODES[column].phase
    if isinstance(t, (int, float)):
        start: Any = _wrapped((int(t) + phase) * DITHER_B + first * DITHER_A)
    else:
        start = (xp.asarray(t, dtype=xp.int32) + phase) * _wrapped(DITHER_B) + _wrapped(first * DITHER_A)
    across = xp.arange(length, dtype=xp.int32, **where) * _wrapped(DITHER_A)
    down = xp.arange(rows, dtype=xp.int32, **where) * _wrapped((length if apart is None else apart) * DITHER_A)
    return down[:, None] + (across + start)


def encode8(x: Any, column: str, r: Any, xp: Any = np) -> tuple[Any, Any]:
    """The codes of x, float32 of shape (rows, length), and the blocks' exponents, (rows, blocks); uint8 both.

    Example:
        >>> x = np.float32([[1.0, 0.5, 1e-9, 0.0]])
        >>> codes, exponents = encode8(x, "s", dither("s", 1, 4, first=0, t=1))
        >>> codes, exponents
        (array([[240, 224,   1,   0]], dtype=uint8), array([[127]], dtype=uint8))
        >>> decode8(codes, exponents, "s")
        array([[1.0000000e+00, 5.0000000e-01, 3.2424927e-05, 0.0000000e+00]],
              dtype=float32)
    """
    code = CODES[column]
    cut = 23 - code.mantissa
    bits = x.view(xp.int32)
    magnitude = bits & 0x7FFFFFFF
    exponents = xp.amax(_blocks(magnitude, xp), -1) >> 23
    bottom = _spread(_bottom(exponents, xp), x.shape[1], xp) << code.mantissa
    finite = _spread(exponents, x.shape[1], xp) < NOT_FINITE
    rounded = ((magnitude + _top(r, cut)) >> cut) - bottom
    if code.positive:
        codes = xp.where(magnitude > 0, xp.clip(rounded, 1, 255), 0)
    else:
        codes = xp.clip(rounded, 0, 127) | ((bits >> 24) & 0x80)
    return xp.asarray(xp.where(finite, codes, 255), dtype=xp.uint8), xp.asarray(exponents, dtype=xp.uint8)


def decode8(codes: Any, exponents: Any, column: str, xp: Any = np) -> Any:
    """The float32 that codes and exponents stand for."""
    code = CODES[column]
    cut, most = 23 - code.mantissa, 255 if code.positive else 127
    codes, exponents = xp.asarray(codes, dtype=xp.int32), xp.asarray(exponents, dtype=xp.int32)
    bottom = _spread(_bottom(exponents, xp), codes.shape[1], xp)
    magnitude = codes & most
    bits = xp.where(magnitude > 0, (magnitude << cut) + (bottom << 23), 0)
    if not code.positive:
        bits = bits | ((codes >> 7) * _wrapped(0x80000000))
    finite = _spread(exponents, codes.shape[1], xp) < NOT_FINITE
    return xp.asarray(xp.where(finite, bits, 0x7FC00000), dtype=xp.int32).view(xp.float32)


def encode16(x: Any, column: str, r: Any, xp: Any = np) -> Any:
    """The upper halves of x, rounded by the dither: bf16 by its bits, int16; finite numbers stay finite."""
    bits = x.view(xp.int32)
    magnitude = bits & 0x7FFFFFFF
    rounded = (xp.clip(magnitude, 0, 0x7F7F0000) + _top(r, 16)) >> 16
    if CODES[column].positive:
        rounded = xp.where(magnitude > 0, xp.clip(rounded, 1, 0x7F7F), 0)
    special = xp.where(magnitude > 0x7F800000, 0x7FC0, 0x7F80)
    halves = xp.where(magnitude >= 0x7F800000, special, rounded) | ((bits >> 16) & 0x8000)
    return xp.asarray(halves, dtype=xp.int16)


def decode16(halves: Any, xp: Any = np) -> Any:
    """The float32 with these upper halves."""
    return (xp.asarray(halves, dtype=xp.int32) << 16).view(xp.float32)


def split(x: Any, bits: int, r: Any, xp: Any = np) -> tuple[Any, Any]:
    """A weight as bf16, to the nearest (halves away from 0), and what is left of its float32: int16 and int16 or int8.

    Args:
        x: float32 of shape (rows, length).
        bits: How many of a float32 are kept in both: 32, or 24, to which it is rounded by the dither.
        r: The dither of the column p.
        xp: Where arrays come from.
    """
    sign, magnitude = (x.view(xp.int32) >> 16) & 0x8000, x.view(xp.int32) & 0x7FFFFFFF
    low, number = 32 - bits, magnitude < 0x7F800000
    if low:
        rounded = ((xp.clip(magnitude, 0, 0x7F7FFF00) + _top(r, low)) >> low) << low
        magnitude = xp.where(number, rounded, magnitude)
    halves = (xp.clip(magnitude, 0, 0x7F800000) + 0x8000) >> 16
    rest = xp.where(number, (magnitude - (halves << 16)) >> low, 0)
    halves = xp.where(magnitude > 0x7F800000, 0x7FC0, halves) | sign
    return xp.asarray(halves, dtype=xp.int16), xp.asarray(rest, dtype=xp.int16 if bits == 32 else xp.int8)


def join(halves: Any, rest: Any, bits: int, xp: Any = np) -> Any:
    """The float32 of a weight and its rest, which is less than a unit of any weight that someone else wrote meanwhile.

    Example:
        >>> x = np.float32([[1.0001, -3e-5]])
        >>> halves, rest = split(x, 32, dither("p", 1, 2, first=0, t=1))
        >>> bool((join(halves, rest, 32) == x).all()), decode16(halves)
        (True, array([[ 1.0000000e+00, -3.0040741e-05]], dtype=float32))
    """
    halves, rest = xp.asarray(halves, dtype=xp.int32), xp.asarray(rest, dtype=xp.int32)
    upper = (halves & 0x7FFF) << 16
    magnitude = xp.where(upper < 0x7F800000, xp.clip(upper + rest * (1 << (32 - bits)), 0, 0x7F7FFFFF), upper)
    return xp.asarray(magnitude | ((halves >> 15) * _wrapped(0x80000000)), dtype=xp.int32).view(xp.float32)


def blocks_of(length: int) -> int:
    """How many blocks a row has."""
    return -(-length // BLOCK)


def _wrapped(x: int) -> int:
    """A whole number as 32 bits have it, with a sign."""
    return (x + 2**31) % 2**32 - 2**31


def _top(r: Any, bits: int) -> Any:
    """The top bits of r."""
    return (r >> (32 - bits)) & ((1 << bits) - 1)


def _bottom(exponents: Any, xp: Any) -> Any:
    """The exponents of the blocks' smallest codes."""
    return xp.clip(exponents, LOWEST, NOT_FINITE) - 15


def _blocks(x: Any, xp: Any) -> Any:
    """(rows, length) as (rows, blocks, elements of a block), with zeros where the last block is short."""
    rows, length = x.shape
    width = min(BLOCK, max(length, 1))
    missing = -length % width
    if missing:
        x = xp.concatenate((x, xp.zeros_like(x[:, :missing])), axis=1)
    return x.reshape(rows, -1, width)


def _spread(each: Any, length: int, xp: Any) -> Any:
    """A number of each block for each of its elements."""
    rows, whole = len(each), length // BLOCK
    spread = xp.broadcast_to(each[:, :whole, None], (rows, whole, BLOCK)).reshape(rows, whole * BLOCK)
    rest = length - whole * BLOCK  # apart: torch.compile reads past the end of what is cut from a broadcast array
    return spread if not rest else xp.concatenate((spread, xp.broadcast_to(each[:, whole:], (rows, rest))), axis=1)
