"""How the state of a parameter is stored: in float32, in 16 bits (bf16), or in codes of 8 with exponents beside them.

The update never learns of it: `opened` gives a bucket with its state in float32, which is the stored tensor itself
where that is float32, and `close` takes it back after the step. The kernels do the same by the tile. What codes are,
and how they are rounded, is in adabelief/codes.py.

Codes have the shape of their parameter, exponents that of (rows, blocks of a row), where a row is p[i], and of a
parameter with one dimension each BLOCK of its elements: they are sharded along the first dimension, saved and loaded as
any other state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adabelief import codes
from adabelief.kernels.layout import BLOCK, EXPONENTS, M_CODES, M_HALF, S_CODES, S_HALF, STATE
from adabelief.torch import internals

if TYPE_CHECKING:
    from adabelief.torch.update import Tensors

BITS = (32, 16, 8)

DTYPES = {16: torch.bfloat16, 8: torch.uint8}
"""Of what is stored in so many bits; state in 32 is as wide as its parameter."""

LEAST_ELEMENTS, LEAST_ROW = 4096, 64
"""Tensors with fewer elements, or shorter rows, stay as they are: there is nothing to save."""


def pair(state_bits: Any) -> tuple[int, int]:
    """The bits of m and of s that an option asks for.

    Raises:
        ValueError: If it is neither one of BITS nor a pair of them.
    """
    both = state_bits if isinstance(state_bits, (tuple, list)) else (state_bits, state_bits)
    if len(both) != 2 or any(type(bits) is not int or bits not in BITS for bits in both):
        raise ValueError(
            f"state_bits must be 32, 16 or 8, or a pair of them for exp_avg and exp_avg_var, got {state_bits!r}; "
            "(16, 8) for example"
        )
    m, s = both
    return m, s


def check(group: dict[str, Any]) -> None:
    """Raises ValueError where a group's state cannot be stored as it asks."""
    if pair(group["state_bits"]) != (32, 32) and group["differentiable"]:
        raise ValueError(
            f"state_bits={group['state_bits']!r} and differentiable=True exclude each other, since autograd cannot "
            "follow a rounding; use state_bits=32"
        )


def described(group: dict[str, Any]) -> list[str]:
    """What a group's repr says of it: how many tensors keep their state in float32, or wider."""
    if pair(group["state_bits"]) == (32, 32):
        return []
    whole = sum(not codable(p) for p in group["params"])
    return [f"    state in float32: that of {whole} of {len(group['params'])} tensors (short rows, or few elements)"]


def bits_of(p: Tensor, column: str, state_bits: Any) -> int:
    """In how many bits a column of p's state is to be stored."""
    if column not in EXPONENTS or not codable(p):
        return 32
    m, s = pair(state_bits)
    return m if column == "m" else s


def codable(p: Tensor) -> bool:
    """Whether p's state may be in fewer bits: it is large, real and not double, and no row is spread over processes."""
    narrow = p.is_floating_point() and p.dtype != torch.float64
    if not narrow or p.numel() < LEAST_ELEMENTS or row_length(p) < LEAST_ROW:
        return False
    if not internals.is_distributed(p):
        return True
    # a part of a parameter with one dimension may begin within a block
    return p.ndim > 1 and all(x.is_replicate() or x.is_shard(0) for x in internals.placements(p))


def row_length(p: Tensor) -> int:
    """Elements of a row, which no block crosses: all where there is one dimension."""
    return _stride(p) if p.ndim > 1 else p.numel()


def exponents_shape(p: Tensor) -> tuple[int, int]:
    """Of the exponents of p's codes; p may be a part of the whole."""
    blocks = codes.blocks_of(row_length(p))
    return (p.shape[0], blocks) if p.ndim > 1 else (blocks, 1)


