"""Where a GPU finds what it steps, in Triton: an array's row of PLACES, and what of it a chunk is.

A chunk has BLOCK elements, or as many of whole blocks that SHARE an exponent where the state is in codes of 8 bits.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from adabelief.kernels import layout
from adabelief.kernels.layout import PLACES

P, M, S, S_MAX = (tl.constexpr(PLACES.index(name)) for name in ("p", "m", "s", "s_max"))
SLOW, REST, M_EXPONENTS = (tl.constexpr(PLACES.index(name)) for name in ("slow", "rest", "m_exponents"))
S_EXPONENTS, S_MAX_EXPONENTS = (tl.constexpr(PLACES.index(name)) for name in ("s_exponents", "s_max_exponents"))
ELEMENTS, FIRST_CHUNK = (tl.constexpr(PLACES.index(name)) for name in ("elements", "first_chunk"))
ROW_LENGTH, FIRST = (tl.constexpr(PLACES.index(name)) for name in ("row_length", "first"))
FIRST_MEAN, MEAN_LENGTH = (tl.constexpr(PLACES.index(name)) for name in ("first_mean", "mean_length"))
WIDTH = tl.constexpr(len(PLACES))
SHARED = tl.constexpr(layout.BLOCK)


@triton.jit
def array_at(address: tl.tensor, start: tl.tensor, T: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """A pointer to the element `start` of the array of type T at an address."""
    array = address.to(tl.pointer_type(T))
    if ALIGNED:  # the compiler cannot know it of a number that it finds in memory
        array = tl.multiple_of(array, 16)
    return array + start


@triton.jit
def addresses(place: tl.tensor, gradient: tl.tensor) -> tl.tuple:
    """Of all arrays but the exponents."""
    p, g, m, s = tl.load(place + P), tl.load(gradient), tl.load(place + M), tl.load(place + S)
    return p, g, m, s, tl.load(place + S_MAX), tl.load(place + SLOW), tl.load(place + REST)


@triton.jit
def odd(arrays: tl.tuple, P_BITS: tl.constexpr) -> tl.tensor:
    """Whether the address of an array is not divisible by 16: not 0."""
    p, g, m, s, s_max, slow, rest = arrays
    together = p | g | m | s | s_max | slow
    if P_BITS > 16:
        together |= rest
    return together % 16


@triton.jit
def pointers(
    arrays: tl.tuple,
    start: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    M_BITS: tl.constexpr,
    S_BITS: tl.constexpr,
    P_BITS: tl.constexpr,
) -> tl.tuple:
    """To the element `start` of each array."""
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    M_TYPE: tl.constexpr = tl.uint8 if M_BITS == 8 else tl.bfloat16 if M_BITS == 16 else R
    S_TYPE: tl.constexpr = tl.uint8 if S_BITS == 8 else tl.bfloat16 if S_BITS == 16 else R
    REST_TYPE: tl.constexpr = tl.int8 if P_BITS == 24 else tl.int16
    p, g, m, s, s_max, slow, rest = arrays
    p, g = array_at(p, start, T, ALIGNED), array_at(g, start, T, ALIGNED)
    m, s = array_at(m, start, M_TYPE, ALIGNED), array_at(s, start, S_TYPE, ALIGNED)
    s_max, slow = array_at(s_max, start, S_TYPE, ALIGNED), array_at(slow, start, R, ALIGNED)
    return p, g, m, s, s_max, slow, array_at(rest, start, REST_TYPE, ALIGNED)


@triton.jit
def exponents_at(place: tl.tensor, COLUMN: tl.constexpr) -> tl.tensor:
    """A pointer to the exponents of a place, which COLUMN names."""
    return tl.load(place + COLUMN).to(tl.pointer_type(tl.uint8))


@triton.jit
def blocks_of(length: tl.tensor) -> tl.tensor:
    """How many blocks a row has."""
    return (length + SHARED - 1) // SHARED


@triton.jit
def _begin(block: tl.tensor, length: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """A block's first element, its row, and the elements that are left of that."""
    per_row = blocks_of(length).to(tl.int32)
    row = block // per_row
    across = (block - row * per_row).to(tl.int64) * SHARED
    return row.to(tl.int64) * length + across, row, length - across


@triton.jit
def blocks_at(place: tl.tensor, chunk: tl.tensor, ALIGNED: tl.constexpr, BLOCK: tl.constexpr) -> tl.tuple:
    """The first element of a chunk of blocks; where those after it are, as `load` takes it; and the blocks' rows."""
    length, elements = tl.load(place + ROW_LENGTH), tl.load(place + ELEMENTS)
    first = chunk.to(tl.int32) * (BLOCK // SHARED)
    block = first + tl.arange(0, BLOCK // SHARED)
    start, _, _ = _begin(first, length)
    begin, row, left = _begin(block, length)
    there = begin < elements
    size = tl.minimum(tl.minimum(left, elements - begin), SHARED).to(tl.int32)
    begin = (begin - start).to(tl.int32)
    if ALIGNED:  # as in `array_at`
        start, begin, size = start // 8 * 8, begin // 8 * 8, size // 8 * 8
    along = tl.arange(0, SHARED)[None, :]
    return start, begin[:, None] + along, along < size[:, None], block, there, row


@triton.jit
def rows_at(place: tl.tensor, start: tl.tensor, BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The centralized row of the first element of a chunk, and how many rows after it each element is."""
    length = tl.load(place + MEAN_LENGTH)
    row = start // tl.maximum(length, 1)
    left = tl.minimum((row + 1) * length - start, BLOCK).to(tl.int32)
    length = tl.minimum(length, BLOCK).to(tl.int32)  # no longer row ends twice in a chunk
    i = tl.arange(0, BLOCK)
    return row, tl.where(i < left, 0, (i - left) // tl.maximum(length, 1) + 1)
