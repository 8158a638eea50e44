"""One AdaBelief update of lists of tensors: with foreach, tensor by tensor, or recorded by autograd.

All are `rule.reference_step` in torch and are tested against it. They work in the type of the state (float32 for half
precision), round the parameter once, and read the gradient only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adabelief.kernels.layout import KEPT
from adabelief.options import centralized_dims
from adabelief.rule import Coefficients, Floats
from adabelief.torch import internals, storage
from adabelief.torch.operators import FOREACH, ONE_BY_ONE, Operators

CPU_BUCKET_BYTES = 2**20
"""Bytes of one list that foreach takes at a time on a CPU, to stay in its cache."""

BUCKET_BYTES = 2**26
"""The same elsewhere. The one temporary copy of foreach is as large as a bucket, or as a tensor that is larger."""


class Tensors(NamedTuple):
    """The tensors of one group, index by index."""

    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    columns: dict[str, list[Tensor]]
    """The state, by the names of `kernels.layout.KEPT`; the lists of what is not used are empty, and None stands where
    only others use it."""
    starts: list[int] = []  # noqa: RUF012 - never changed
    """The index of each one's first element in the whole that it is a part of; where there are none, 0."""

    @classmethod
    def empty(cls) -> Tensors:
        """Lists to be filled."""
        return cls([], [], [], {name: [] for name in KEPT})

    def at(self, i: int) -> dict[str, Tensor]:
        """The arrays of one parameter by the names of `kernels.layout.ARRAYS`."""
        kept = {name: xs[i] for name, xs in self.columns.items() if xs and xs[i] is not None}
        return {"p": self.params[i], "g": self.grads[i], **kept}

    def pick(self, indices: list[int]) -> Tensors:
        """The tensors at these indices."""
        return self._map(lambda xs: [xs[i] for i in indices])

    def reals(self) -> Tensors:
        """Complex tensors as pairs of reals, in the same memory (of a lazily conjugated gradient, in a copy)."""
        return self._map(lambda xs: [torch.view_as_real(x.resolve_conj()) if _is_complex(x) else x for x in xs])

    def _map(self, f: Callable[[list[Any]], list[Any]]) -> Tensors:
        lists = {name: f(xs) if xs else [] for name, xs in self.columns.items()}
        columns = {name: xs if any(x is not None for x in xs) else [] for name, xs in lists.items()}
        steps, starts = (f(xs) if xs else [] for xs in (self.steps, self.starts))
        return Tensors(f(self.params), f(self.grads), steps, columns, starts)


class Scalars(NamedTuple):
    """The numbers of one step, that `kernels.layout.SCALARS` names: the coefficients and what stands around them."""

    gain: Any
    """The gradient is multiplied by it: −1 to climb, over the scale of a GradScaler."""
    shrink: Any
    l2: Any
    mean_gain: Any
    beta2: Any
    belief_gain: Any
    eps: Any
    step_size: Any
    root_scale: Any
    offset: Any
    bound: Any
    alpha: Any
    synchronize: Any
    """Whether Lookahead is due."""
    skip: Any
    """Whether nothing at all is to happen, steps are not even counted."""
    t: Any
    """The step number, for what is rounded."""


class Recipe(NamedTuple):
    """What the scalars of a group follow from, beside the step number."""

    coefficients: Callable[..., Coefficients]
    """`rule.coefficients` with the group's options, called as `coefficients(t, xp=...)`."""
    gain: Any = 1.0
    alpha: float = 0.5
    k: int = 0
    """Lookahead in every k-th step; 0 for none."""
    skip: Any = 0.0

    def scalars(self, t: Any, xp: Any = Floats) -> Scalars:
        """The scalars of step t, in any array namespace."""
        synchronize = t % self.k == 0 if self.k else False
        return Scalars(self.gain, *self.coefficients(t, xp=xp), self.alpha, synchronize, self.skip, t)


class Options(NamedTuple):
    """What kind of step a group takes, whatever its scalars are."""

    gc_min_dim: int = 0
    """Centralize tensors of at least this many dimensions; 0 for none."""
    gc_loc: bool = True
    """Centralize gradients, or else steps."""
    capturable: bool = False
    """Step numbers are on the parameters' device, and so is all that follows from them."""
    fused: bool = False
    """A kernel was asked for, on devices too whose kernel is not the default."""
    dithered: bool = False
    """Weights are rounded by the dither of their state's codes, not to the nearest."""


