"""One AdaBelief update of lists of tensors, as a plain loop or with foreach.

Both are `rule.reference_step` in torch and are tested against it. They work in the type of the state (float32 for half
precision), round the parameter once, and read the gradient only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adabelief.rule import Coefficients, Floats

CPU_BUCKET_BYTES = 2**20
"""Bytes of one list that foreach takes at a time on a CPU, to stay in its cache."""

BUCKET_BYTES = 2**26
"""The same elsewhere. The one temporary copy of foreach is as large as a bucket, or as a tensor that is larger."""


class Tensors(NamedTuple):
    """The tensors of one group, index by index; the lists of what is not used stay empty."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_vars: list[Tensor]
    max_exp_avg_vars: list[Tensor]
    slow_buffers: list[Tensor]
    steps: list[Tensor]

    @classmethod
    def empty(cls) -> Tensors:
        """Seven empty lists."""
        return cls([], [], [], [], [], [], [])

    def pick(self, indices: list[int]) -> Tensors:
        """The tensors at these indices, complex ones as pairs of reals."""
        return Tensors(*([_real(tensors[i]) for i in indices] if tensors else [] for tensors in self))


class Options(NamedTuple):
    """What an update needs beside tensors and scalars."""

    maximize: bool = False
    grad_scale: float | Tensor | None = None
    found_inf: Tensor | None = None
    """Skip the step where it is not 0: only what `capturable` kernels decide on the device."""
    capturable: bool = False
    gc_min_dim: int = 0
    """Centralize tensors of at least this many dimensions; 0 for none."""
    gc_loc: bool = True
    k: int = 0
    """Lookahead in every k-th step; 0 for none."""
    alpha: float = 0.5
    fused: bool | None = None
    """Whether a kernel was asked for (True), on devices too whose kernel is not the default."""


def update(
    tensors: Tensors,
    coefficients: Callable[..., Coefficients],
    options: Options,
    *,
    foreach: bool,
    traced: bool,
) -> None:
    """Counts one step for every parameter and applies it.

    Args:
        tensors: The group's tensors.
        coefficients: `rule.coefficients` with the group's options: called as `coefficients(t, xp=...)`.
        options: The rest of the group's options.
        foreach: Use foreach, else the loop.
        traced: Keep the step numbers and all that follows from them on the device as tensors, as CUDA graphs and
            torch.compile need it.
    """
    if not tensors.params:
        return
    torch._foreach_add_(tensors.steps, 1.0)
    step_numbers: list[Any] = list(tensors.steps) if traced else [step.item() for step in tensors.steps]
    dims = [centralized_dims(p, options.gc_min_dim) for p in tensors.params]

    if not foreach:
        for i, t in enumerate(step_numbers):
            one = tensors.pick([i])
            t = t.to(one.exp_avgs[0].dtype) if traced else t
            c, sync = coefficients(t, xp=torch if traced else Floats), options.k and t % options.k == 0
            _loop(one, c, options, dims[i], sync)
        return

    for indices in _buckets(tensors, step_numbers, traced):
        bucket = tensors.pick(indices)
        if traced:
            t = torch.stack(bucket.steps).to(bucket.exp_avgs[0].dtype)
            c = Coefficients(*(_unbound(x) for x in coefficients(t, xp=torch)))
            sync = _unbound(t % options.k == 0) if options.k else False
        else:
            t = step_numbers[indices[0]]
            c, sync = coefficients(t, xp=Floats), options.k and t % options.k == 0
        foreach_step(bucket, c, options, [dims[i] for i in indices], sync)


def _loop(tensors: Tensors, c: Coefficients, options: Options, dims: tuple[int, ...], sync: Any) -> None:
    """The plain update of one tensor; every scalar may be a tensor too, and autograd may record it."""
    (p,), (g,), (m,), (s,), s_max, slow, _ = tensors
    p_new, g = p.to(m.dtype, copy=True) * c.shrink, g.to(m.dtype)
    if options.grad_scale is not None:
        g = g / options.grad_scale
    if options.maximize:
        g = -g
    g = g + c.l2 * p_new
    if dims and options.gc_loc:
        g = g - g.mean(dims, keepdim=True)
    d = g - m
    m.add_(d * c.mean_gain)
    s.mul_(c.beta2).add_(d * d * c.belief_gain).add_(c.eps)
    if s_max:
        s = s_max[0].copy_(torch.maximum(s_max[0].clone(), s))
    step = m / (s.sqrt() * c.root_scale + c.offset)
    if dims and not options.gc_loc:
        step = step - step.mean(dims, keepdim=True)
    p_new = p_new - c.step_size * step
    if slow:
        p_new = _synchronized(slow[0], p_new, sync, options.alpha)
    p.copy_(p_new)


