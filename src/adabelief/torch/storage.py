"""How the state of a parameter is stored: in float32, in 16 bits (bf16), or in codes of 8 with exponents beside them.

The update never learns of it: `opened` gives a bucket with its state in float32, which is the stored tensor itself
where that is float32, and `close` takes it back after the step. The kernels do the same by the tile. What codes are,
and how they are rounded, is in adabelief/codes.py.

Codes have the shape of their parameter, exponents that of (rows, blocks of a row), where a row is p[i], and of a
parameter with one dimension each BLOCK of its elements: they are sharded along the first dimension, saved and loaded as
any other state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adabelief import codes
from adabelief.kernels.layout import BLOCK, EXPONENTS, M_CODES, M_HALF, P_24, P_32, P_DITHERED, S_CODES, S_HALF, STATE
from adabelief.torch import internals

if TYPE_CHECKING:
    from adabelief.torch.update import Options, Tensors

DTYPES = {16: torch.bfloat16, 8: torch.uint8}
"""Of what is stored in so many bits; state in 32 is as wide as its parameter."""

NARROW = {torch.float32, torch.bfloat16, torch.float16}
"""Types of parameters that are stepped in float32."""

RESTS = {24: torch.int8, 32: torch.int16}
"""Of what is left of a float32 in so many bits, beside its bf16."""

CODED = {*DTYPES.values(), *RESTS.values()}
"""Types that a checkpoint's tensors keep."""


def row_length(p: Tensor) -> int:
    """Elements of a row, which no block crosses: all where there is one dimension."""
    return _stride(p) if p.ndim > 1 else p.numel()


def exponents_shape(p: Tensor) -> tuple[int, int]:
    """Of the exponents of p's codes; p may be a part of the whole."""
    blocks = codes.blocks_of(row_length(p))
    return (p.shape[0], blocks) if p.ndim > 1 else (blocks, 1)


def decoded(x: Tensor, exponents: Tensor | None, column: str) -> Tensor:
    """The float32 that is stored; a tensor in float32, or wider, itself."""
    if x.dtype == torch.bfloat16:
        return x.float()
    if x.dtype != torch.uint8 or exponents is None:
        return x
    part = internals.part(x) if internals.is_distributed(x) else x
    rows, each = _rows(part), internals.part(exponents) if part is not x else exponents
    each = each.reshape(len(rows), codes.blocks_of(rows.shape[1]))
    values = codes.decode8(rows, each, column, torch).reshape(part.shape)
    return values if part is x else internals.distributed_as(x, values, x.shape)


def encode(x: Tensor, stored: Tensor, beside: Tensor | None, column: str, start: int, t: Any) -> None:
    """Stores x, float32, in place of what is there, rounded by the dither of step t.

    Args:
        x: What to store.
        stored: Where, in 16 or 8 bits.
        beside: And the exponents, of 8, or of weights the rest.
        column: Its name.
        start: The index of its first element in the whole tensor.
        t: Step number, or a tensor of it.
    """
    apart = None
    if internals.is_distributed(stored):
        start, apart = start + internals.start_of(stored), _stride(stored)
        x, stored = internals.part(x), internals.part(stored)
        beside = None if beside is None else internals.part(beside)
    if not stored.numel():
        return
    rows = _rows(x)
    r = codes.dither(column, rows.shape[0], rows.shape[1], start, t, torch, apart, device=x.device)
    if beside is None:
        stored.copy_(codes.encode16(rows, column, r, torch).view(torch.bfloat16).reshape(x.shape))
        return
    if column == "p":
        new, its = codes.split(rows, 24 if beside.dtype == torch.int8 else 32, r, torch)
        new = new.view(torch.bfloat16)
    else:
        new, its = codes.encode8(rows, column, r, torch)
    stored.copy_(new.reshape(x.shape))
    beside.copy_(its.reshape(beside.shape))


def bits_in(arrays: dict[str, Tensor]) -> tuple[int, int]:
    """In how many bits m and s are, of the arrays of one parameter by their names."""
    m, s = ({torch.uint8: 8, torch.bfloat16: 16}.get(arrays[column].dtype, 32) for column in ("m", "s"))
    return m, s


def master_bits(arrays: dict[str, Tensor]) -> int | None:
    """How many bits of a weight are kept, where there are more than its own."""
    return {torch.int8: 24, torch.int16: 32}[arrays["rest"].dtype] if "rest" in arrays else None


def flags(arrays: dict[str, Tensor], options: Options) -> int:
    """What a kernel is told of it."""
    m, s = bits_in(arrays)
    p = {None: P_DITHERED if options.dithered else 0, 24: P_24, 32: P_32}[master_bits(arrays)]
    return {32: 0, 16: M_HALF, 8: M_CODES}[m] | {32: 0, 16: S_HALF, 8: S_CODES}[s] | p


