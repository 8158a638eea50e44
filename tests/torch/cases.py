"""The tables of cases: option mixes, element types, sizes, layouts and implementations."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adabelief
from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch
from tests.mixes import CENTRALIZATIONS, DECAYS, SIGNS, mixes, mixes_without


def named(name: str, options: dict[str, Any]) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """A mix of the shared table, in PyTorch's names."""
    theirs = {"adaptive_from": "N_sma_threshhold"}
    return getattr(adabelief, name), {theirs.get(option, option): value for option, value in options.items()}


RANGER = {f"Ranger-{name}": o | {"lr": 1e-2, "k": 3} for name, o in mixes(DECAYS, CENTRALIZATIONS, SIGNS).items()}
"""All of them: they are as many variants of the kernels."""

MIXES = {mix: named(*each) for mix, each in mixes_without("gc_outputs_last").items()}
MIXES |= {mix: named("RangerAdaBelief", options) for mix, options in RANGER.items()}

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = {0: (0, 3), 1: (1, 1), 7: (7, 1), 1024: (32, 32), 4097: (17, 241)}
LAYOUTS = ("contiguous", "transposed", "sliced")


def tensor(size: int, layout: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal values of a size in {0, 1, 7, 1024, 4097} and a layout."""
    if layout == "contiguous":
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    rows, columns = SIZES[size]
    if layout == "transposed":
        return torch.randn(columns, rows, generator=generator, dtype=torch.float64).to(dtype).t()
    return torch.randn(rows, 2 * columns, generator=generator, dtype=torch.float64).to(dtype)[:, ::2]


def parameters(dtype: torch.dtype, turn: int | None = None) -> list[torch.nn.Parameter]:
    """One parameter for every size and layout, a 0-dim one and a convolution's weight.

    With a `turn` each size has one layout; with the next turn, the next one.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [*product(SIZES, LAYOUTS)]
    if turn is not None:
        pairs = [(size, LAYOUTS[(turn + i) % len(LAYOUTS)]) for i, size in enumerate(SIZES)]
    tensors = [tensor(size, layout, dtype, generator) for size, layout in pairs]
    tensors += [torch.tensor(1.5, dtype=dtype), torch.randn(4, 2, 3, 3, generator=generator).to(dtype)]
    return [torch.nn.Parameter(x) for x in tensors]


OURS = [AdaBelief, AdaBeliefW, RangerAdaBelief]
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}


def parameter(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    )


def same(params, others):
    return all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def skip_without_kernel(options: dict[str, Any]) -> None:
    if options.get("fused") and (reason := launch.unserved("cpu")):
        pytest.skip(reason)