def foreach_step(tensors: Tensors, c: Coefficients, options: Options, dims: list[tuple[int, ...]], sync: Any) -> None:
    """The same for a bucket of tensors of the same types; the scalars are floats, or lists of one tensor a parameter.

    `d` is the only temporary: first g − m, then (in the same memory) the denominator.
    """
    params, grads, m, s, s_max, slow, _ = tensors
    dtype = m[0].dtype
    narrow = params[0].dtype != dtype
    centralize = any(dims)
    if narrow or grads[0].dtype != dtype or centralize or options.maximize or options.grad_scale is not None or c.l2:
        d = [g.to(dtype, copy=True) for g in grads]
        if options.grad_scale is not None:
            torch._foreach_div_(d, options.grad_scale)
        if options.maximize:
            torch._foreach_neg_(d)
        if c.l2:
            torch._foreach_add_(d, params, alpha=c.l2)
        if centralize and options.gc_loc:
            _centralize_(d, dims)
        torch._foreach_sub_(d, m)
    else:
        d = list(torch._foreach_sub(grads, m))
    torch._foreach_add_(m, d, alpha=c.mean_gain)
    torch._foreach_mul_(s, c.beta2)
    torch._foreach_addcmul_(s, d, d, value=c.belief_gain)
    torch._foreach_add_(s, c.eps)
    del d
    if s_max:
        torch._foreach_maximum_(s_max, s)
    d = list(torch._foreach_sqrt(s_max or s))
    torch._foreach_mul_(d, c.root_scale)
    torch._foreach_add_(d, c.offset)

    in_place = not (narrow or isinstance(c.step_size, list) or (centralize and not options.gc_loc))
    if in_place:
        if c.shrink != 1.0:
            torch._foreach_mul_(params, c.shrink)
        torch._foreach_addcdiv_(params, m, d, value=-c.step_size)
        new = params
    else:
        torch._foreach_reciprocal_(d)
        torch._foreach_mul_(d, m)
        if centralize and not options.gc_loc:
            _centralize_(d, dims)
        torch._foreach_mul_(d, c.step_size)
        torch._foreach_neg_(d)
        if isinstance(c.shrink, Tensor):
            for d_i, p in zip(d, params, strict=True):
                d_i.addcmul_(p.to(dtype), c.shrink.to(dtype))
        else:
            torch._foreach_add_(d, params, alpha=c.shrink)
        new = d
    if slow:
        syncs = sync if isinstance(sync, list) else [sync] * len(new)
        new = [_synchronized(*each, options.alpha) for each in zip(slow, new, syncs, strict=True)]
    if slow or not in_place:
        for p, x in zip(params, new, strict=True):  # DTensor has no _foreach_copy_
            p.copy_(x)


def _synchronized(slow: Tensor, p: Tensor, sync: Any, alpha: float) -> Tensor:
    """Lookahead: where `sync` holds, slow ← slow + alpha · (p − slow) and p ← slow; returns p."""
    if isinstance(sync, Tensor):
        slow.copy_(torch.where(sync, slow.lerp(p, alpha), slow))
        return torch.where(sync, slow, p)
    return slow.lerp_(p, alpha) if sync else p


def _centralize_(tensors: list[Tensor], dims: list[tuple[int, ...]]) -> None:
    for x, dim in zip(tensors, dims, strict=True):
        if dim:
            x.sub_(x.mean(dim, keepdim=True))


def centralized_dims(p: Tensor, min_dim: int) -> tuple[int, ...]:
    """All dimensions but the first, where p has enough of them; a complex p's, not those of its pairs of reals."""
    return tuple(range(1, p.ndim)) if min_dim and p.ndim >= min_dim else ()


def _buckets(tensors: Tensors, step_numbers: list[Any], traced: bool) -> Iterator[list[int]]:
    """Indices of parameters that can be updated by the same calls, no more of them than the temporary may hold."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, (p, g) in enumerate(zip(tensors.params, tensors.grads, strict=True)):
        alike[p.device, p.dtype, g.dtype, None if traced else step_numbers[i]].append(i)
    for (device, *_), indices in alike.items():
        room = limit = CPU_BUCKET_BYTES if device.type == "cpu" else BUCKET_BYTES
        bucket: list[int] = []
        for i in indices:
            size = tensors.exp_avgs[i].numel() * tensors.exp_avgs[i].element_size()
            if bucket and size > room:
                yield bucket
                bucket, room = [], limit
            bucket.append(i)
            room -= size
        yield bucket


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _unbound(x: Any) -> Any:
    """A vector as the list of its elements; what is the same for every parameter stays as it is."""
    return list(x.unbind()) if isinstance(x, Tensor) and x.ndim else x
