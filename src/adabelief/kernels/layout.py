"""What a kernel reads and writes: the columns of a tensor, the scalars of a step, flags and types. The only such table.

cpu.c has the same lists, since C cannot read this one, and is refused where they differ; the Triton kernel and
`adabelief.torch` take them from here by name.
"""

from __future__ import annotations

STATE = ("m", "s", "s_max", "slow")
"""The arrays of a tensor's state: the mean, s, the largest s so far, Lookahead's slow weights."""

ARRAYS = ("p", "g", *STATE)
"""All arrays of a tensor, by address; 0 where one is not used."""

COLUMNS = (*ARRAYS, "elements", "rows")
"""A row of a kernel's table: addresses, how many elements, and how many rows where they are centralized (else 0)."""

PLACES = ("p", *STATE, "elements", "first_chunk", "first_mean", "row_length", "chunks", "rows")
"""A row of the GPU's table, which has addresses that seldom move apart from the gradients': then how many elements, how
many chunks and means of rows the arrays before it have, the elements of one of its rows (0: none is centralized), and
how many chunks and rows it has itself."""

SCALARS = (
    *("gain", "shrink", "l2", "mean_gain", "beta2", "belief_gain", "eps"),
    *("step_size", "root_scale", "offset", "bound", "alpha", "synchronize", "skip"),
)
"""The numbers of a step: what the gradient is multiplied by, those of `rule.Coefficients`, Lookahead's share and
whether it is due, and whether nothing at all is to happen (both: not 0)."""

AMSGRAD, LOOKAHEAD, CENTRALIZED_STEPS = 1, 2, 4
"""Flags: the columns s_max and slow take part; what is centralized are steps instead of gradients."""

TYPES = ("float32", "float64", "bfloat16", "float16")
"""Element types of p and g; state and arithmetic are in float32 for the narrow ones, else in the same type."""
