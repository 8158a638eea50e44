"""The step through the CPU kernel: a plan of addresses, made once, and at every step the proof that it still holds.

The kernel reads and writes raw memory. A plan therefore compares, before every step, whatever an address depends on
with what it was made from: the parameters of every group, the options that choose a kernel, the state's tensors and
their addresses and sizes, and the address, type, size and layout of every parameter and gradient. Gradients that moved
are followed; for anything else that changed, a new plan is made. What fits no kernel (a gradient of another layout, a
subclass of Tensor, ...) is left to foreach. A plan keeps no gradient alive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain, islice, repeat
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import _profiler_enabled as profiling  # type: ignore[attr-defined]
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.profiler import record_function

from adabelief.kernels import cpu
from adabelief.rule import Coefficients, Floats
from adabelief.torch.state import state_dtype
from adabelief.torch.update import Options, Tensors, centralized_dims

Group = dict[str, Any]

DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}
CHOOSING = ("foreach", "fused", "capturable", "differentiable", "amsgrad", "use_gc", "gc_conv_only", "gc_loc")
"""Options that decide what a plan is; the others are read at every step."""

_grad, _dtype, _bytes = attrgetter("grad"), attrgetter("dtype"), attrgetter("nbytes")
_params, _address = itemgetter("params"), Tensor.data_ptr


def wanted(group: Group) -> bool:
    """Whether a group's step is to go through a kernel, as far as there is one for its tensors."""
    if group["fused"] is not None:
        return bool(group["fused"])
    chosen_otherwise = group["foreach"] is not None or group["capturable"] or group["differentiable"]
    on_cpu = bool(group["params"]) and group["params"][0].device.type == "cpu"
    return on_cpu and not chosen_otherwise and not cpu.unavailable()


class Part:
    """A group's share of a plan: one table for each element type and step number, and what is left to foreach."""

    def __init__(self, tensors: Tensors, options: Options) -> None:
        alike: dict[Any, list[int]] = defaultdict(list)
        self.rest: list[Tensor] = []
        for i, p in enumerate(tensors.params):
            if _fits(tensors, i, options):
                alike[p.dtype.to_real(), tensors.steps[i].item()].append(i)
            else:
                self.rest.append(p)
        self.flags = cpu.AMSGRAD if tensors.max_exp_avg_vars else 0
        self.tables = [
            (cpu.Table([_row(tensors, i, options) for i in indices], str(dtype).removeprefix("torch.")), indices)
            for (dtype, _), indices in alike.items()
        ]
        order = list(chain.from_iterable(alike.values()))
        self.params = [tensors.params[i] for i in order]
        self.state = {  # the tensors of each name, in the order of the parameters
            name.removesuffix("s"): [tensors_of_name[i] for i in order]
            for name, tensors_of_name in zip(Tensors._fields[2:], tensors[2:], strict=True)
            if tensors_of_name
        }

    def follow(self, addresses: Iterator[int]) -> None:
        """Takes the gradients' addresses, as many as there are parameters."""
        for table, indices in self.tables:
            table.set_gradients(list(islice(addresses, len(indices))))

    def step(self, coefficients: Callable[..., Coefficients], options: Options) -> None:
        """Counts and applies one step for what the tables hold."""
        gain = (-1.0 if options.maximize else 1.0) / float(1.0 if options.grad_scale is None else options.grad_scale)
        for table, _ in self.tables:
            t = table.count()
            c = coefficients(t, xp=Floats)
            flags = self.flags | (cpu.LOOKAHEAD if options.k and t % options.k == 0 else 0)
            with record_function("adabelief::cpu_update") if profiling() else nullcontext():
                table.update(flags, gain=gain, alpha=options.alpha, **c._asdict())
        increment_version(self.params)  # so that autograd notices, as after any in-place operator


