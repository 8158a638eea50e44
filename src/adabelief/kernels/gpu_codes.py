"""How a GPU reads and writes a column: the codes of adabelief/codes.py in Triton, equal to the bit.

All is done in integers of 32 bits. A column is `load`ed and `store`d at a place: the elements' indices i, which of them
are there (inside), and for codes of 8 bits the blocks' numbers, and which of those are there. To be stored in codes,
elements have the shape (blocks, elements of a block). `r` is the dither of m's, s's and p's common part, i·A + t·B.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from adabelief.kernels import layout

DITHER_A, DITHER_B = tl.constexpr(layout.DITHER_A), tl.constexpr(layout.DITHER_B)
AHEAD_M = tl.constexpr(77_777 * layout.DITHER_B % 2**32)
AHEAD_P = tl.constexpr(155_554 * layout.DITHER_B % 2**32)

LOWEST, NOT_FINITE = tl.constexpr(16), tl.constexpr(255)
MAGNITUDE, INFINITE, NOT_A_NUMBER = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7F800000), tl.constexpr(0x7FC00000)


@triton.jit
def _bits(x: tl.tensor) -> tl.tensor:
    return x.to(tl.int32, bitcast=True)


@triton.jit
def _number(bits: tl.tensor) -> tl.tensor:
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _halves(bits: tl.tensor) -> tl.tensor:
    """The bf16 that is the lower half of each number."""
    return bits.to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _upper(x: tl.tensor) -> tl.tensor:
    """The bits of numbers in bf16, with their sign."""
    return x.to(tl.int16, bitcast=True).to(tl.int32)


@triton.jit
def _top(r: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """The top bits of r, which has no sign."""
    return (r >> (32 - BITS)).to(tl.int32)


@triton.jit
def _bottom(exponents: tl.tensor) -> tl.tensor:
    """The exponents of the blocks' smallest codes."""
    return tl.maximum(exponents, LOWEST) - 15