def zeros(p: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """A column of zeros for p in 16 or 8 bits, and its exponents where there are any."""
    exponents = None
    if bits == 8:
        part = internals.part(p) if internals.is_distributed(p) else p
        exponents = torch.zeros(exponents_shape(part), dtype=torch.uint8, device=part.device)
        if part is not p:
            exponents = internals.distributed_as(p, exponents, exponents_shape(p))
    return torch.zeros_like(p, dtype=DTYPES[bits], memory_format=torch.preserve_format), exponents


def decoded(x: Tensor, exponents: Tensor | None, column: str) -> Tensor:
    """The float32 that is stored; a tensor in float32, or wider, itself."""
    if x.dtype == torch.bfloat16:
        return x.float()
    if x.dtype != torch.uint8 or exponents is None:
        return x
    part = internals.part(x) if internals.is_distributed(x) else x
    rows, each = _rows(part), internals.part(exponents) if part is not x else exponents
    values = codes.decode8(rows, each.reshape(len(rows), -1), column, torch).reshape(part.shape)
    return values if part is x else internals.distributed_as(x, values, x.shape)


def encode(x: Tensor, stored: Tensor, exponents: Tensor | None, column: str, start: int, t: Any) -> None:
    """Stores x, float32, in place of what is there, rounded by the dither of step t.

    Args:
        x: What to store.
        stored: Where, in 16 or 8 bits.
        exponents: And the exponents, of 8.
        column: Its name.
        start: The index of its first element in the whole tensor.
        t: Step number, or a tensor of it.
    """
    if internals.is_distributed(stored):
        start += internals.start_of(stored)
        x, stored = internals.part(x), internals.part(stored)
        exponents = None if exponents is None else internals.part(exponents)
    if not stored.numel():
        return
    rows = _rows(x)
    r = codes.dither(column, *rows.shape, start, t, torch, device=x.device)
    if exponents is None:
        stored.copy_(codes.encode16(rows, column, r, torch).view(torch.bfloat16).reshape(x.shape))
    else:
        new, its_exponents = codes.encode8(rows, column, r, torch)
        stored.copy_(new.reshape(x.shape))
        exponents.copy_(its_exponents.reshape(exponents.shape))


def stored_as(state: dict[str, Any], p: Tensor, column: str, names: dict[str, str], bits: int) -> None:
    """Has a column of a parameter's state stored in so many bits: zeros to begin with, or else what is there.

    Args:
        state: The parameter's.
        p: The parameter.
        column: Of EXPONENTS.
        names: What the state calls columns.
        bits: Of BITS.
    """
    name, its_exponents = names[column], names[EXPONENTS[column]]
    x, exponents = state.get(name), state.get(its_exponents)
    wide = torch.promote_types(p.dtype, torch.float32)
    if x is not None and x.dtype == DTYPES.get(bits, wide) and (exponents is not None) == (bits == 8):
        return
    values = None if x is None else decoded(x, exponents, column)
    state.pop(its_exponents, None)
    if bits == 32:
        zero = values is None
        state[name] = torch.zeros_like(p, dtype=wide, memory_format=torch.preserve_format) if zero else values.to(wide)
        return
    state[name], exponents = zeros(p, bits)
    if exponents is not None:
        state[its_exponents] = exponents
    if values is not None:
        encode(values.float(), state[name], exponents, column, 0, float(state.get("step", 0)))


def bits_in(arrays: dict[str, Tensor]) -> tuple[int, int]:
    """In how many bits m and s are, of the arrays of one parameter by their names."""
    m, s = ({torch.uint8: 8, torch.bfloat16: 16}.get(arrays[column].dtype, 32) for column in ("m", "s"))
    return m, s


def flags(arrays: dict[str, Tensor]) -> int:
    """What a kernel is told of it."""
    m, s = bits_in(arrays)
    return {32: 0, 16: M_HALF, 8: M_CODES}[m] | {32: 0, 16: S_HALF, 8: S_CODES}[s]


def fits(arrays: dict[str, Tensor], dtype: torch.dtype) -> bool:
    """Whether a kernel takes the arrays of a parameter as they are stored; `dtype` is that of its state in 32 bits."""
    p = arrays["p"]
    m, s = bits_in(arrays)
    for name, bits in {"m": m, "s": s, "s_max": s, "slow": 32}.items():
        exponents = arrays.get(EXPONENTS.get(name, ""))
        if name in arrays and arrays[name].dtype != DTYPES.get(bits, dtype):
            return False
        if (exponents is not None) != (bits == 8 and name in arrays):
            return False
        if exponents is not None and not _are_exponents(exponents, p):
            return False
    # blocks are in the order of dimensions, and kernels in that of memory
    return (m, s) == (32, 32) or (dtype == torch.float32 and p.is_contiguous() and p.device.type == "cpu")


def _are_exponents(x: Tensor, p: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.shape == exponents_shape(p) and x.is_contiguous()


def opened(tensors: Tensors) -> Tensors:
    """The tensors with their state in float32."""
    if not coded(tensors):
        return tensors
    columns = {name: list(tensors.columns[name]) for name in STATE}
    for column, name in EXPONENTS.items():
        exponents = tensors.columns.get(name) or [None] * len(tensors.params)
        columns[column] = [decoded(x, e, column) for x, e in zip(columns[column], exponents, strict=False)]
    return tensors._replace(columns=columns)


def close(tensors: Tensors, floats: Tensors, t: Any) -> None:
    """Stores the state that `opened` gave and a step has changed.

    Args:
        tensors: As they were given to `opened`.
        floats: What it gave.
        t: Step number of all, or a list of tensors, one of each.
    """
    if floats is tensors:
        return
    for column, name in EXPONENTS.items():
        for i, (stored, x) in enumerate(zip(tensors.columns[column], floats.columns[column], strict=True)):
            if x is not stored:
                exponents = (tensors.columns.get(name) or [None] * (i + 1))[i]
                encode(x, stored, exponents, column, _start(tensors, i), t[i] if isinstance(t, list) else t)


def coded(tensors: Tensors) -> bool:
    """Whether any of the state is not in float32, or as wide as its parameter."""
    return any(x.dtype in (torch.uint8, torch.bfloat16) for column in ("m", "s") for x in tensors.columns[column])


def cut(tensors: Tensors, limit: int) -> tuple[Tensors, list[int]]:
    """The tensors with large coded ones in pieces of whole rows, views of them, and which tensor each piece is of.

    Args:
        tensors: Plain ones; distributed ones stay whole.
        limit: Bytes in float32 of a piece, if it has more than one row.
    """
    if not coded(tensors):
        return tensors, list(range(len(tensors.params)))
    pieces = [(i, span) for i in range(len(tensors.params)) for span in _spans(tensors.at(i), limit)]

    def each(xs: list[Any], exponents: bool = False) -> list[Any]:
        return [_piece(xs[i], tensors.params[i], span, exponents) for i, span in pieces] if xs else []

    columns = {name: each(xs, name in EXPONENTS.values()) for name, xs in tensors.columns.items()}
    starts = [_start(tensors, i) + (span.start * _stride(tensors.params[i]) if span else 0) for i, span in pieces]
    steps = [tensors.steps[i] for i, _ in pieces] if tensors.steps else []
    whole = tensors._replace(columns=columns, starts=starts, steps=steps)
    return whole._replace(params=each(tensors.params), grads=each(tensors.grads)), [i for i, _ in pieces]


def _spans(arrays: dict[str, Tensor], limit: int) -> list[slice | None]:
    """Which rows are taken at a time; None: all that there are."""
    p = arrays["p"]
    row = _stride(p) if p.ndim > 1 else BLOCK
    if bits_in(arrays) == (32, 32) or internals.is_distributed(p) or p.numel() * 4 <= limit:
        return [None]
    rows = max(1, limit // 4 // row) * (1 if p.ndim > 1 else BLOCK)
    return [slice(begin, begin + rows) for begin in range(0, len(p), rows)]


def _piece(x: Tensor | None, p: Tensor, span: slice | None, exponents: bool) -> Tensor | None:
    """The rows of an array; where p has one dimension, BLOCK of its elements have one of the exponents."""
    if x is None or span is None:
        return x
    if exponents and p.ndim == 1:
        span = slice(span.start // BLOCK, span.stop // BLOCK)
    return x[span]


def _stride(p: Tensor) -> int:
    """Elements from p[i] to p[i + 1], as they are counted."""
    return p.numel() // max(1, p.shape[0])


def _start(tensors: Tensors, i: int) -> int:
    return tensors.starts[i] if tensors.starts else 0


def _rows(x: Tensor) -> Tensor:
    """(rows, elements of a row), in the order of dimensions whatever the memory's is."""
    return x.reshape(x.shape[0], -1) if x.ndim > 1 else x.reshape(1, -1)
