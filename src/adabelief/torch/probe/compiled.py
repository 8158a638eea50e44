"""The probe inside torch.compile: an operator of the graph, `adabelief::probe`, which calls the probe as it runs.

A hook that the compiler could not trace would break the graph, and one that it traced would be run once. The operator
gets the tensors as the step has left them; to change a tensor of its own is what keeps it in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.torch.probe.sample import local, stepped

_PROBES: dict[int, WeakMethod[Callable[[list[list[Tensor]]], None]]] = {}


def enrol(handle: int, look: Callable[[list[list[Tensor]]], None] | None) -> None:
    """Makes a probe's method the one that the operator calls by this handle; None: it calls no more."""
    if look is None:
        _PROBES.pop(handle, None)
    else:
        _PROBES[handle] = WeakMethod(look)


def observe(optimizer: Optimizer, tick: Tensor, handle: int) -> None:
    """Puts the operator behind the step that is being traced."""
    columns: list[list[Tensor]] = [[], [], [], [], []]
    for _, arrays in stepped(optimizer):
        for column, x in zip(columns, arrays, strict=True):
            column.append(local(x))
    if columns[0]:
        torch.ops.adabelief.probe(tick, *columns, handle)


def _probe(tick: Tensor, *columns_and_handle: Any) -> None:
    """One step has been taken."""
    *columns, handle = columns_and_handle
    tick.add_(1)
    look = _PROBES.get(handle)
    method = look() if look else None
    if method:
        method(columns)


# Not by `torch.library.custom_op`: what that wraps around an operator takes longer than 180 tensors take to be passed.
_LIBRARY: Any = torch.library.Library("adabelief", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "probe(Tensor(a!) tick, Tensor[] params, Tensor[] grads, Tensor[] m, Tensor[] s, Tensor[] steps, int handle) -> ()"
)
_LIBRARY.impl("probe", _probe, "CompositeExplicitAutograd")
torch.library.register_fake("adabelief::probe", lambda *arguments: None, lib=_LIBRARY)  # whatever the shapes
