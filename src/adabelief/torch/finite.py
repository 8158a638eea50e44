"""`skip_nonfinite`: one decision for every group that asked, and the same one in every process.

It costs one read of the gradients. Where the device decides (see `due`) the host waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.torch import internals

Group = dict[str, Any]

COUNT = "skipped"
"""What a group that asked calls the number of steps that were left out: part of it, so that it is saved and loaded."""


SMALL = 4096
"""Tensors of fewer elements are joined before they are looked at: a call takes longer than to copy them."""


def begun(group: Group) -> Group:
    """The group, which counts from 0 if it asks."""
    if group["skip_nonfinite"] and COUNT not in group:
        device = group["params"][0].device if group["capturable"] and group["params"] else "cpu"
        group[COUNT] = torch.zeros((), dtype=torch.int64, device=device)
    return group


def due(optimizer: Optimizer, on_device: bool) -> tuple[list[Group], Tensor | None]:
    """What of a step is to happen, after what a GradScaler has found and what the gradients hold; and counts skips.

    Args:
        optimizer: Whose groups and `found_inf` are looked at.
        on_device: Leave the decision to the device; or else read it here.

    Returns:
        The groups to step; and where the device decides for those that asked, what is not 0 if it skips them.
    """
    groups, found_inf = optimizer.param_groups, getattr(optimizer, "found_inf", None)
    asked = [group for group in groups if group["skip_nonfinite"]]
    if found_inf is not None and not on_device and internals.has_value(found_inf) and float(found_inf):
        _count(asked, torch.ones(()))
        return [], None
    if not asked:
        return groups, None
    with torch.no_grad():
        flag = nonfinite(p.grad for group in asked for p in group["params"] if p.grad is not None)
        if on_device:
            flag = flag if found_inf is None else (flag + found_inf != 0).to(flag)
        elif internals.has_value(flag):
            flag = flag.cpu()
        else:
            return groups, None
        _count(asked, flag)
    if on_device:
        return groups, flag
    return [group for group in groups if not (flag and group["skip_nonfinite"])], None


def nonfinite(gradients: Iterable[Tensor]) -> Tensor:
    """1.0 if any of them holds inf or nan, else 0.0.

    Of distributed gradients each process reads its part, and all that hold a part of any get the same answer.
    """
    gradients = list(gradients)
    meshes: list[Any] = list(dict.fromkeys(g.device_mesh for g in gradients if internals.is_distributed(g)))  # type: ignore[attr-defined]
    parts = [internals.part(g) if internals.is_distributed(g) else g for g in gradients]
    flags = []
    for device in dict.fromkeys(x.device for x in parts):
        of_types: dict[torch.dtype, list[Tensor]] = {}
        for x in parts:
            if x.device == device and x.numel() and x.layout == torch.strided and device.type != "meta":
                real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
                of_types.setdefault(real.dtype, []).append(real)
        flags += [(~torch.stack(_extremes(xs)).isfinite()).any() for xs in of_types.values()]
    flag = torch.zeros((), device=flags[0].device if flags else "cpu")
    for each in flags:
        flag = torch.maximum(flag, each.to(flag))
    for mesh in meshes:
        flag = flag.to(mesh.device_type)
        for dim in range(mesh.ndim):
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=mesh.get_group(dim))
    return flag


def _extremes(xs: list[Tensor]) -> list[Tensor]:
    """Numbers of which one is inf or nan if and only if an element is: exact in every type, in one read."""
    if xs[0].device.type == "cuda":
        return list(torch._foreach_norm(xs, math.inf))  # one launch for all
    small = [x.reshape(-1) for x in xs if x.numel() < SMALL]
    joined = [x for x in xs if x.numel() >= SMALL] + ([torch.cat(small)] if small else [])
    return [extreme for x in joined for extreme in torch.aminmax(x)]  # by far the fastest such read on CPUs


def skipped(groups: list[Group]) -> int | Tensor:
    """The steps that were left out; a tensor where a device other than the CPU counts them."""
    count: Tensor | None = next((group[COUNT] for group in groups if COUNT in group), None)
    return 0 if count is None else int(count) if count.device.type == "cpu" else count


def _count(asked: list[Group], flag: Tensor) -> None:
    for group in asked:
        if begun(group)[COUNT].device != flag.device:  # as loaded from a checkpoint that was mapped elsewhere
            group[COUNT] = group[COUNT].to(flag.device)
        group[COUNT].add_(flag.to(torch.int64))
