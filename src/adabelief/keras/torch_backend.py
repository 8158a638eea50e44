"""The step on the PyTorch backend: lists of tensors through the update of `adabelief.torch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adabelief.kernels.layout import KEPT
from adabelief.options import centralized_dims
from adabelief.rule import Coefficients
from adabelief.torch.plan import Plan, Share
from adabelief.torch.state import COLUMNS, STEP
from adabelief.torch.update import Options, Recipe, Tensors, update


class TorchLists:
    """Steps lists of tensors through the kernels of `adabelief.torch` where they serve, and through foreach else."""

    def __init__(self) -> None:
        self._lists: dict[bool, _List] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(
        self,
        which: bool,
        arrays: dict[str, list[Any]],
        t: float,
        coefficients: Callable[..., Coefficients],
        *,
        outputs_last: bool,
        gc_min_dim: int,
        gc_loc: bool,
        k: int,
        alpha: float,
    ) -> None:
        """Applies step t to a list.

        Args:
            which: The name under which the list's plan is remembered.
            arrays: Variables, gradients and state, by the names of `kernels.layout.ARRAYS`; of the state what is used.
            t: The step's number, from 1.
            coefficients: `rule.coefficients` with the step's options: called as `coefficients(t, xp=...)`.
            outputs_last: Centralized gradients keep their last dimension, not their first.
            gc_min_dim: Centralize tensors of at least this many dimensions; 0 for none.
            gc_loc: Centralize gradients, or else steps.
            k: Lookahead in every k-th step; 0 for none.
            alpha: Lookahead's share.

        Raises:
            ValueError: If a gradient is sparse.
        """
        if not arrays["p"]:
            return
        pairs = zip(arrays["g"], arrays["p"], strict=True)
        grads = [g if isinstance(g, Tensor) else torch.as_tensor(g, device=p.device) for g, p in pairs]
        if any(g.layout != torch.strided for g in grads):
            raise ValueError("a gradient is sparse, which this backend cannot step: make it dense (to_dense)")
        if which not in self._lists or len(self._lists[which].steps) != len(grads):
            self._lists[which] = _List(len(grads))
        options, recipe = Options(gc_min_dim, gc_loc), Recipe(coefficients, alpha=alpha, k=k)
        self._lists[which].step(arrays | {"g": grads}, t, recipe, options, outputs_last)


class _List:
    """Tensors that are stepped together, and what the kernels know of them, which serves while it holds."""

    def __init__(self, size: int) -> None:
        self._numbers = torch.empty(size, device="cpu")
        self.steps = list(self._numbers.unbind())
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        """As an optimizer of torch has it."""
        self.plan: Plan | None = None
        self._views: dict[int, Tensor] = {}

    def step(
        self, arrays: dict[str, list[Tensor]], t: float, recipe: Recipe, options: Options, outputs_last: bool
    ) -> None:
        """Applies step t."""
        if outputs_last and options.gc_min_dim:
            arrays = self._with_outputs_first(arrays, options)
        params, grads = arrays["p"], arrays["g"]
        self._numbers.fill_(t - 1)
        columns = {name: arrays.get(name, []) for name in KEPT}
        tensors = Tensors(params, grads, self.steps, columns)
        self._note_state(tensors)
        held = self.plan.hold(options, [params], self.state, grads) if self.plan else None
        if not held:
            share = Share(tensors, options, list(range(len(params))))
            self.plan = Plan([share], options, [params], self.state, grads)
            held = self.plan.hold(options, [params], self.state, grads)
        part = self.plan.parts[0] if self.plan and held else None
        try:
            if part:
                part.step(recipe, params)
        finally:
            if held:
                held.release()
        rest = part.rest if part else list(range(len(params)))
        update(tensors.pick(rest), recipe, options, foreach=True)

    def _note_state(self, tensors: Tensors) -> None:
        """Has `state` say what there is now, in the entries that are there."""
        if len(self.state) != len(tensors.params) or any(
            p is not q for p, q in zip(self.state, tensors.params, strict=False)
        ):
            self.state = {p: {} for p in tensors.params}
        lists = {COLUMNS[name]: xs for name, xs in tensors.columns.items() if xs} | {STEP: tensors.steps}
        for name, xs in lists.items():
            for entry, x in zip(self.state.values(), xs, strict=True):
                entry[name] = x

    def _with_outputs_first(self, arrays: dict[str, list[Tensor]], options: Options) -> dict[str, list[Tensor]]:
        """Views in PyTorch's order of dimensions; of what lasts the same objects every time, as a plan needs them."""
        known, self._views = self._views, {}

        def view(x: Tensor) -> Tensor:
            y = known.get(id(x))
            if y is None or y.data_ptr() != x.data_ptr() or y.numel() != x.numel() or y.dtype != x.dtype:
                y = _outputs_first(x, options)
            return self._views.setdefault(id(x), y)

        lasting = {name: [view(x) for x in xs] for name, xs in arrays.items() if name != "g"}
        return lasting | {"g": [_outputs_first(g, options) for g in arrays["g"]]}


def _outputs_first(x: Tensor, options: Options) -> Tensor:
    """A view of what is centralized in PyTorch's order of dimensions."""
    return x.detach().movedim(-1, 0) if centralized_dims(x.ndim, options.gc_min_dim) else x
