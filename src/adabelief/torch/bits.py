"""In how many bits a group asks for its state and its weights to be kept; how they begin, and follow to other bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adabelief.kernels.layout import EXPONENTS
from adabelief.options import items
from adabelief.torch import internals
from adabelief.torch.storage import DTYPES, RESTS, decoded, encode, exponents_shape, row_length

BITS = (32, 16, 8)

LEAST_ELEMENTS, LEAST_ROW = 4096, 64
"""Tensors with fewer elements, or shorter rows, stay as they are: there is nothing to save."""


def pair(state_bits: Any) -> tuple[int, int]:
    """The bits of m and of s that an option asks for.

    Raises:
        ValueError: If it is neither one of BITS nor a pair of them.
    """
    both = items(state_bits) or (state_bits, state_bits)
    if len(both) != 2 or any(type(bits) is not int or bits not in BITS for bits in both):
        raise ValueError(
            f"state_bits must be 32, 16 or 8, or a pair of them for exp_avg and exp_avg_var, got {state_bits!r}; "
            "(16, 8) for example"
        )
    m, s = both
    return m, s


def check(group: dict[str, Any]) -> None:
    """Raises ValueError where a group's state or weights cannot be stored as it asks."""
    master, dithered = group["master_weight_bits"], group["stochastic_rounding"]
    if master not in (None, *RESTS) or isinstance(master, bool):
        raise ValueError(f"master_weight_bits must be 24, 32 or None, got {master!r}")
    if master and dithered:
        raise ValueError(
            f"master_weight_bits={master} and stochastic_rounding=True exclude each other: weights with master bits "
            "lose nothing; leave one of them out"
        )
    for name in ("state_bits", "master_weight_bits", "stochastic_rounding"):
        asked = pair(group[name]) != (32, 32) if name == "state_bits" else group[name]
        if asked and group["differentiable"]:
            raise ValueError(
                f"{name}={group[name]!r} and differentiable=True exclude each other, since autograd cannot follow a "
                f"rounding; leave {name} out"
            )


def check_parameters(group: dict[str, Any]) -> None:
    """Raises ValueError for parameters whose state or weights cannot be stored as their group asks."""
    for name, least in (("state_bits", (32, 32)), ("master_weight_bits", None)):
        if (pair(group[name]) if least else group[name]) != least and any(map(internals.is_flat, group["params"])):
            raise ValueError(
                f"{name}={group[name]!r} needs the rows of a parameter, and FSDP1 makes flat pieces of them, whose "
                f"codes its checkpoints mix up; use FSDP2 (fully_shard), which keeps shapes, or leave {name} out"
            )
    for name in ("master_weight_bits", "stochastic_rounding"):
        for p in group["params"] if group[name] else ():
            if p.dtype != torch.bfloat16:
                raise ValueError(
                    f"{name}={group[name]!r} is for parameters in bfloat16, got one of shape {tuple(p.shape)} in "
                    f"{p.dtype}; convert it, or put it into a group of its own without {name}"
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
    return p.ndim > 1 and internals.cuts(p) <= {0}


def zeros(p: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """A column of zeros for p in 16 or 8 bits, and its exponents where there are any."""
    exponents = None
    if bits == 8:
        part = internals.part(p) if internals.is_distributed(p) else p
        exponents = torch.zeros(exponents_shape(part), dtype=torch.uint8, device=part.device)
        if part is not p:
            exponents = internals.distributed_as(p, exponents, exponents_shape(p))
    return torch.zeros_like(p, dtype=DTYPES[bits], memory_format=torch.preserve_format), exponents


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
        begun = torch.zeros_like(p, dtype=wide, memory_format=torch.preserve_format) if values is None else values
        state[name] = begun.to(wide)
        return
    state[name], exponents = zeros(p, bits)
    if exponents is not None:
        state[its_exponents] = exponents
    if values is not None:
        encode(values.float(), state[name], exponents, column, 0, float(state.get("step", 0)))


def rest_stored_as(state: dict[str, Any], p: Tensor, name: str, bits: int | None) -> None:
    """Has the rest of p's weights stored in the type of so many master bits: 0 to begin with, or else what is there."""
    rest = state.get(name)
    if bits is None:
        state.pop(name, None)
    elif rest is None:
        state[name] = torch.zeros_like(p, dtype=RESTS[bits], memory_format=torch.preserve_format)
    elif rest.dtype != RESTS[bits]:  # 24 bits have the upper half of the rest
        state[name] = (rest >> 8).to(torch.int8) if bits == 24 else rest.to(torch.int16) << 8
