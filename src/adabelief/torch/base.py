"""What the optimizers of the family share: groups and their checks, the step, saving and loading."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial, wraps
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import _profiler_enabled as profiling  # type: ignore[attr-defined]
from torch.optim import Optimizer, optimizer

from adabelief import rule
from adabelief.torch import compiled, fused, state
from adabelief.torch.fused import Group
from adabelief.torch.update import Options, Tensors, update

CHECK_GRAPH_CAPTURE: Callable[[Optimizer], None] = getattr(
    Optimizer, "_accelerator_graph_capture_health_check", None
) or getattr(Optimizer, "_cuda_graph_capture_health_check")  # noqa: B009 - deprecated where there is the other
"""Raises where a CUDA graph is being captured and a group is not capturable, as torch's own optimizers do."""


class Base(Optimizer):
    """An AdaBelief: options live in the groups, scalars in `rule`, the update in `update` and `fused`."""

    grad_scale: Tensor | float | None = None
    """Set before a step: gradients are divided by it (the GradScaler's contract)."""

    found_inf: Tensor | float | None = None
    """Set before a step: the step is skipped where it is not 0 (the GradScaler's contract)."""

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a class's step as torch does, for hooks and the profiler; where neither is in use, calls go past it.

        What torch does for the profiler costs more than the step of many small tensors.
        """
        hooked = Optimizer.profile_hook_step(func)

        @wraps(func)
        def step(self: Base, *args: Any, **kwargs: Any) -> Any:
            watched = (
                torch.compiler.is_compiling()
                or profiling()
                or self._optimizer_step_pre_hooks
                or self._optimizer_step_post_hooks
                or optimizer._global_optimizer_pre_hooks
                or optimizer._global_optimizer_post_hooks
            )
            return (hooked if watched else func)(self, *args, **kwargs)

        return step

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether the GradScaler leaves unscaling and skipping to the step: where `fused=True`, as for torch's own."""
        return all(group["fused"] for group in self.param_groups)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters; options that it does not name are the constructor's.

        Raises:
            ValueError: If an option is out of its range.
        """
        group = self.defaults | param_group
        self._check(group)
        warned = any(self._never_adaptive(other) for other in self.param_groups)
        super().add_param_group(param_group)
        devices = {p.device.type for p in self.param_groups[-1]["params"]} if group["fused"] else set()
        reasons = list(filter(None, map(fused.unserved, devices)))
        if reasons:
            self.param_groups.pop()
            raise ValueError(f"fused=True: {reasons[0]}; use fused=None or foreach=True")
        if self._never_adaptive(group) and not warned:
            beta2 = group["betas"][1]
            warnings.warn(
                f"betas[1] = {beta2}: rectified steps never become adaptive, since N_inf = 2/(1 - beta2) - 1 = "
                f"{rule.sma_limit(beta2):.3g} is below {self._adaptive_from(group):g}. Use a larger beta2 or "
                "rectify=False.",
                stacklevel=2,
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: If a gradient is sparse, or a CUDA graph is being captured and a group is not `capturable`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.found_inf is not None and not self._skips_on_device() and float(self.found_inf):
            return loss
        if any(group["params"] and group["params"][0].is_cuda for group in self.param_groups):
            CHECK_GRAPH_CAPTURE(self)
        plan = None if torch.compiler.is_compiling() else self._planned()
        for i, group in enumerate(self.param_groups):
            with torch.set_grad_enabled(group["differentiable"]):
                self._step_group(group, plan.parts[i] if plan else None)
        return loss

    def _skips_on_device(self) -> bool:
        """Whether kernels decide about `found_inf`, so that the host need not wait for it."""
        return not torch.compiler.is_compiling() and all(
            group["capturable"] and fused.wanted(group) and group["params"][0].device.type != "cpu"
            for group in self.param_groups
        )

    def _planned(self) -> fused.Plan | None:
        """The plan of the next step: the last one where it still holds; None where no kernel can serve."""
        if not any(map(fused.wanted, self.param_groups)):
            return None
        plan: fused.Plan | None = self.__dict__.get("_plan")
        if plan and plan.holds(self):
            return plan
        with torch.no_grad():
            plan = self._plan = fused.Plan(self, self._init_group, self._options)
        return plan if plan.holds(self) else None

    def _step_group(self, group: Group, part: fused.Part | None) -> None:
        traced = group["capturable"] or torch.compiler.is_compiling()
        grad_scale, lr = self.grad_scale, group["lr"]
        if not traced and not group["differentiable"]:
            grad_scale = None if grad_scale is None else float(grad_scale)
            lr = float(lr)
        elif torch.compiler.is_compiling() and not isinstance(lr, Tensor):
            lr = torch.zeros((), dtype=torch.float64) + lr  # so that the graph serves every lr
        coefficients, options = partial(self._coefficients, group, lr), self._options(group, grad_scale=grad_scale)
        if part:
            part.step(coefficients, options)
            if not part.rest:
                return
            group = group | {"params": part.rest}
        if options.found_inf is not None and not torch.compiler.is_compiling() and float(options.found_inf):
            return
        tensors = Tensors.empty()
        self._init_group(group, *tensors)
        if torch.compiler.is_compiling() and fused.wanted(group):
            compiled.update(tensors, coefficients, options)
            return
        foreach = group["foreach"] is not False and not group["differentiable"]
        update(tensors, coefficients, options, foreach=foreach, traced=traced)

    def _init_group(self, group: Group, params: list[Tensor], grads: list[Tensor], *state_lists: list[Tensor]) -> None:
        # torch.compile runs a method of this name, with empty lists as arguments, instead of tracing it.
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients (a parameter of shape "
                    f"{tuple(p.shape)} has one): use torch.optim.SparseAdam for it, or Embedding(sparse=False)"
                )
            entry = state.begin(
                self.state[p],
                p,
                amsgrad=group["amsgrad"],
                lookahead="k" in group,
                capturable=group["capturable"],
            )
            if group["differentiable"]:
                entry.update({name: x.clone() for name, x in entry.items() if name != "step"})
            params.append(p)
            grads.append(p.grad)
            for name, tensors in zip(Tensors._fields[2:], state_lists, strict=True):
                key = name.removesuffix("s")
                if key in entry and (key != "max_exp_avg_var" or group["amsgrad"]):
                    tensors.append(entry[key])

    def _coefficients(self, group: Group, lr: Any, t: Any, **more: Any) -> rule.Coefficients:
        names = (
            "betas",
            "eps",
            "weight_decay",
            "weight_decouple",
            "fixed_decay",
            "rectify",
            "degenerated_to_sgd",
        )
        return rule.coefficients(t, lr=lr, **{name: group[name] for name in names}, **more)

    def _options(self, group: Group, **more: Any) -> Options:
        found_inf = self.found_inf if group["capturable"] and isinstance(self.found_inf, Tensor) else None
        chosen = {name: group[name] for name in ("maximize", "capturable", "fused")}
        return Options(found_inf=found_inf, **chosen, **more)

    def _adaptive_from(self, group: Group) -> float:
        return rule.ADAPTIVE_FROM

    def _never_adaptive(self, group: Group) -> bool:
        return bool(group["rectify"]) and rule.sma_limit(group["betas"][1]) < self._adaptive_from(group)

    def _check(self, group: Group) -> None:
        """Raises ValueError for the first option that is out of its range."""
        lr, betas = group["lr"], group["betas"]
        if isinstance(lr, Tensor):
            if lr.numel() != 1:
                raise ValueError(
                    f"lr must be a number or a tensor of one element, got a tensor of shape {tuple(lr.shape)}"
                )
            lr = lr.item()
        check("lr", lr, "a finite number, at least 0", lambda x: 0 <= x < math.inf)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
        for i, beta in enumerate(betas):
            check(f"betas[{i}]", beta, "a number in [0, 1)", lambda x: 0 <= x < 1)
        for name in ("eps", "weight_decay"):
            check(name, group[name], "a finite number, at least 0", lambda x: 0 <= x < math.inf)
        if group["fused"]:
            others = [name for name in ("foreach", "differentiable") if group[name]]
            if others:
                raise ValueError(f"fused=True and {others[0]}=True exclude each other; leave one of them out")
        if group["foreach"] and group["differentiable"]:
            raise ValueError("foreach=True cannot be recorded by autograd; use foreach=None with differentiable=True")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class, of adabelief-pytorch 0.0.5 to 0.2.1, timm or ranger-adabelief.

        State keeps the precision in which it was saved or float32, whichever is wider, also for half-precision
        parameters. The options are those of the checkpoint; the ones that other packages do not save (weight_decouple,
        rectify, ...) stay as this optimizer was constructed.

        Raises:
            ValueError: If the groups differ in number or size, or the state is that of another algorithm.
        """
        state.load(self, state_dict, super().load_state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {value}" for name, value in sorted(group.items()) if name != "params"]
            floor = rule.denominator_floor(group["eps"], group["betas"][1])
            lines.append(f"    denominator floor: {floor:.2g} = sqrt(eps / (1 - beta2)) + eps")
        return "\n".join([*lines, ")"])


def check(name: str, value: Any, range_: str, holds: Callable[[Any], bool]) -> None:
    """Raises ValueError, naming argument, value and range, unless the value is a number for which `holds` is true."""
    if not isinstance(value, Real) or not holds(value):
        raise ValueError(f"{name} must be {range_}, got {value!r}")
