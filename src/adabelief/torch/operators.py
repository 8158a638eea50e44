"""Operators on lists of tensors: torch's foreach, and the same one tensor after another, for tensors that lack it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor]


class Operators:
    """In-place operators end with an underscore; a scalar is a number, a tensor, or a list of one tensor for each."""

    def __init__(self, named: Callable[[str], Callable[..., Any]]) -> None:
        self.add_, self.sub_, self.mul_, self.neg_ = map(named, ("add_", "sub_", "mul_", "neg_"))
        self.sub, self.sqrt, self.reciprocal_ = map(named, ("sub", "sqrt", "reciprocal_"))
        self.maximum_, self._addcmul_, self._addcdiv_ = map(named, ("maximum_", "addcmul_", "addcdiv_"))
        self._clamp_min_, self._clamp_max_ = map(named, ("clamp_min_", "clamp_max_"))

    def add_scaled_(self, xs: Tensors, ys: Tensors, scale: Any) -> None:
        """X ← x + scale · y."""
        if isinstance(scale, (int, float)):
            self.add_(xs, ys, alpha=scale)
        else:
            ys = [y.to(x.dtype, copy=True) for x, y in zip(xs, ys, strict=True)]
            self.mul_(ys, scale)
            self.add_(xs, ys)

    def add_product_(self, xs: Tensors, ys: Tensors, zs: Tensors, scale: Any) -> None:
        """X ← x + scale · y · z."""
        if isinstance(scale, (int, float)):
            self._addcmul_(xs, ys, zs, value=scale)
        else:
            ys = [y.clone() for y in ys]
            self.mul_(ys, zs)
            self.add_scaled_(xs, ys, scale)

    def cut_(self, xs: Tensors, bound: Any) -> None:
        """X cut to [−bound, bound]; nan stays nan."""
        self._clamp_max_(xs, bound)
        self._clamp_min_(xs, [-each for each in bound] if isinstance(bound, list) else -bound)

    def add_quotient_(self, xs: Tensors, ys: Tensors, zs: Tensors, scale: float) -> None:
        """X ← x + scale · y / z."""
        self._addcdiv_(xs, ys, zs, value=scale)


def _maximum_(x: Tensor, y: Tensor) -> Tensor:
    return x.copy_(torch.maximum(x, y))  # of which there is no method in place


def _one_by_one(name: str) -> Callable[..., Any]:
    method: Callable[..., Tensor] = _maximum_ if name == "maximum_" else getattr(Tensor, name)

    def loop(xs: Tensors, *arguments: Any, **scalars: float) -> Tensors:
        lists = [a if isinstance(a, list) else [a] * len(xs) for a in arguments]
        return [method(*each, **scalars) for each in zip(xs, *lists, strict=True)]

    return loop


FOREACH = Operators(lambda name: getattr(torch, f"_foreach_{name}"))
ONE_BY_ONE = Operators(_one_by_one)
