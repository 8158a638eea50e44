"""Distributed tensors (DTensor) as the plain tensors that they are in this process.

A step is element by element, but for the means of centralized rows, and for codes, whose dither counts elements row by
row: where parameter, gradient and state lie alike, and neither finds its rows spread over processes, each process steps
its own part, and nothing has to be dispatched or exchanged.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adabelief.options import centralized_dims
from adabelief.torch import internals, storage
from adabelief.torch.update import Options, Tensors


def local(tensors: Tensors, options: Options) -> Tensors:
    """The tensors with this process's parts in place of distributed ones, where to step a part is part of the step."""
    indices = [i for i, p in enumerate(tensors.params) if internals.is_distributed(p)]
    if not indices:
        return tensors
    params, grads = list(tensors.params), list(tensors.grads)
    columns = {name: list(xs) for name, xs in tensors.columns.items()}
    starts = list(tensors.starts or [0] * len(params))
    for i in indices:
        arrays = tensors.at(i)
        coded = storage.coded(arrays, options)
        if not _apart(list(arrays.values()), options) or (coded and not internals.cuts(arrays["p"]) <= {0}):
            continue
        params[i], grads[i] = internals.part(arrays["p"]), internals.part(arrays["g"])
        for name, xs in columns.items():
            if name in arrays:
                xs[i] = internals.part(arrays[name])
        if coded:
            starts[i] = internals.start_of(arrays["p"])
    return Tensors(params, grads, tensors.steps, columns, starts)


def _apart(arrays: list[Tensor], options: Options) -> bool:
    """Whether the arrays of a parameter lie alike, with every centralized row in one process."""
    if not all(map(internals.is_distributed, arrays)):
        return False
    mesh, placements = _where(arrays[0])
    if any(_where(x) != (mesh, placements) for x in arrays[1:]):
        return False
    within = centralized_dims(arrays[0].ndim, options.gc_min_dim)
    return not any(x.is_partial() for x in placements) and internals.cuts(arrays[0]).isdisjoint(within)


def _where(x: Any) -> tuple[Any, Any]:
    return x.device_mesh, x.placements
