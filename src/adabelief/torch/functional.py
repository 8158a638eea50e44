"""The functional form: optimizers that are handed their gradients, for torch.distributed to step while backward runs.

To import this module is to register it, so that what looks an optimizer's functional form up finds those of AdaBelief,
AdaBeliefW and RangerAdaBelief as it finds that of Adam:

    import adabelief.torch.functional
    from torch.distributed.optim import ZeroRedundancyOptimizer

    zero = ZeroRedundancyOptimizer(model.parameters(), AdaBeliefW, overlap_with_ddp=True, lr=1e-3)
    model.register_comm_hook(None, hook_with_zero_step(allreduce_hook, model, zero))     # NCCL only, says torch

    model._register_fused_optim(AdaBeliefW, lr=1e-3)                                     # of DistributedDataParallel

torch's `_apply_optimizer_in_backward(AdaBeliefW, model.parameters(), {"lr": 1e-3})`, with and without
DistributedDataParallel, takes the classes themselves and needs nothing of this.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adabelief.torch import checks, internals
from adabelief.torch.base import Base
from adabelief.torch.optimizer import AdaBelief, AdaBeliefW
from adabelief.torch.ranger import RangerAdaBelief


class Functional(Base):
    """An optimizer that does not look at `p.grad`: gradients come with the call.

    Everything else, `state`, `state_dict` and its one `param_groups[0]` too (which is read at every call, so that
    schedules of ZeroRedundancyOptimizer's groups work), is that of its class. Calls may come from several threads.

    Args:
        params: Parameters; none where `step_param` is all that is called.
        *args: As the class takes them.
        **options: As the class takes them.

    Raises:
        ValueError: If there are no parameters and nothing says that there may be none, an option is out of its range,
            or `skip_nonfinite` or `differentiable` is chosen, which need all gradients at once.
    """

    def __init__(
        self, params: Iterable[Tensor], *args: Any, _allow_empty_param_list: bool = False, **options: Any
    ) -> None:
        params = list(params)
        if not params and not _allow_empty_param_list:
            raise ValueError("params must not be empty, got []; pass the parameters that are to be stepped")
        _refuse(options)
        super().__init__([{"params": params}], *args, **options)
        self._lock = threading.Lock()
        self._kept: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        """What is kept of each call from one to the next, by the id of its first parameter."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds the one group that there is.

        Raises:
            ValueError: If there is one already, or as that of the class does.
        """
        if self.param_groups:
            raise ValueError(
                f"param_group: {type(self).__name__} has one group, whose gradients it is handed; make another one of "
                "these parameters"
            )
        super().add_param_group(param_group)

    def step(self, gradients: Sequence[Tensor | None]) -> None:  # type: ignore[override]
        """Steps every parameter that has a gradient here.

        Args:
            gradients: In the order of the parameters; None for no step.

        Raises:
            ValueError: If there are more or fewer than parameters.
        """
        params = self.param_groups[0]["params"]
        if len(gradients) != len(params):
            raise ValueError(
                f"gradients must be one (or None) for each of {len(params)} parameters, got {len(gradients)}"
            )
        self._step_with([(p, g) for p, g in zip(params, gradients, strict=True) if g is not None])

    def step_param(self, param: Tensor, grad: Tensor | None) -> None:
        """Steps one parameter with a gradient, by the options of the group, whether it is in the group or not."""
        self._step_with([] if grad is None else [(param, grad)])

    def _step_with(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        if not pairs:
            return
        _refuse(self.param_groups[0])  # what was loaded or set since
        with self._lock, torch.no_grad():
            before = [p.grad for p, _ in pairs]
            try:
                for p, g in pairs:
                    p.grad = g
                group = self.param_groups[0] | {"params": [p for p, _ in pairs]}
                self._step_groups([group], kept=self._kept[id(pairs[0][0])])
            finally:
                for (p, _), g_before in zip(pairs, before, strict=True):
                    p.grad = g_before


def _refuse(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that need all gradients."""
    needs = "the gradients of all parameters at once, and the functional form is handed some at a time"
    checks.refuse(options, ("skip_nonfinite", "differentiable"), needs)


class FunctionalAdaBelief(Functional, AdaBelief):
    """`AdaBelief` with the gradients as an argument.

    Example:
        >>> weight = torch.ones(2)
        >>> FunctionalAdaBelief([weight], lr=0.45).step([torch.tensor([1.0, -1.0])])  # by lr / beta1
        >>> weight
        tensor([0.5000, 1.5000])
    """


class FunctionalAdaBeliefW(Functional, AdaBeliefW):
    """`AdaBeliefW` with the gradients as an argument."""


class FunctionalRangerAdaBelief(Functional, RangerAdaBelief):
    """`RangerAdaBelief` with the gradients as an argument."""


FORMS: dict[type[Base], type[Functional]] = {
    AdaBelief: FunctionalAdaBelief,
    AdaBeliefW: FunctionalAdaBeliefW,
    RangerAdaBelief: FunctionalRangerAdaBelief,
}
"""The functional form of each class."""

for _form in FORMS.items():
    internals.register_functional(*_form)
