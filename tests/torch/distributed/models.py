"""What the matrix trains: a perceptron in float64, and a model whose gradients are the same to the bit everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perceptron(rows: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, rows), nn.Tanh(), nn.Linear(rows, rows), nn.Tanh(), nn.Linear(rows, 1)).double()


SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "rows": ((71, 300), 71),  # uneven over two and four processes, more than a block in a row
    "short": ((1, 6000), 1),  # empty in all processes but one
    "kernel": ((40, 3, 6, 6), 40),
    "columns": ((66, 600), 5000),  # by its columns in tensor parallelism; a long vector
}
"""Weight and bias of each piece of `Exact`."""


class Piece(nn.Module):
    """Weight and bias whose gradients are what `gradient` says: the loss is linear in them."""

    def __init__(self, index: int, shape: tuple[int, ...], bias: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(index)
        self.index = index
        self.weight = nn.Parameter(torch.randn(shape, generator=generator) / 16)
        self.bias = nn.Parameter(torch.randn(bias, generator=generator) / 16)

    def forward(self, seed: int) -> Tensor:
        return linear(self.weight, seed, 2 * self.index) + linear(self.bias, seed, 2 * self.index + 1)


class Exact(nn.Module):
    """Pieces of many kinds. Its gradients are small multiples of powers of two: exact in bf16, as are sums of eight."""

    def __init__(self) -> None:
        super().__init__()
        for index, (name, shapes) in enumerate(SHAPES.items()):
            self.add_module(name, Piece(index, *shapes))

    def forward(self, seed: int) -> Tensor:
        return torch.stack([piece(seed).float() for piece in self.children()]).sum()


def linear(p: Tensor, seed: int, index: int) -> Tensor:
    """A loss whose gradient is a fixed tensor of a seed, whichever part of p is here."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    generator = torch.Generator().manual_seed(1000 * seed + index)
    whole = torch.randint(-20, 21, p.shape, generator=generator) * 2.0 ** -torch.randint(
        4, 16, (len(p), *[1] * (p.ndim - 1)), generator=generator
    )
    if not isinstance(p, DTensor):
        return (p * whole.to(p.dtype)).sum()
    return (p * distribute_tensor(whole.to(p.dtype), p.device_mesh, p.placements)).sum().full_tensor()


def loss(module: nn.Module, seed: int, ways: int, part: int, exact: bool) -> Tensor:
    """Of this process's share of a batch; the mean over all shares is the whole batch's loss.

    Args:
        module: What `perceptron` or `Exact` made, wrapped.
        seed: Of the batch.
        ways: How many shares there are.
        part: Which of them is this process's.
        exact: Whether the model is `Exact`, of which every share is the same.
    """
    if exact:
        return module(seed)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (module(x.chunk(ways)[part]) ** 2).mean()
