"""EAdam: the control for what AdaBelief owes to the place of its eps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer


class EAdam(Optimizer):
    """Adam that keeps eps inside v, as AdaBelief keeps it inside s (Yuan and Gao, arXiv:2011.02150).

        m ← beta1 · m + (1 − beta1) · g
        v ← beta2 · v + (1 − beta2) · g² + eps
        p ← p − lr/(1 − beta1^t) · m / (√(v/(1 − beta2^t)) + eps)

    With the same eps and no rectification, it differs from AdaBelief in g² for (g − m)² alone, and from Adam in where
    eps is alone: what it gains on Adam is then due to that. Weight decay is added to the gradient, or with
    `weight_decouple` taken off first: p ← (1 − lr · weight_decay) · p.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        weight_decouple: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "weight_decouple": weight_decouple})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps every parameter that has a gradient; takes no closure."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                self.state[p]["step"] += 1
            grads: Any = [p.grad for p in params]
            m, v = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq"))
            (beta1, beta2), eps, t = group["betas"], group["eps"], self.state[params[0]]["step"]
            if group["weight_decouple"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            elif group["weight_decay"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            torch._foreach_lerp_(m, grads, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, grads, grads, value=1 - beta2)
            torch._foreach_add_(v, eps)
            denominators = torch._foreach_div(v, 1 - beta2**t)
            torch._foreach_sqrt_(denominators)
            torch._foreach_add_(denominators, eps)
            torch._foreach_addcdiv_(params, m, denominators, value=-group["lr"] / (1 - beta1**t))
