"""The step through a kernel: a plan of addresses, made once, and at every step the proof that it still holds.

The kernels read and write raw memory. Before every step a plan therefore compares whatever an address depends on with
what it was made from: the parameters of every group, the options that choose a kernel, the state's tensors, and the
address, type, size and layout of every parameter, state tensor and gradient. Gradients that moved are followed; for
anything else that changed, a new plan is made. What fits no kernel (a gradient of another layout, a subclass of Tensor,
...) is left to foreach. A plan keeps no gradient alive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import _profiler_enabled as profiling  # type: ignore[attr-defined]
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.profiler import record_function

from adabelief.kernels import cpu
from adabelief.rule import Coefficients, Floats
from adabelief.torch import proof
from adabelief.torch.state import state_dtype
from adabelief.torch.update import Options, Tensors, centralized_dims

Group = dict[str, Any]

DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}
CHOOSING = ("foreach", "fused", "capturable", "differentiable", "amsgrad", "use_gc", "gc_conv_only", "gc_loc")
"""Options that decide what a plan is; the others are read at every step."""

SCALARS = (*cpu.SCALARS, "synchronize", "skip")
"""What a kernel takes for each array: numbers, whether Lookahead is due, and whether it is to stay as it is."""


class OnCpu:
    """Arrays of one element type and step number, stepped by the C kernel."""

    def __init__(self, tensors: Tensors, indices: list[int], options: Options) -> None:
        self.indices = indices
        self._flags = _flags(tensors, options)
        self._table = cpu.Table([_row(tensors, i, options) for i in indices], _type_name(tensors.params[indices[0]]))
        self._steps = cpu.Steps([tensors.steps[i].data_ptr() for i in indices if tensors.steps])

    def alike(self) -> bool:
        """Whether all arrays still have made the same number of steps."""
        return self._steps.alike()

    def follow(self, addresses: list[int]) -> None:
        """Takes new addresses of the gradients."""
        self._table.set_gradients(addresses)

    def step(self, coefficients: Callable[..., Coefficients], options: Options) -> None:
        """Counts and applies one step."""
        t = self._steps.count()
        self.apply(_scalars(t, coefficients(t, xp=Floats), options))

    def apply(self, row: tuple[float, ...]) -> None:
        """Applies one step with a row of SCALARS."""
        *scalars, synchronize, _ = row
        flags = self._flags | (cpu.LOOKAHEAD if synchronize else 0)
        with record_function("adabelief::cpu_update") if profiling() else nullcontext():
            self._table.update(flags, scalars)


class OnGpu:
    """Arrays of one device and element type, stepped by the Triton kernel.

    Where step numbers are on the device (`capturable`) all that follows from them is computed there, and the host waits
    for nothing; otherwise all arrays have the same step number.
    """

    def __init__(self, tensors: Tensors, indices: list[int], options: Options) -> None:
        from adabelief.kernels import gpu

        self.indices, self._gpu = indices, gpu
        first = tensors.params[indices[0]]
        self._device, self._flags = first.device, _flags(tensors, options)
        self._table = gpu.Table([_row(tensors, i, options) for i in indices], _type_name(first), first.device)
        steps = [tensors.steps[i] for i in indices if tensors.steps]
        self._steps = steps if options.capturable else cpu.Steps([x.data_ptr() for x in steps])

    def alike(self) -> bool:
        """Whether all arrays still have made the same number of steps, where that matters."""
        return isinstance(self._steps, list) or self._steps.alike()

    def follow(self, addresses: list[int]) -> None:
        """Takes new addresses of the gradients."""
        self._table.set_gradients(addresses)

    def step(self, coefficients: Callable[..., Coefficients], options: Options) -> None:
        """Counts and applies one step."""
        if isinstance(self._steps, list):
            self.apply(traced_scalars(self._steps, coefficients, options), lookahead=bool(options.k))
            return
        t = self._steps.count()
        *scalars, synchronize, skip = _scalars(t, coefficients(t, xp=Floats), options)
        rows = self._gpu.upload([[*scalars, synchronize, skip]], self._device)
        self.apply(rows, lookahead=bool(synchronize))

    def apply(self, rows: Tensor, lookahead: bool) -> None:
        """Applies one step with a row of SCALARS for each array, or one for all."""
        flags = self._flags | (cpu.LOOKAHEAD if lookahead else 0)
        with record_function("adabelief::gpu_update") if profiling() else nullcontext():
            self._table.update(flags, rows)


def _flags(tensors: Tensors, options: Options) -> int:
    """What every step of some tensors has in common, for any kernel."""
    return (cpu.AMSGRAD if tensors.max_exp_avg_vars else 0) | (0 if options.gc_loc else cpu.CENTRALIZED_STEPS)


def _scalars(t: Any, c: Coefficients, options: Options) -> tuple[Any, ...]:
    """What a kernel takes beside addresses in step t: a row of SCALARS."""
    gain = (-1.0 if options.maximize else 1.0) / (1.0 if options.grad_scale is None else options.grad_scale)
    synchronize = t % options.k == 0 if options.k else 0.0
    skip = 0.0 if options.found_inf is None else options.found_inf
    return gain, *c, options.alpha, synchronize, skip


def traced_scalars(steps: list[Tensor], coefficients: Callable[..., Coefficients], options: Options) -> Tensor:
    """Counts one step for each array, and the scalars that it takes: a row of SCALARS, in float64, on their device."""
    torch._foreach_add_(steps, 1.0 if options.found_inf is None else 1.0 - options.found_inf)
    t = torch.stack(steps).double()
    row = _scalars(t, coefficients(t, xp=torch), options)
    return torch.stack([torch.zeros_like(t) + scalar for scalar in row], dim=1)


def _gpu_unavailable() -> str:
    from adabelief.kernels import gpu  # not before it is needed: to import Triton takes a while

    return gpu.unavailable()


KERNELS: dict[str, tuple[type[OnCpu | OnGpu], Callable[[], str]]] = {
    "cpu": (OnCpu, cpu.unavailable),
    "cuda": (OnGpu, _gpu_unavailable),  # ROCm too, which torch calls cuda
}
"""What steps the tensors of a type of device, and why it cannot."""

BY_DEFAULT = ("cpu",)
"""Types of device whose kernel is taken unasked: those on which it has been run and timed, see `make gpu`."""


def unserved(device_type: str) -> str:
    """Why there is no kernel for a type of device; empty where there is one."""
    if device_type not in KERNELS:
        return f"there is no kernel for {device_type}"
    _, unavailable = KERNELS[device_type]
    return unavailable() or proof.unavailable()


unserved = torch.compiler.assume_constant_result(unserved)  # type: ignore[no-untyped-call]


def wanted(group: Group) -> bool:
    """Whether a group's step is to go through a kernel, as far as there is one for its tensors."""
    if group["fused"] is not None:
        return bool(group["fused"])
    if group["foreach"] is not None or group["differentiable"] or not group["params"]:
        return False
    device = group["params"][0].device.type
    return device in BY_DEFAULT and not unserved(device)