def update(
    tensors: Tensors,
    recipe: Recipe,
    options: Options,
    *,
    foreach: bool | None = None,
    recorded: bool = False,
    traced: bool = False,
) -> None:
    """Counts one step for every parameter and applies it.

    Args:
        tensors: The group's tensors.
        recipe: Of the group's scalars.
        options: The kind of step.
        foreach: Use foreach (True) or one tensor after another (False); by default foreach for the types of tensors
            that are known to have it.
        recorded: Let autograd record the step; the state is replaced by what it computes.
        traced: Keep the step numbers and all that follows from them on the device as tensors, as CUDA graphs and
            torch.compile need it.
    """
    skip = recipe.skip if traced and isinstance(recipe.skip, Tensor) else None  # which only the device can read
    if not tensors.params or (skip is None and float(recipe.skip)):
        return
    # A step number that is no plain tensor (a fake one, which estimates memory) has no value to be read.
    traced = traced or any(type(step) is not Tensor for step in tensors.steps)
    count(tensors.steps, 0.0 if skip is None else skip)
    numbers: list[Any] = list(tensors.steps) if traced else [step.item() for step in tensors.steps]
    if not recorded:
        limit = CPU_BUCKET_BYTES if tensors.params[0].device.type == "cpu" else BUCKET_BYTES
        tensors, owners = storage.cut(tensors, options, limit)
        numbers = [numbers[i] for i in owners]
    dims = [centralized_dims(p.ndim, options.gc_min_dim) for p in tensors.params]
    if recorded:
        for i, t in enumerate(numbers):
            one = tensors.pick([i]).reals()
            t = t.to(one.columns["m"][0].dtype, copy=True) if traced else t  # autograd keeps it, and it counts on
            record_step(one, recipe.scalars(t, torch if traced else Floats), options, dims[i])
        return
    for operators, indices in _buckets(tensors, numbers, foreach, traced):
        bucket = tensors.pick(indices).reals()
        if traced:
            p = bucket.params[0]  # whose device a learning rate may be on too
            t = torch.stack(bucket.steps).to(p.device, torch.promote_types(p.dtype, torch.float32))
            scalars = Scalars(*(_each(x, len(indices)) for x in recipe.scalars(t, torch)))
        else:
            scalars = recipe.scalars(numbers[indices[0]])
        arrays = [bucket.params, *bucket.columns.values()] if skip is not None else []
        written = [x for xs in arrays for x in xs if x is not None]
        kept = [x.clone() for x in written]
        step_stored(bucket, scalars, options, [dims[i] for i in indices], operators)
        if skip is not None:
            for x, before in zip(written, kept, strict=True):
                x.copy_(torch.where(skip.to(x.device) == 0, x, before))


def count(steps: list[Tensor], skip: Any) -> None:
    """Counts one more step, but for one that is skipped: which only the device may know, and the host does not ask."""
    if isinstance(skip, Tensor):  # one tensor for all would be read by the host, one for each is not
        due = (1.0 - skip).view(())
        torch._foreach_add_(steps, [due.to(step) for step in steps])
    else:
        torch._foreach_add_(steps, 1.0 - skip)


def step_stored(
    tensors: Tensors, c: Scalars, options: Options, dims: list[tuple[int, ...]], operators: Operators
) -> None:
    """The update in place, of tensors of the same types, however their state is stored."""
    floats = storage.opened(tensors, options)
    step(floats, c, options, dims, operators)
    storage.close(tensors, floats, c.t)


def record_step(tensors: Tensors, c: Scalars, options: Options, dims: tuple[int, ...]) -> None:
    """The update of one tensor for autograd to record: nothing that it has read is changed but by copying into it."""
    arrays = tensors.at(0)
    p, g, m, s = (arrays[name] for name in ("p", "g", "m", "s"))
    p_new, g = p.to(m.dtype, copy=True) * c.shrink, g.to(m.dtype) * c.gain
    if not _is(c.l2, 0.0):
        g = g + c.l2 * p_new
    if dims and options.gc_loc:
        g = g - g.mean(dims, keepdim=True)
    d = g - m
    m.add_(d * c.mean_gain)
    s.mul_(c.beta2).add_(d * d * c.belief_gain).add_(c.eps)
    if "s_max" in arrays:
        s_max = arrays["s_max"]
        s = s_max.copy_(torch.maximum(s_max.clone(), s))
    step = m / (s.sqrt() * c.root_scale + c.offset)
    if dims and not options.gc_loc:
        step = step - _cut(step, c.bound).mean(dims, keepdim=True)
    p_new = p_new - c.step_size * _cut(step, c.bound)
    p.copy_(_synchronized(arrays["slow"], p_new, c.synchronize, c.alpha) if "slow" in arrays else p_new)


