"""MSVAG with the weight decay that its package leaves out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytorch_optimizer
import torch
from torch.nn import Parameter
from torch.optim import Optimizer


def msvag(
    params: Iterable[Parameter], lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.0
) -> pytorch_optimizer.MSVAG:
    """MSVAG with coupled weight decay, which pytorch_optimizer's takes as an argument and ignores."""
    optimizer = pytorch_optimizer.MSVAG(params, lr=lr, beta=beta, foreach=True)
    if weight_decay:
        optimizer.register_step_pre_hook(partial(_add_decay, weight_decay))
    return optimizer


@torch.no_grad()
def _add_decay(weight_decay: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.add_(p, alpha=weight_decay)