class Part:
    """A group's share of a plan: what its kernels step, and what is left to foreach."""

    def __init__(self, tensors: Tensors, options: Options) -> None:
        alike: dict[Any, list[int]] = defaultdict(list)
        self.rest: list[Tensor] = []
        for i, p in enumerate(tensors.params):
            kind = kernel_for(tensors, i, options)
            if kind and _counts(tensors.steps[i], p, options):
                step = None if kind is OnGpu and options.capturable else tensors.steps[i].item()
                alike[kind, p.device, p.dtype.to_real(), step].append(i)
            else:
                self.rest.append(p)
        self.launches = [kind(tensors, indices, options) for (kind, *_), indices in alike.items()]
        self.params = [tensors.params[i] for indices in alike.values() for i in indices]

    def follow(self, addresses: Iterator[int]) -> None:
        """Takes the gradients' addresses, as many as there are parameters."""
        for launch in self.launches:
            launch.follow(list(islice(addresses, len(launch.indices))))

    def step(self, coefficients: Callable[..., Coefficients], options: Options) -> None:
        """Counts and applies one step of everything but the rest."""
        for launch in self.launches:
            launch.step(coefficients, options)
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
        moving = [p for part in self.parts if part for p in part.params]
        self._choices = _choices(groups)
        self._proof = proof.Proof(_lists(groups), optimizer.state, moving)

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether every address is still that of what the step is to touch; follows gradients that only moved."""
        groups = optimizer.param_groups
        if not (_choices(groups) == self._choices and self._proof.holds(_lists(groups), optimizer.state)):
            return False
        if self._proof.moved:
            addresses = iter(self._proof.gradients.tolist())
            for part in self.parts:
                if part:
                    part.follow(addresses)
        return all(launch.alike() for part in self.parts if part for launch in part.launches)


def _lists(groups: list[Group]) -> list[list[Tensor]]:
    return [group["params"] for group in groups]


def _choices(groups: list[Group]) -> list[Any]:
    return [[group.get(name) for name in CHOOSING] for group in groups]


def kernel_for(tensors: Tensors, i: int, options: Options) -> type[OnCpu | OnGpu] | None:
    """What may step a tensor: its memory must be dense, and alike for its gradient and its state."""
    p, g, *state = (x[i] for x in tensors[:-1] if x)
    dims = centralized_dims(p, options.gc_min_dim)
    fits = (
        (options.fused or p.device.type in BY_DEFAULT)
        and not unserved(p.device.type)
        and all(type(x) in (Tensor, torch.nn.Parameter) for x in (p, g, *state))
        and all(x.device == p.device for x in (g, *state))
        and all(x.layout == torch.strided and not x.is_conj() and not x.is_neg() for x in (p, g, *state))
        and p.dtype in DTYPES
        and g.dtype == p.dtype
        and all(x.dtype == state_dtype(p) for x in state)
        and all(x.shape == p.shape and x.stride() == p.stride() for x in (g, *state))
        and _dense(p)
        and not (dims and (p.is_complex() or p.stride(0) * p.shape[0] != p.numel()))
    )
    return KERNELS[p.device.type][0] if fits else None


def _counts(step: Tensor, p: Tensor, options: Options) -> bool:
    """Whether a step number is where the kernel of p's device finds it."""
    device = p.device if options.capturable else torch.device("cpu")
    return type(step) is Tensor and step.device == device and step.dtype == torch.float32


def _dense(p: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, in whatever order of dimensions."""
    elements = 1
    for stride, size in sorted((stride, size) for stride, size in zip(p.stride(), p.shape, strict=True) if size != 1):
        if stride != elements:
            return p.numel() == 0
        elements *= size
    return True


def _row(tensors: Tensors, i: int, options: Options) -> list[int]:
    *arrays, _ = tensors
    p = tensors.params[i]
    rows = p.shape[0] if p.numel() and centralized_dims(p, options.gc_min_dim) else 0
    return [*(x[i].data_ptr() if x else 0 for x in arrays), p.numel() * (2 if p.is_complex() else 1), rows]


def _type_name(p: Tensor) -> str:
    return str(p.dtype.to_real()).removeprefix("torch.")
