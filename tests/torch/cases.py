"""The table of cases: option mixes, element types, sizes and layouts."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from adabelief import AdaBelief, RangerAdaBelief
from tests.mixes import CENTRALIZATIONS, DECAYS, RECTIFICATIONS, SIGNS, mixes

MIXES = {
    **{
        f"AdaBelief-{name}": (AdaBelief, o | {"lr": 1e-2, "eps": 1e-8})
        for name, o in mixes(DECAYS, RECTIFICATIONS, SIGNS).items()
    },
    **{
        f"Ranger-{name}": (RangerAdaBelief, o | {"lr": 1e-2, "k": 3})
        for name, o in mixes(DECAYS, CENTRALIZATIONS, SIGNS).items()
    },
    "AdaBelief-beta1=0": (AdaBelief, {"lr": 1e-2, "betas": (0.0, 0.999)}),
    "AdaBelief-beta1=0-rectified": (AdaBelief, {"lr": 1e-2, "betas": (0.0, 0.99), "rectify": True}),
    "AdaBelief-beta2=0": (AdaBelief, {"lr": 1e-2, "betas": (0.9, 0.0), "eps": 1e-2}),
    "AdaBelief-lr=0": (AdaBelief, {"lr": 0.0, "weight_decay": 0.1}),
    "AdaBelief-defaults": (AdaBelief, {}),
    "Ranger-defaults": (RangerAdaBelief, {}),
    "Ranger-alpha=0": (RangerAdaBelief, {"alpha": 0.0, "k": 2}),
    "Ranger-threshold=4": (RangerAdaBelief, {"N_sma_threshhold": 4, "k": 1}),
}

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


def parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """One parameter for every size and layout, a 0-dim one and a convolution's weight."""
    generator = torch.Generator().manual_seed(0)
    tensors = [tensor(size, layout, dtype, generator) for size, layout in product(SIZES, LAYOUTS)]
    tensors += [torch.tensor(1.5, dtype=dtype), torch.randn(4, 2, 3, 3, generator=generator).to(dtype)]
    return [torch.nn.Parameter(x) for x in tensors]
