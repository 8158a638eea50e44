"""What `release` and `offload` return: another way of stepping, in force until it is removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor

from adabelief.torch.base import Base, Group


def unchanged(optimizer: Any) -> Base:
    """The optimizer, which nothing steps in another way yet.

    Raises:
        TypeError: If it is none of this package's.
        ValueError: If it is already released or offloaded.
    """
    if not isinstance(optimizer, Base) or hasattr(optimizer, "step_param"):  # a functional form has a step of its own
        raise TypeError(
            f"optimizer must be AdaBelief, AdaBeliefW or RangerAdaBelief, got {type(optimizer).__name__}; pass the "
            "optimizer itself, not what wraps it"
        )
    if optimizer._instead is not None:
        raise ValueError(
            f"optimizer: this {type(optimizer).__name__} is already released or offloaded; call remove() of that "
            "handle first"
        )
    return optimizer


_Handle = TypeVar("_Handle", bound="Handle")


class Handle(ABC):
    """Ends by `remove()`, or where a `with` block does."""

    def __init__(self, optimizer: Base) -> None:
        self.optimizer = optimizer

    @abstractmethod
    def _step(self) -> None:
        """What the optimizer does in place of its own step."""

    def _parts_of_groups(self, tensors: Iterable[tuple[int, Tensor]]) -> list[Group]:
        """The optimizer's groups with some tensors alone, each given with the place of its group."""
        params: dict[int, list[Tensor]] = {}
        for i, x in tensors:
            params.setdefault(i, []).append(x)
        return [self.optimizer.param_groups[i] | {"params": ours} for i, ours in params.items()]

    def remove(self) -> None:
        """Ends it. A second call does nothing."""
        if self.in_force:
            del self.optimizer._instead

    @property
    def in_force(self) -> bool:
        """Whether the optimizer still steps in this way."""
        return self.optimizer._instead == self._step

    def __enter__(self: _Handle) -> _Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
