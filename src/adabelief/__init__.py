"""AdaBelief, the optimizer that adapts each step by how far the gradient strays from its own mean.

    from adabelief import AdaBelief
    optimizer = AdaBelief(model.parameters(), lr=1e-3)

`AdaBelief`, `AdaBeliefW`, `RangerAdaBelief` and `Probe` are PyTorch's; importing this package alone imports no
framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adabelief.settings import eps_for_floor, eps_from_adam, recommended

if TYPE_CHECKING:
    from adabelief.torch import AdaBelief, AdaBeliefW, Probe, RangerAdaBelief

__version__ = "0.2.0"
__all__ = ["AdaBelief", "AdaBeliefW", "Probe", "RangerAdaBelief", "eps_for_floor", "eps_from_adam", "recommended"]

_TORCH = {"AdaBelief", "AdaBeliefW", "Probe", "RangerAdaBelief"}


if not TYPE_CHECKING:  # to a type checker it would say that there is every name, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name in _TORCH:
            from adabelief import torch

            return getattr(torch, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
