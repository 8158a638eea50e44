"""What a kernel reads and writes: the columns of a tensor, the scalars of a step, flags and types. The only such table.

cpu.c has the same lists, since C cannot read this one, and is refused where they differ; the Triton kernel and
`adabelief.torch` take them from here by name.
"""

from __future__ import annotations

STATE = ("m", "s", "s_max", "slow", "rest")
"""The arrays of a tensor's state: the mean, s, the largest s so far, Lookahead's slow weights, p's low bits."""

EXPONENTS = {"m": "m_exponents", "s": "s_exponents", "s_max": "s_max_exponents"}
"""The arrays that a column has beside it where it is in codes of 8 bits (see adabelief/codes.py)."""

KEPT = (*STATE, *EXPONENTS.values())
"""All arrays that are kept from step to step."""

ARRAYS = ("p", "g", *KEPT)
"""All arrays of a tensor, by address; 0 where one is not used."""

COLUMNS = (*ARRAYS, "elements", "rows", "row_length", "first")
"""A row of a kernel's table: addresses, how many elements, and how many rows where they are centralized (else 0). Where
the state is in codes, how many elements a row has, which blocks do not cross, and the first one's index in the whole
tensor, of which the array is a part."""


def row(**columns: int) -> list[int]:
    """A row by the names of its columns; what is not named is 0."""
    return [columns.get(name, 0) for name in COLUMNS]


PLACES = ("p", *KEPT, "elements", "row_length", "first", "first_chunk", "first_mean", "mean_length", "chunks", "rows")
"""A row of the GPU's table, which has addresses that seldom move apart from the gradients: then columns as above, how
many chunks and means of rows the arrays before it have, the elements that a mean is of (0: no row is centralized), and
how many chunks and centralized rows it has itself."""

SCALARS = (
    *("gain", "shrink", "l2", "mean_gain", "beta2", "belief_gain", "eps"),
    *("step_size", "root_scale", "offset", "bound", "alpha", "synchronize", "skip", "t"),
)
"""The numbers of a step: what the gradient is multiplied by, those of `rule.Coefficients`, Lookahead's share and
whether it is due, whether nothing at all is to happen (both: not 0), and the step number, for what is rounded."""

AMSGRAD, LOOKAHEAD, CENTRALIZED_STEPS = 1, 2, 4
"""Flags: the columns s_max and slow take part; what is centralized are steps instead of gradients."""

M_HALF, M_CODES, S_HALF, S_CODES = 8, 16, 32, 64
"""Flags: m is in 16 bits (bf16), or in codes of 8; and so are s and s_max."""

P_DITHERED, P_24, P_32 = 128, 256, 512
"""Flags: p, of type bfloat16, is rounded by the dither; or has its low bits in `rest`, 24 or 32 with its own."""

BLOCK = 256
"""Elements that share an exponent in 8 bits, at most: neighbours within a row."""

DITHER_A, DITHER_B = 0x9E3779B1, 0x61C88647
"""What an element's index and the step are multiplied by in the dither; odd, near golden-ratio fractions of 2^32."""

TYPES = ("float32", "float64", "bfloat16", "float16")
"""Element types of p and g; state and arithmetic are in float32 for the narrow ones, else in the same type."""