def coded(arrays: dict[str, Tensor], options: Options) -> bool:
    """Whether any of the arrays of one parameter is stored in another way than as its numbers, rounded to nearest."""
    return flags(arrays, options) != 0


def _none_coded(tensors: Tensors, options: Options) -> bool:
    """Whether `coded` is so of no tensor, asked of the lists as they are: of most there is nothing to open at all."""
    kept = (x.dtype for column in ("m", "s") for x in tensors.columns[column])
    return not (options.dithered or tensors.columns.get("rest") or any(dtype in CODED for dtype in kept))


def fits(arrays: dict[str, Tensor], dtype: torch.dtype, options: Options) -> bool:
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
    if not coded(arrays, options):
        return True
    # elements are counted, and blocks lie, in the order of dimensions; kernels go by that of memory
    widened = options.dithered or "rest" in arrays
    return p.is_contiguous() and p.dtype in ({torch.bfloat16} if widened else NARROW)


def _are_exponents(x: Tensor, p: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.shape == exponents_shape(p) and x.is_contiguous()


def opened(tensors: Tensors, options: Options) -> Tensors:
    """The tensors with their state in float32, and so their weights where these are more than their own bits."""
    if _none_coded(tensors, options):
        return tensors
    arrays = [tensors.at(i) for i in range(len(tensors.params))]
    columns = {name: list(tensors.columns[name]) for name in STATE}
    for column, name in EXPONENTS.items():
        columns[column] = [decoded(each[column], each.get(name), column) for each in arrays if column in each]
    params = [weights(each) if options.dithered or "rest" in each else each["p"] for each in arrays]
    return tensors._replace(params=params, columns=columns)


def close(tensors: Tensors, floats: Tensors, t: Any) -> None:
    """Stores what `opened` gave and a step has changed.

    Args:
        tensors: As they were given to `opened`.
        floats: What it gave.
        t: Step number of all, or a list of tensors, one of each.
    """
    if floats is tensors:
        return
    for i in range(len(tensors.params)):
        stored, changed = tensors.at(i), floats.at(i)
        for column in ("p", *EXPONENTS):
            if column in stored and changed[column] is not stored[column]:
                beside = stored.get("rest" if column == "p" else EXPONENTS[column])
                number = t[i] if isinstance(t, list) else t
                encode(changed[column], stored[column], beside, column, _start(tensors, i), number)


def weights(arrays: dict[str, Tensor]) -> Tensor:
    """The weights of one parameter in float32, with their rest where there is one."""
    p, bits = arrays["p"], master_bits(arrays)
    if bits is None:
        return p.float()
    part, rest = (internals.part(x) if internals.is_distributed(x) else x for x in (p, arrays["rest"]))
    x = codes.join(_rows(part).view(torch.int16), _rows(rest), bits, torch).reshape(part.shape)
    return internals.distributed_as(p, x, p.shape) if part is not p else x


def cut(tensors: Tensors, options: Options, limit: int) -> tuple[Tensors, list[int]]:
    """The tensors with large coded ones in pieces of whole rows, views of them, and which tensor each piece is of.

    Args:
        tensors: Plain ones; distributed ones stay whole.
        options: Theirs.
        limit: Bytes in float32 of a piece, if it has more than one row.
    """
    if _none_coded(tensors, options):
        return tensors, list(range(len(tensors.params)))
    arrays = [tensors.at(i) for i in range(len(tensors.params))]
    spans = [_spans(each["p"], limit) if coded(each, options) else [None] for each in arrays]
    pieces = [(i, span) for i, its in enumerate(spans) for span in its]

    def each(xs: list[Any], exponents: bool = False) -> list[Any]:
        return [_piece(xs[i], tensors.params[i], span, exponents) for i, span in pieces] if xs else []

    columns = {name: each(xs, name in EXPONENTS.values()) for name, xs in tensors.columns.items()}
    starts = [_start(tensors, i) + (span.start * _stride(tensors.params[i]) if span else 0) for i, span in pieces]
    steps = [tensors.steps[i] for i, _ in pieces] if tensors.steps else []
    whole = tensors._replace(columns=columns, starts=starts, steps=steps)
    return whole._replace(params=each(tensors.params), grads=each(tensors.grads)), [i for i, _ in pieces]


def _spans(p: Tensor, limit: int) -> list[slice | None]:
    """Which rows of a parameter are taken at a time; None: all that there are."""
    if p.ndim == 0 or p.numel() * 4 <= limit or internals.is_distributed(p):
        return [None]
    row = _stride(p) if p.ndim > 1 else BLOCK
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
    return math.prod(p.shape[1:])


def _start(tensors: Tensors, i: int) -> int:
    return tensors.starts[i] if tensors.starts else 0


def _rows(x: Tensor) -> Tensor:
    """(rows, elements of a row), in the order of dimensions whatever the memory's is."""
    return x.reshape(x.shape[0], _stride(x)) if x.ndim > 1 else x.reshape(1, -1)
