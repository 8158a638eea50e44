"""What `release` and `offload` return: another way of stepping, in force until it is removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, TypeVar

from adabelief.torch.base import Base


def unchanged(optimizer: Any) -> Base:
    """The optimizer, which nothing steps in another way yet.

    Raises:
        TypeError: If it is none of this package's.
        ValueError: If it is already released or offloaded.
    """
    if not isinstance(optimizer, Base):
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
