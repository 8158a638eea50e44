"""The step inside torch.compile: the kernels as one operator of the graph, `adabelief::update`.

A compiler that traced the step tensor by tensor would compile for long and produce slower code. The operator looks its
addresses up at every call, so it needs no plan. It takes plain tensors; others (distributed ones, ...) are foreach's.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from adabelief.kernels.layout import KEPT
from adabelief.options import centralized_dims
from adabelief.torch import internals, storage
from adabelief.torch.launch import OnCpu, OnGpu, device_scalars, kernel_for, overlapping
from adabelief.torch.operators import FOREACH
from adabelief.torch.update import Options, Recipe, Scalars, Tensors, step_stored, update


def compiled_update(tensors: Tensors, recipe: Recipe, options: Options) -> None:
    """Counts and applies one step, as `update.update` does."""
    types = [{type(p), type(g)} for p, g in zip(tensors.params, tensors.grads, strict=True)]
    plain = [i for i, kinds in enumerate(types) if kinds <= internals.PLAIN]
    others = [i for i, kinds in enumerate(types) if not kinds <= internals.PLAIN]
    alike: dict[Any, list[int]] = defaultdict(list)
    for i in plain:
        alike[storage.flags(tensors.at(i), options)].append(i)
    for indices in alike.values():  # so that a list has all of its tensors, or none
        ours = tensors.pick(indices)
        scalars = device_scalars(ours.steps, recipe, ours.params[0].device)
        _update(ours.params, ours.grads, *ours.columns.values(), scalars, *options[:2], options.dithered)
    if others:
        update(tensors.pick(others), recipe, options, traced=True)


@torch.library.custom_op(
    "adabelief::update",
    mutates_args=("params", *KEPT),
    schema="(Tensor(a!)[] params, Tensor[] grads, "
    + "".join(f"Tensor({mark}!)[] {name}, " for mark, name in zip("bcdefghijkl", KEPT, strict=False))
    + "Tensor scalars, int gc_min_dim, bool gc_loc, bool dithered) -> ()",
)
def _update(params: list[Tensor], grads: list[Tensor], *state_and_rest: Any) -> None:
    """One step of a list of tensors; row i of `scalars` is the `Scalars` of tensor i."""
    *columns, scalars, gc_min_dim, gc_loc, dithered = state_and_rest
    tensors = Tensors(params, grads, [], dict(zip(KEPT, columns, strict=True)))
    options = Options(gc_min_dim, gc_loc, capturable=True, fused=True, dithered=dithered)
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, p in enumerate(params):
        kind = kernel_for(tensors, i, options)
        row = None if kind is OnGpu else Scalars(*scalars[i].tolist())  # .tolist() would wait for a GPU
        alike[kind, p.device, p.dtype.to_real(), row].append(i)
    for (kind, device, _, row), indices in alike.items():
        if kind is None or overlapping(tensors, indices):
            for i in indices:  # one by one: of tensors that share memory the second starts where the first ends
                one, c = tensors.pick([i]), row or Scalars(*scalars[i].tolist())
                if not c.skip:
                    step_stored(one.reals(), c, options, [centralized_dims(params[i].ndim, gc_min_dim)], FOREACH)
        elif kind is OnGpu:
            rows = scalars[indices].to(device, non_blocking=True)
            OnGpu(tensors, indices, options).apply(rows, lookahead=True)
        else:
            OnCpu(tensors, indices, options).apply(row)


@_update.register_fake
def _(*arguments: Any) -> None:
    """Nothing is returned, whatever the shapes."""
