"""Which elements a probe looks at, and how they come to the host: a gather for each array, one transfer a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from adabelief import rule
from adabelief.kernels.layout import EXPONENTS
from adabelief.options import centralized_dims
from adabelief.torch import internals
from adabelief.torch.base import Base
from adabelief.torch.probe.measure import Layer, Numbers
from adabelief.torch.state import COLUMNS, STEP
from adabelief.torch.storage import decoded

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, are spread evenly: by as much a place moves within its stretch, along no row or column."""


class Seen(NamedTuple):
    """A parameter that was stepped, with what the step read and left; of a distributed one, this process's parts."""

    place: tuple[int, int]
    """Of its group, and in it."""
    p: Tensor
    g: Tensor
    m: Tensor
    s: Tensor
    step: Tensor


def is_readable(optimizer: Any) -> bool:
    """Whether a probe knows the state: that of this package's optimizers and of torch's Adam and AdamW."""
    return isinstance(optimizer, (Base, Adam, AdamW))


def stepped(optimizer: Optimizer) -> list[tuple[tuple[int, int], tuple[Tensor, ...]]]:
    """What a step has just stepped: places, with parameter, gradient, m, s and step number.

    torch.compile can trace it. State in fewer bits comes as the float32 that it stands for.
    """
    found: list[tuple[tuple[int, int], tuple[Tensor, ...]]] = []
    for i, group in enumerate(optimizer.param_groups):
        second = COLUMNS["s"] if isinstance(optimizer, Base) else "exp_avg_sq"
        second = f"max_{second}" if group["amsgrad"] else second
        for j, p in enumerate(group["params"]):
            if p.grad is not None and p in optimizer.state and second in optimizer.state[p]:
                state = optimizer.state[p]
                m, s = state[COLUMNS["m"]], state[second]
                if isinstance(optimizer, Base):
                    m = decoded(m, state.get(COLUMNS[EXPONENTS["m"]]), "m")
                    s = decoded(s, state.get(f"{second}_exponents"), "s")
                found.append(((i, j), (p, p.grad, m, s, state[STEP])))
    return found


def seen(optimizer: Optimizer, columns: Sequence[Sequence[Tensor]] | None = None) -> list[Seen]:
    """What a step has just stepped, as `take` needs it.

    Args:
        optimizer: What stepped.
        columns: The tensors of `stepped`, list by list, where someone else has them.
    """
    found = stepped(optimizer)
    arrays = zip(*columns, strict=True) if columns else (map(local, each) for _, each in found)
    return [Seen(place, *each) for (place, _), each in zip(found, arrays, strict=True)]


def local(x: Tensor) -> Tensor:
    """This process's part of a distributed tensor; any other as it is."""
    return internals.part(x) if internals.is_distributed(x) else x


def take(
    optimizer: Optimizer,
    found: list[Seen],
    names: Callable[[int, int], tuple[str, str]],
    n: int,
    indices: dict[Any, Tensor],
) -> list[Layer]:
    """The samples of what was seen, on the host.

    Args:
        optimizer: What stepped.
        found: What `seen` gave.
        names: The name of a parameter, and of its group, by their places.
        n: Elements of a parameter, at most.
        indices: Which elements they are, kept from one call to the next.

    Returns:
        A layer for each parameter of which this process has some element.
    """
    scale = getattr(optimizer, "grad_scale", None)  # there while a GradScaler's step runs
    groups, rows = optimizer.param_groups, []
    with torch.no_grad():
        for one in found:
            i, j = one.place
            whole, key = groups[i]["params"][j], (one.place, one.p.shape, one.p.device)
            if key not in indices:
                indices[key] = _index(whole, one.p, n).to(one.p.device)
            index, dtype = indices[key], one.m.dtype.to_real()
            vectors = [torch.take(_real(x), index).to(dtype) for x in (one.g, one.m, one.s, one.p)]
            vectors.append(_center(optimizer, whole, one, index).to(dtype))
            rows.append((vectors, [_number(x) for x in (one.step, groups[i]["lr"], 1.0 if scale is None else scale)]))
    layers, explained = [], cache(partial(numbers_of, optimizer))
    for one, ((g, m, s, p, center), (step, lr, scaled)) in zip(found, _to_host(rows), strict=True):
        if not m.size or not step:
            continue
        i, j = one.place
        numbers = explained(i, int(step), lr, torch.finfo(one.s.dtype.to_real()).eps)
        if np.isnan(center).any():
            numbers, center = numbers._replace(has_residual=False), np.zeros_like(m)
        whole = groups[i]["params"][j]
        size, parted = whole.numel() * (2 if whole.is_complex() else 1), internals.is_distributed(whole)
        arrays = (g / scaled, m, s, p, center / scaled)
        layers.append(Layer(*names(i, j), size, int(step), numbers, *arrays, parted))
    return layers


