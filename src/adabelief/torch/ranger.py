"""RangerAdaBelief for PyTorch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from adabelief import rule
from adabelief.options import ADAPTIVE_FROM, ALPHA, K, check
from adabelief.torch import internals
from adabelief.torch.base import Base, Group
from adabelief.torch.update import Options, Recipe


class RangerAdaBelief(Base):
    r"""Ranger with AdaBelief: gradient centralization, rectified AdaBelief, and Lookahead.

        g ← g − mean of g over all dimensions but the first         (gradient centralization)
        p ← the rectified, decoupled AdaBelief step with g          (see `AdaBelief`)
        in every k-th step: slow ← slow + alpha · (p − slow), p ← slow           (Lookahead)

    Defaults and argument names are those of ranger-adabelief 0.1.0, and so are the steps, but for that package's
    defects: here `step(closure)` evaluates the closure and returns its loss, decoupled decay is 1 − lr · weight_decay
    in every step and never enters the momentum, `p.grad` stays as it is, every option is read from its group, and
    float64 parameters keep their precision. As there, eps enters s only from the first adaptive step on.

    **Weights that others write.** Lookahead pulls the weights back to where they came from, as its definition says:
    after a checkpoint was loaded into the model in mid-run, or weights were averaged, call `reset_lookahead`. Flat
    parameters (FSDP1, ZeRO) have no rows to centralize; a warning says so once.

    Args:
        params: Parameters, named parameters, or dicts of parameter groups.
        lr: Learning rate; a tensor of one element too.
        alpha: Lookahead's share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations of Lookahead, at least 1.
        N_sma_threshhold: Least length N_t of the simple moving average for an adaptive step, at least 4.
        betas: Decay rates of the mean of g and of the mean of (g − m)².
        eps: Added to s at every adaptive step and to its root. The default makes the denominator at least 0.1, close to
            momentum SGD; 1e-12 is what the authors use.
        weight_decay: Decay rate; a tensor of one element too.
        use_gc: Centralize gradients.
        gc_conv_only: Only those of at least 4 dimensions (convolutions), instead of at least 2.
        gc_loc: Centralize the gradient (True), or else the step m / (√s + eps).
        weight_decouple: Decay p itself instead of adding the decay to g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        amsgrad: Divide by the root of the largest s so far.
        degenerated_to_sgd: Follow m before steps are adaptive, instead of waiting.
        max_update: Bound on every element of a step, as a multiple of lr, as in `AdaBelief`: Lookahead's way back to
            the slow weights apart. Steps are centralized (`gc_loc=False`) by the mean of the cut ones, so that no
            element carries its row along, and what is left is cut.
        skip_nonfinite: As in `AdaBelief`.
        foreach: As in `AdaBelief`.
        maximize: Climb.
        capturable: Keep step counts on the parameters' device, for CUDA graphs.
        differentiable: Let autograd record the step.
        fused: As in `AdaBelief`.
        state_bits: As in `AdaBelief`; the slow weights are kept as they are.
        master_weight_bits: As in `AdaBelief`.
        stochastic_rounding: As in `AdaBelief`.

    Raises:
        ValueError: If an option, of the optimizer or of a group, is out of its range.
        RuntimeError: From `step`, for sparse gradients.

    Source: ranger-adabelief 0.1.0; Zhuang et al., NeurIPS 2020; Zhang et al., "Lookahead Optimizer", NeurIPS 2019; Yong
    et al., "Gradient Centralization", ECCV 2020.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2, 3))
        >>> weight.grad = torch.full((2, 3), 7.0)  # the same along every row: nothing is left once centralized
        >>> RangerAdaBelief([weight]).step()
        >>> bool((weight == 1).all())
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        N_sma_threshhold: float = 5,
        betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float | Tensor = 0.0,
        use_gc: bool = True,
        gc_conv_only: bool = False,
        gc_loc: bool = True,
        *,
        weight_decouple: bool = True,
        fixed_decay: bool = False,
        amsgrad: bool = False,
        degenerated_to_sgd: bool = True,
        max_update: float | None = None,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_bits: int | tuple[int, int] = 32,
        master_weight_bits: int | None = None,
        stochastic_rounding: bool = False,
    ) -> None:
        super().__init__(
            params,
            dict(
                lr=lr,
                alpha=alpha,
                k=k,
                N_sma_threshhold=N_sma_threshhold,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                use_gc=use_gc,
                gc_conv_only=gc_conv_only,
                gc_loc=gc_loc,
                weight_decouple=weight_decouple,
                fixed_decay=fixed_decay,
                amsgrad=amsgrad,
                rectify=True,
                degenerated_to_sgd=degenerated_to_sgd,
                max_update=max_update,
                skip_nonfinite=skip_nonfinite,
                foreach=foreach,
                maximize=maximize,
                capturable=capturable,
                differentiable=differentiable,
                fused=fused,
                state_bits=state_bits,
                master_weight_bits=master_weight_bits,
                stochastic_rounding=stochastic_rounding,
            ),
        )

    def reset_lookahead(self) -> None:
        """Makes the slow weights the weights as they are now.

        For weights that someone else changed in mid-run (a checkpoint loaded into the model, an average taken over
        processes): the next synchronization would pull them back towards the slow weights of before.
        """
        with torch.no_grad():
            for p, entry in self.state.items():
                if "slow_buffer" in entry:
                    entry["slow_buffer"].copy_(p)

    def _init_group(self, group: Group, params: list[Tensor], *lists: Any) -> None:
        self._warn_of_flat_parameters()
        super()._init_group(group, params, *lists)

    def _warn_of_flat_parameters(self) -> None:
        """Once, where parameters are one-dimensional pieces of matrices, so that no row of them can be centralized."""
        if self.__dict__.get("_knows_shapes") or not internals.in_process_group():
            return
        self._knows_shapes = True
        lists = [group["params"] for group in self.param_groups if group["use_gc"] and group["params"]]
        marked = any(internals.is_flat(p) for params in lists for p in params)  # by FSDP1
        pieces = bool(lists) and all(len(params) == 1 and params[0].ndim < 2 for params in lists)  # as ZeRO's are
        if marked or pieces:
            warnings.warn(
                "use_gc=True: no row is centralized, since the parameters are flat, as FSDP1 and ZeRO make them: the "
                "steps are not those of one process. Use FSDP2 (fully_shard), which keeps shapes, or use_gc=False.",
                stacklevel=5,
            )

    def _recipe(self, group: Group, skip: Tensor | None = None) -> Recipe:
        return super()._recipe(group, skip)._replace(alpha=group["alpha"], k=int(group["k"]))

    def _coefficients(self, group: Group, numbers: dict[str, Any], t: Any, **more: Any) -> rule.Coefficients:
        more |= {"adaptive_from": self._adaptive_from(group), "eps_before_adaptive": False}
        return super()._coefficients(group, numbers, t, **more)

    def _options(self, group: Group) -> Options:
        gc_min_dim = (4 if group["gc_conv_only"] else 2) if group["use_gc"] else 0
        return super()._options(group)._replace(gc_min_dim=gc_min_dim, gc_loc=group["gc_loc"])

    def _adaptive_from(self, group: Group) -> float:
        return float(group["N_sma_threshhold"])

    def _check(self, group: Group) -> None:
        super()._check(group)
        check("k", group["k"], *K)
        check("alpha", group["alpha"], *ALPHA)
        check("N_sma_threshhold", group["N_sma_threshhold"], *ADAPTIVE_FROM)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["rectify"] = True