class Plan:
    """The addresses of everything that the next step of an optimizer touches."""

    def __init__(
        self, optimizer: Optimizer, init_group: Callable[..., None], options: Callable[[Group], Options]
    ) -> None:
        """Plans every group that wants a kernel; `init_group` begins missing state and lists a group's tensors."""
        groups = optimizer.param_groups
        self.parts: list[Part | None] = []
        for group in groups:
            tensors = Tensors.empty()
            if wanted(group):
                init_group(group, *tensors)
            self.parts.append(Part(tensors, options(group)) if tensors.params else None)
        parts = [part for part in self.parts if part]
        self._choices = _choices(groups)
        self._params = list(chain.from_iterable(map(_params, groups)))
        self._without = [p for p in self._params if p.grad is None]
        self._keys, self._entries = list(optimizer.state), list(optimizer.state.values())
        self._named = [
            (itemgetter(name), [optimizer.state[p] for p in part.params], tensors)
            for part in parts
            for name, tensors in part.state.items()
        ]
        self._state = [x for _, _, tensors in self._named for x in tensors]
        self._state_places = list(map(_address, self._state)), list(map(_bytes, self._state))
        self._moving = [p for part in parts for p in part.params]
        self._places = _places(self._moving)
        self._gradients = _places(list(map(_grad, self._moving)))

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether every address is still that of what the step is to touch; follows gradients that only moved."""
        try:
            return self._unchanged(optimizer) and self._follow(list(map(_grad, self._moving)))
        except (KeyError, TypeError, RuntimeError):  # an entry or a gradient is gone, or is sparse
            return False

    def _unchanged(self, optimizer: Optimizer) -> bool:
        groups, state = optimizer.param_groups, optimizer.state
        return (
            _choices(groups) == self._choices
            and _same(list(chain.from_iterable(map(_params, groups))), self._params)
            and all(map(is_, map(_grad, self._without), repeat(None)))
            and _same(list(state), self._keys)
            and _same(list(state.values()), self._entries)
            and all(_same(list(map(get, entries)), tensors) for get, entries, tensors in self._named)
            and (list(map(_address, self._state)), list(map(_bytes, self._state))) == self._state_places
            and _places(self._moving) == self._places
            and all(table.alike() for part in self.parts if part for table, _ in part.tables)
        )

    def _follow(self, gradients: list[Tensor]) -> bool:
        now = _places(gradients)
        if now == self._gradients:
            return True
        if now[1:] != self._gradients[1:]:
            return False
        self._gradients, addresses = now, iter(now[0])
        for part in self.parts:
            if part:
                part.follow(addresses)
        return True


def _choices(groups: list[Group]) -> list[Any]:
    return [[group.get(name) for name in CHOOSING] for group in groups]


def _same(objects: list[Any], others: list[Any]) -> bool:
    return len(objects) == len(others) and all(map(is_, objects, others))


def _places(tensors: list[Tensor]) -> tuple[Any, ...]:
    """Address, type, size and layout of every tensor: what decides which memory its elements are in."""
    contiguous = list(map(Tensor.is_contiguous, tensors))
    strides = [] if all(contiguous) else list(map(Tensor.stride, tensors))
    return (
        list(map(_address, tensors)),
        list(map(_dtype, tensors)),
        list(map(Tensor.numel, tensors)),
        contiguous,
        strides,
    )


def _fits(tensors: Tensors, i: int, options: Options) -> bool:
    """Whether the kernel may step a parameter: dense memory, the same for all of its tensors, on the CPU."""
    p, g, *state, step = (x[i] for x in tensors if x)
    dims = centralized_dims(p, options.gc_min_dim)
    return (
        all(type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in (p, g, *state, step))
        and all(x.layout == torch.strided and not x.is_conj() and not x.is_neg() for x in (p, g, *state))
        and p.dtype in DTYPES
        and g.dtype == p.dtype
        and all(x.dtype == state_dtype(p) for x in state)
        and step.dtype == torch.float32
        and all(x.shape == p.shape and x.stride() == p.stride() for x in (g, *state))
        and _dense(p)
        and not (dims and (p.is_complex() or not options.gc_loc or p.stride(0) * p.shape[0] != p.numel()))
    )


def _dense(p: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, in whatever order of dimensions."""
    order = sorted(range(p.ndim), key=p.stride, reverse=True)
    return p.permute(order).is_contiguous()


def _row(tensors: Tensors, i: int, options: Options) -> list[int]:
    p = tensors.params[i]
    addresses = [x[i].data_ptr() if x else 0 for x in tensors]
    rows = p.shape[0] if p.numel() and centralized_dims(p, options.gc_min_dim) else 0
    return [*addresses, p.numel() * (2 if p.is_complex() else 1), rows]