def numbers_of(optimizer: Optimizer, i: int, step: int, lr: float, eps_of_s: float) -> Numbers:
    """The scalars of a group's step, from `rule.coefficients` alone.

    Args:
        optimizer: Of the group.
        i: Place of the group.
        step: Steps so far.
        lr: The learning rate, on the host.
        eps_of_s: Distance from 1 to the next number, in the type of s.
    """
    group = optimizer.param_groups[i]
    (beta1, beta2), eps = map(float, group["betas"]), float(group["eps"])
    plain = partial(rule.coefficients, betas=(beta1, beta2), eps=eps, lr=1.0)
    corrected = c = plain(step)
    within = 0.0
    if isinstance(optimizer, Base):
        numbers = {"lr": 1.0, "betas": (beta1, beta2), "weight_decay": float(group["weight_decay"])}
        own = partial(optimizer._coefficients, group, numbers)
        c, never = own(step), optimizer._never_adaptive(group)
        # Ranger adds eps to s in its adaptive steps only: from the first of them on.
        first = next((t for t in range(1, step + 1) if never or not eps or own(t).eps), step + 1)
        if own(step).eps or not eps:
            within = (corrected.root_scale / plain(step - first + 1).root_scale) ** 2 / (1 - beta2)
    decoupled = isinstance(optimizer, AdamW) or group.get("weight_decouple") or group.get("decoupled_weight_decay")
    return Numbers(
        lr=lr,
        eps=eps,
        offset=eps,
        correction1=corrected.step_size,
        correction2=corrected.root_scale**2,
        within_per_eps=within,
        factor=c.step_size,
        root_scale=c.root_scale,
        step_offset=c.offset,
        max_update=group.get("max_update") or math.inf,
        l2=0.0 if decoupled else float(group["weight_decay"]),
        gain=-1.0 if group["maximize"] else 1.0,
        has_residual=beta1 > 0,
        resolution=eps_of_s / (1 - beta2),  # s stands still where it would move by less than it can
    )


def _index(whole: Tensor, part: Tensor, n: int) -> Tensor:
    """Places of the sampled elements in this process's part, in the order of its dimensions.

    The sample is one of the whole tensor: of a distributed one, every process has those of it that lie in its part, and
    of several with the same part the first has them. Together they have what one process would.
    """
    shape = _real(part).shape
    if not internals.is_distributed(whole):
        return torch.from_numpy(_spread(math.prod(shape), n))
    box = internals.box(whole)
    if box is None or tuple(box.shape) != tuple(part.shape):  # nobody knows where it lies
        return torch.from_numpy(_spread(math.prod(shape), n))
    if not box.first or not part.numel():
        return torch.empty(0, dtype=torch.int64)
    more = shape[part.ndim :]  # of complex numbers, the pair
    places = np.unravel_index(_spread(whole.numel() * math.prod(more), n), (*whole.shape, *more))
    inside = [x - start for x, start in zip(places, (*box.offset, *(0 for _ in more)), strict=True)]
    held = np.logical_and.reduce([(x >= 0) & (x < size) for x, size in zip(inside, shape, strict=True)])
    return torch.from_numpy(np.ravel_multi_index([x[held] for x in inside], tuple(shape)))


def _spread(size: int, n: int) -> NDArray[np.int64]:
    """At most n of the first `size` numbers, the same for the same arguments, in order."""
    if size <= n:
        return np.arange(size)
    i = np.arange(n)
    return np.unique(((i + GOLDEN * i % 1) * (size / n)).astype(np.int64))


def _center(optimizer: Optimizer, whole: Tensor, one: Seen, index: Tensor) -> Tensor:
    """What centralization takes from the sampled gradients; nan where rows are spread over processes."""
    group = optimizer.param_groups[one.place[0]]
    dims: tuple[int, ...] = ()
    if isinstance(optimizer, Base) and (options := optimizer._options(group)).gc_loc:
        dims = centralized_dims(whole.ndim, options.gc_min_dim)
    if not dims or not index.numel():
        return torch.zeros(index.shape, device=index.device)
    if internals.is_distributed(whole) and not internals.cuts(whole).isdisjoint(dims):
        return torch.full(index.shape, math.nan, device=index.device)
    g = one.g.to(one.m.dtype) * (-1.0 if group["maximize"] else 1.0)
    if not group["weight_decouple"]:
        g = g + group["weight_decay"] * one.p
    return torch.take(_real(g.mean(dims, keepdim=True).expand_as(g)), index)


def _to_host(rows: list[tuple[list[Tensor], list[Any]]]) -> list[tuple[list[NDArray[np.float64]], list[float]]]:
    """Vectors as NumPy's, and numbers as Python's: one transfer for each device and type."""
    found: list[Any] = [None for _ in rows]
    alike: dict[Any, list[int]] = {}
    for i, (vectors, _) in enumerate(rows):
        alike.setdefault((vectors[0].device, vectors[0].dtype), []).append(i)
    for indices in alike.values():
        parts = [x.reshape(-1).to(rows[i][0][0]) for i in indices for x in chain(*rows[i]) if isinstance(x, Tensor)]
        arrays = iter(np.split(torch.cat(parts).cpu().double().numpy(), np.cumsum([x.numel() for x in parts])))
        for i in indices:
            host = [next(arrays) for _ in rows[i][0]]
            found[i] = host, [float(next(arrays)[0]) if isinstance(x, Tensor) else x for x in rows[i][1]]
    return found


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _number(x: Any) -> float | Tensor:
    """A number as it is on the host; one of another device is left there, to be fetched with all others."""
    return x.detach() if isinstance(x, Tensor) and x.device.type != "cpu" else float(x)
