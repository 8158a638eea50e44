"""What the groups of every optimizer may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from adabelief import options
from adabelief.torch import bits, launch, state

Group = dict[str, Any]


def check(group: Group) -> None:
    """Raises ValueError for the first option that is out of its range."""
    for name in ("lr", "weight_decay"):
        x = group[name]
        if isinstance(x, Tensor) and x.numel() != 1:
            raise ValueError(f"{name} must be a number or a tensor of one element, got shape {tuple(x.shape)}")
        options.check(name, x.item() if isinstance(x, Tensor) else x, *options.RATE)
    options.check("eps", group["eps"], *options.RATE)
    options.pair("betas", group["betas"], *options.BETA, passes=_is_beta)
    options.check_flags(group)
    bits.check(group)
    options.check("max_update", group["max_update"], *options.MAX_UPDATE, passes=lambda x: x is None)
    if group["fused"]:
        others = [name for name in ("foreach", "differentiable") if group[name]]
        if others:
            raise ValueError(f"fused=True and {others[0]}=True exclude each other; leave one of them out")
    if group["foreach"] and group["differentiable"]:
        raise ValueError("foreach=True cannot be recorded by autograd; use foreach=None with differentiable=True")
    if group["skip_nonfinite"] and group["differentiable"]:
        raise ValueError("skip_nonfinite=True has no derivative for autograd to record; use differentiable=False")


def refuse(group: Mapping[str, Any], names: Iterable[str], needs: str, remedy: str = "") -> None:
    """Raises ValueError for the first of some options that is chosen, where a way of stepping lacks what it needs.

    Args:
        group: The options.
        names: Which of them.
        needs: What they need, and why it is not there.
        remedy: What else helps, beside the option's own False.
    """
    for name in names:
        if group.get(name):
            raise ValueError(f"{name}=True needs {needs}; use {name}=False{remedy}")


def check_parameters(group: Group) -> None:
    """Raises ValueError for parameters that a group cannot have."""
    bits.check_parameters(group)
    for p in group["params"]:
        if not is_lazy(p):  # of which a step has to see what it became
            state.refuse_conjugate(p)
    devices = {p.device.type for p in group["params"]} if group["fused"] else set()
    reason = next(filter(None, map(launch.unserved, devices)), None)
    if reason:
        raise ValueError(f"fused=True: {reason}; use fused=None or foreach=True")


def _is_beta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and 0 <= value.item() < 1