@triton.jit
def _most(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return tl.maximum(x, y)


@triton.jit
def dither(first: tl.tensor, t: tl.tensor, i: tl.tensor) -> tl.tensor:
    """i·A + t·B, of the elements with the indices first + i in the whole tensor; a step number has up to 24 bits."""
    start = first.to(tl.uint32) * DITHER_A + tl.cast(t, tl.int32).to(tl.uint32) * DITHER_B
    return i.to(tl.uint32) * DITHER_A + start


@triton.jit
def _decoded(codes: tl.tensor, exponents: tl.tensor, POSITIVE: tl.constexpr) -> tl.tensor:
    """The exponents are those of the codes' blocks, their rows, or of each of the codes."""
    MANTISSA: tl.constexpr = 4 if POSITIVE else 3
    codes, exponents = codes.to(tl.int32), exponents.to(tl.int32)
    if len(codes.shape) > len(exponents.shape):
        exponents = exponents[:, None]
    magnitude = codes if POSITIVE else codes & 127
    bits = tl.where(magnitude > 0, (magnitude << (23 - MANTISSA)) + (_bottom(exponents) << 23), 0)
    if not POSITIVE:
        bits |= (codes >> 7) << 31
    return _number(tl.where(exponents < NOT_FINITE, bits, NOT_A_NUMBER))


@triton.jit
def _encoded(x: tl.tensor, inside: tl.tensor, r: tl.tensor, POSITIVE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Codes and exponents of blocks, one in each row."""
    MANTISSA: tl.constexpr = 4 if POSITIVE else 3
    bits = _bits(x)
    magnitude = bits & MAGNITUDE
    largest = tl.reduce(tl.where(inside, magnitude, 0), 1, _most) >> 23
    exponents = largest[:, None]
    rounded = ((magnitude + _top(r, 23 - MANTISSA)) >> (23 - MANTISSA)) - (_bottom(exponents) << MANTISSA)
    if POSITIVE:  # only 0 becomes 0
        codes = tl.minimum(tl.maximum(rounded, tl.minimum(magnitude, 1)), 255)
    else:
        codes = tl.minimum(tl.maximum(rounded, 0), 127) | ((bits >> 24) & 0x80)
    return tl.where(exponents < NOT_FINITE, codes, 255).to(tl.uint8), largest.to(tl.uint8)


@triton.jit
def _halved(x: tl.tensor, r: tl.tensor, POSITIVE: tl.constexpr) -> tl.tensor:
    """Rounded by the dither to bf16; a number stays one."""
    bits = _bits(x)
    magnitude = bits & MAGNITUDE
    rounded = (tl.minimum(magnitude, 0x7F7F0000) + _top(r, 16)) >> 16
    if POSITIVE:
        rounded = tl.minimum(tl.maximum(rounded, tl.minimum(magnitude, 1)), 0x7F7F)
    special = tl.where(magnitude > INFINITE, 0x7FC0, 0x7F80)
    return _halves(tl.where(magnitude >= INFINITE, special, rounded) | ((bits >> 16) & 0x8000))


@triton.jit
def load(array: tl.tensor, exponents: tl.tensor, at: tl.tuple, POSITIVE: tl.constexpr, BITS: tl.constexpr) -> tl.tensor:
    """What is stored of m, or of s and s_max, which are POSITIVE."""
    i, inside, block, there = at
    x = tl.load(array + i, inside)
    if BITS == 8:
        x = _decoded(x, tl.load(exponents + block, there), POSITIVE)
    elif BITS == 16:
        x = _number(_upper(x) << 16)
    return x


@triton.jit
def store(
    array: tl.tensor,
    exponents: tl.tensor,
    x: tl.tensor,
    at: tl.tuple,
    r: tl.tensor,
    POSITIVE: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Stores m, or s and s_max."""
    i, inside, block, there = at
    if not POSITIVE and BITS < 32:
        r += AHEAD_M
    if BITS == 8:
        x, largest = _encoded(x, inside, r, POSITIVE)
        tl.store(exponents + block, largest, there)
    elif BITS == 16:
        x = _halved(x, r, POSITIVE)
    tl.store(array + i, x, inside)


@triton.jit
def load_weights(p: tl.tensor, rest: tl.tensor, i: tl.tensor, inside: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Weights, joined with their rest where more than 16 BITS of them are kept."""
    x = tl.load(p + i, inside)
    if BITS == 16:
        x = _number(_upper(x) << 16)
    elif BITS > 16:
        halves = _upper(x)
        upper = (halves & 0x7FFF) << 16
        magnitude = upper + (tl.load(rest + i, inside).to(tl.int32) << (32 - BITS))
        magnitude = tl.where(upper < INFINITE, tl.minimum(tl.maximum(magnitude, 0), INFINITE - 1), upper)
        x = _number(magnitude | ((halves >> 31) << 31))
    return x


@triton.jit
def store_weights(
    p: tl.tensor, rest: tl.tensor, x: tl.tensor, i: tl.tensor, inside: tl.tensor, r: tl.tensor, BITS: tl.constexpr
) -> None:
    """Stores weights in bf16: in 16 BITS rounded by the dither, else to the nearest, and what is left of them."""
    r += AHEAD_P
    if BITS == 16:
        tl.store(p + i, _halved(x, r, False), inside)
    else:
        bits = _bits(x)
        magnitude = bits & MAGNITUDE
        number = magnitude < INFINITE
        if BITS == 24:
            cut = ((tl.minimum(magnitude, 0x7F7FFF00) + _top(r, 8)) >> 8) << 8
            magnitude = tl.where(number, cut, magnitude)
        halves = (tl.minimum(magnitude, INFINITE) + 0x8000) >> 16
        left = tl.where(number, (magnitude - (halves << 16)) >> (32 - BITS), 0)
        halves = tl.where(magnitude > INFINITE, 0x7FC0, halves) | ((bits >> 16) & 0x8000)
        tl.store(p + i, _halves(halves), inside)
        tl.store(rest + i, left.to(rest.dtype.element_ty), inside)
