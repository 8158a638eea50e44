"""The step on the PyTorch backend: lists of tensors through the update of `adabelief.torch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adabelief.rule import Coefficients
from adabelief.torch.fused import Part
from adabelief.torch.update import Options, Tensors, update


class TorchLists:
    """Steps lists of tensors through the kernels of `adabelief.torch` where they serve, and through foreach else.

    What the kernels know of a list (addresses, above all) is kept from step to step, while it holds.
    """

    def __init__(self) -> None:
        self._plans: dict[bool, tuple[Any, Part, list[int], list[int]]] = {}
        self._steps: dict[bool, torch.Tensor] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(
        self,
        which: bool,
        columns: dict[str, list[torch.Tensor]],
        t: float,
        coefficients: Callable[..., Coefficients],
        *,
        outputs_last: bool,
        **options: Any,
    ) -> None:
        """Applies step t to a list.

        Args:
            which: The name under which the list's plan is remembered.
            columns: params, grads, exp_avgs, exp_avg_vars, and max_exp_avg_vars or slow_buffers where they are used.
            t: The step's number, from 1.
            coefficients: `rule.coefficients` with the step's options: called as `coefficients(t, xp=...)`.
            outputs_last: Centralized gradients keep their last dimension, not their first.
            **options: gc_min_dim, gc_loc, k and alpha, as `adabelief.torch` has them.

        Raises:
            ValueError: If a gradient is sparse.
        """
        if not columns["params"]:
            return
        pairs = zip(columns["grads"], columns["params"], strict=True)
        grads = [g if isinstance(g, torch.Tensor) else torch.as_tensor(g, device=p.device) for g, p in pairs]
        columns = columns | {"grads": grads}
        if any(g.layout != torch.strided for g in columns["grads"]):
            raise ValueError("a gradient is sparse, which this backend cannot step: make it dense (to_dense)")
        n, choices = len(columns["params"]), Options(**options)
        if which not in self._steps or len(self._steps[which]) != n:
            self._steps[which] = torch.empty(n, device="cpu")
            self._plans.pop(which, None)
        if outputs_last:
            columns = {name: [_outputs_first(x, choices) for x in xs] for name, xs in columns.items()}
        columns = columns | {"steps": list(self._steps[which].fill_(t - 1).unbind())}
        tensors = Tensors(**({name: [] for name in Tensors._fields} | columns))
        part, stepped, rest = self._plan(which, tensors, choices)
        part.follow(iter([tensors.grads[i].data_ptr() for i in stepped]))
        part.step(coefficients, choices)
        if rest:
            left = Tensors(*([xs[i] for i in rest] if xs else [] for xs in tensors))
            update(left, coefficients, choices, foreach=True, traced=False)

    def _plan(self, which: bool, tensors: Tensors, options: Options) -> tuple[Part, list[int], list[int]]:
        """The kernels' part, the indices of what it steps in their order, and those of the rest."""
        lasting = (tensors.params, tensors.exp_avgs, tensors.exp_avg_vars, *tensors[4:6])
        key = (
            options,
            [[(x.data_ptr(), x.shape, x.stride(), x.dtype) for x in xs] for xs in lasting],
            [(g.dtype, g.device, g.stride()) for g in tensors.grads],
        )
        if which not in self._plans or self._plans[which][0] != key:
            part = Part(tensors, options)
            stepped = [i for launch in part.launches for i in launch.indices]
            rest = sorted(set(range(len(tensors.params))) - set(stepped))
            self._plans[which] = key, part, stepped, rest
        return self._plans[which][1:]


def _outputs_first(x: torch.Tensor, options: Options) -> torch.Tensor:
    """A view of what is centralized in PyTorch's order of dimensions."""
    return x.detach().movedim(-1, 0) if x.ndim >= options.gc_min_dim > 0 else x