def step(tensors: Tensors, c: Scalars, options: Options, dims: list[tuple[int, ...]], o: Operators) -> None:
    """The update in place, of tensors of the same types; the scalars are numbers, or lists of one tensor a parameter.

    `d` is the only temporary: first g − m, then (in the same memory) the denominator.
    """
    params, grads = tensors.params, tensors.grads
    m, s, s_max, slow = (tensors.columns[name] for name in ("m", "s", "s_max", "slow"))
    dtype = m[0].dtype
    narrow, centralize = params[0].dtype != dtype, any(dims)
    scaled, decayed = not _is(c.gain, 1.0), not _is(c.l2, 0.0)
    if narrow or scaled or decayed or centralize or grads[0].dtype != dtype:
        d = [g.to(dtype, copy=True) for g in grads]
        if scaled:
            o.mul_(d, c.gain)
        if decayed:
            o.add_scaled_(d, params, c.l2)  # which is not 0 where shrink is 1
        if centralize and options.gc_loc:
            _centralize_(d, dims)
        o.sub_(d, m)
    else:
        d = o.sub(grads, m)
    o.add_scaled_(m, d, c.mean_gain)
    o.mul_(s, c.beta2)
    o.add_product_(s, d, d, c.belief_gain)
    o.add_(s, c.eps)
    del d
    if s_max:
        o.maximum_(s_max, s)
    d = o.sqrt(s_max or s)
    o.mul_(d, c.root_scale)
    o.add_(d, c.offset)

    of_steps, bounded = centralize and not options.gc_loc, not _is(c.bound, math.inf)
    in_place = isinstance(c.step_size, float) and not (narrow or of_steps or bounded)
    if in_place:
        if not _is(c.shrink, 1.0):
            o.mul_(params, c.shrink)
        o.add_quotient_(params, m, d, -c.step_size)
        new = params
    else:
        o.reciprocal_(d)
        o.mul_(d, m)
        if of_steps:
            _centralize_(d, dims, c.bound)
        if bounded:
            o.cut_(d, c.bound)
        o.mul_(d, c.step_size)
        o.neg_(d)
        o.add_scaled_(d, params, c.shrink)
        new = d
    if slow:
        due = c.synchronize if isinstance(c.synchronize, list) else [c.synchronize] * len(new)
        new = [_synchronized(*each, c.alpha) for each in zip(slow, new, due, strict=True)]
    if slow or not in_place:
        for p, x in zip(params, new, strict=True):  # DTensor has no _foreach_copy_
            p.copy_(x)


def _synchronized(slow: Tensor, p: Tensor, due: Any, alpha: float) -> Tensor:
    """Lookahead: where it is due, slow ← slow + alpha · (p − slow) and p ← slow; returns p."""
    if isinstance(due, Tensor):
        slow.copy_(torch.where(due, slow.lerp(p, alpha), slow))
        return torch.where(due, slow, p)
    return slow.lerp_(p.to(slow.dtype), alpha) if due else p


def _cut(x: Tensor, bound: Any) -> Tensor:
    """A step cut to [−bound, bound]; nan stays nan."""
    return x if _is(bound, math.inf) else x.clamp(-bound, bound)


def _centralize_(tensors: list[Tensor], dims: list[tuple[int, ...]], bound: Any = math.inf) -> None:
    """X ← x − the mean of x cut to [−bound, bound]."""
    bounds = bound if isinstance(bound, list) else [bound] * len(tensors)
    for x, dim, each in zip(tensors, dims, bounds, strict=True):
        if dim:
            x.sub_(_cut(x, each).mean(dim, keepdim=True))


def _buckets(
    tensors: Tensors, numbers: list[Any], foreach: bool | None, traced: bool
) -> Iterator[tuple[Operators, list[int]]]:
    """Indices of parameters that the same calls can update, no more of them than the temporary may hold."""
    # A compiler fuses by itself, and that of torch 2.11 fuses foreach on GPUs so that d reads m after m was written.
    together = ONE_BY_ONE if torch.compiler.is_compiling() else FOREACH
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, (p, g) in enumerate(zip(tensors.params, tensors.grads, strict=True)):
        distributed = internals.is_distributed(p)
        known = distributed or internals.is_plain(p)
        one_by_one = not known if foreach is None else not foreach
        mesh = p.device_mesh if distributed else None  # type: ignore[attr-defined]
        kind = p.device, p.dtype, g.dtype, mesh
        alike[kind, one_by_one, i if one_by_one else None, None if traced else numbers[i]].append(i)
    for ((device, *_), one_by_one, *_), indices in alike.items():
        room = limit = CPU_BUCKET_BYTES if device.type == "cpu" else BUCKET_BYTES
        bucket: list[int] = []
        for i in indices:
            size = tensors.columns["m"][i].numel() * max(4, tensors.columns["m"][i].element_size())
            if bucket and size > room:
                yield together, bucket
                bucket, room = [], limit
            bucket.append(i)
            room -= size
        yield ONE_BY_ONE if one_by_one else together, bucket


def _is_complex(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_complex()


def _each(x: Any, n: int) -> Any:
    """A tensor as a list of n, a vector's elements or n times the same; a number as it is."""
    if not isinstance(x, Tensor):
        return x
    return list(x.unbind()) if x.ndim else [x] * n


def _is(x: Any, number: float) -> bool:
    """Whether a scalar is known to be a number; of a tensor it is not known."""
    return isinstance(x, (int, float)) and x == number
