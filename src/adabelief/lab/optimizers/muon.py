"""torch's Muon, with AdamW for what is no matrix, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def matrices_apart(module: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a module in two groups: matrices, but for lookup tables, and the rest.

    A table's rows are no directions of a map: Muon's authors leave embeddings to AdamW, also where the output shares
    them.
    """
    tables = {p for part in module.modules() if isinstance(part, nn.Embedding) for p in part.parameters(recurse=False)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in module.parameters():
        groups[p.dim() == 2 and p not in tables].append(p)
    return [{"params": params, "matrices": matrices} for matrices, params in groups.items() if params]


class Muon(Optimizer):
    """`torch.optim.Muon` on groups of matrices and `torch.optim.AdamW` on the others, both at the same learning rate.

    Muon's steps are orthogonalized and scaled to the root mean square of AdamW's (Liu et al., arXiv:2502.16982), so one
    learning rate and one decoupled decay fit both. State and groups are those of torch's optimizers.

    Args:
        params: Parameters, or groups such as `matrices_apart` makes; a group without `matrices` is split by dimension.
        lr: Learning rate of both.
        weight_decay: Decoupled decay of both.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        ValueError: If torch is older than 2.9, which has no Muon, or an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon; 2.9 or later has")
        groups = [group for one in _groups(params) for group in _split(one)]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})
        makers: dict[bool, Callable[..., Optimizer]] = {
            True: partial(torch.optim.Muon, momentum=momentum, adjust_lr_fn="match_rms_adamw"),
            False: partial(torch.optim.AdamW, betas=betas, eps=eps, fused=True),
        }
        self._parts: dict[bool, Optimizer] = {}
        for matrices in dict.fromkeys(group["matrices"] for group in self.param_groups):
            own = self._own(matrices)
            made = makers[matrices]([{"params": group["params"]} for group in own], lr=lr, weight_decay=weight_decay)
            self._parts[matrices] = made
            for group, theirs in zip(own, made.param_groups, strict=True):
                group.update({name: value for name, value in theirs.items() if name not in group})

    def _own(self, matrices: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["matrices"] == matrices]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps every parameter that has a gradient; takes no closure."""
        for matrices, part in self._parts.items():
            # What loading a checkpoint replaces is shared anew.
            part.state, part.param_groups = self.state, self._own(matrices)
            part.step()


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    listed = list(params)
    return listed if listed and isinstance(listed[0], dict) else [{"params": listed}]


def _split(group: dict[str, Any]) -> list[dict[str, Any]]:
    if "matrices" in group:
        return [group]
    parts = {matrices: [p for p in group["params"] if (p.dim() == 2) == matrices] for matrices in (True, False)}
    return [{**group, "params": own, "matrices": matrices} for matrices, own in parts.items() if own]
