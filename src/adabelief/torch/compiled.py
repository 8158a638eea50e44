"""The step inside torch.compile: the kernels as one operator of the graph, `adabelief::update`.

A compiler that traced the step tensor by tensor would compile for long and produce slower code. The operator looks its
addresses up at every call, so it needs no plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adabelief.rule import Coefficients
from adabelief.torch import fused
from adabelief.torch.update import Options, Tensors, centralized_dims, foreach_step


def update(tensors: Tensors, coefficients: Callable[..., Coefficients], options: Options) -> None:
    """Counts and applies one step, as `update.update` does."""
    if tensors.params:
        *arrays, steps = tensors
        scalars = fused.traced_scalars(steps, coefficients, options)
        _update(*arrays, scalars, options.gc_min_dim, options.gc_loc, options.k)


@torch.library.custom_op(
    "adabelief::update",
    mutates_args=("params", "exp_avgs", "exp_avg_vars", "max_exp_avg_vars", "slow_buffers"),
    schema="(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_vars, "
    "Tensor(d!)[] max_exp_avg_vars, Tensor(e!)[] slow_buffers, Tensor scalars, int gc_min_dim, bool gc_loc, int k) "
    "-> ()",
)
def _update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_vars: list[Tensor],
    max_exp_avg_vars: list[Tensor],
    slow_buffers: list[Tensor],
    scalars: Tensor,
    gc_min_dim: int,
    gc_loc: bool,
    k: int,
) -> None:
    """One step of a list of tensors; row i of `scalars` holds what `fused.SCALARS` names, for tensor i."""
    tensors = Tensors(params, grads, exp_avgs, exp_avg_vars, max_exp_avg_vars, slow_buffers, [])
    options = Options(gc_min_dim=gc_min_dim, gc_loc=gc_loc, k=k, capturable=True, fused=True)
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, p in enumerate(params):
        kind = fused.kernel_for(tensors, i, options)
        row = None if kind is fused.OnGpu else tuple(scalars[i].tolist())
        alike[kind, p.device, p.dtype.to_real(), row].append(i)
    for (kind, device, _, row), indices in alike.items():
        if kind is fused.OnGpu:
            rows = scalars[indices].to(device, non_blocking=True)
            fused.OnGpu(tensors, indices, options).apply(rows, lookahead=bool(k))
            continue
        if kind is fused.OnCpu:
            fused.OnCpu(tensors, indices, options).apply(row)
            continue
        named = dict(zip(fused.SCALARS, row, strict=True))
        if not named["skip"]:
            c = Coefficients(**{name: named[name] for name in Coefficients._fields})
            rest = options._replace(grad_scale=1.0 / named["gain"], alpha=named["alpha"])
            dims = [centralized_dims(params[i], gc_min_dim) for i in indices]
            foreach_step(tensors.pick(indices), c, rest, dims, bool(named["synchronize"]))


@_update.register_fake
def _(*arguments: Any) -> None:
    """Nothing is returned, whatever the shapes."""
