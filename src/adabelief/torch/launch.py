"""Launches of the kernels: arrays of one device and element type, and the scalars of a step in the form they take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from adabelief.kernels import cpu
from adabelief.kernels.layout import AMSGRAD, CENTRALIZED_STEPS, EXPONENTS, LOOKAHEAD, row
from adabelief.options import centralized_dims
from adabelief.torch import internals, proof, storage
from adabelief.torch.state import state_dtype
from adabelief.torch.update import Options, Recipe, Scalars, Tensors, count

DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}

cpu.share_threads(internals.openmp)


class OnCpu:
    """Arrays of one element type and step number, stepped by the C kernel."""

    def __init__(self, tensors: Tensors, indices: list[int], options: Options) -> None:
        self.indices = indices
        self._flags = _flags(tensors, indices, options)
        self._table = cpu.Table([_row(tensors, i, options) for i in indices], _type_name(tensors.params[indices[0]]))
        self.counted = [tensors.steps[i].data_ptr() for i in indices if tensors.steps]
        """Addresses of the step numbers that the host counts."""

    def follow(self, addresses: list[int]) -> None:
        """Takes new addresses of the gradients."""
        self._table.set_gradients(addresses)

    def step(self, recipe: Recipe, t: float) -> None:
        """Applies step t, which has been counted."""
        self.apply(recipe.scalars(t))

    def apply(self, scalars: Scalars) -> None:
        """Applies one step."""
        with record_function("adabelief::cpu_update") if internals.profiling() else nullcontext():
            self._table.update(self._flags, scalars)


class OnGpu:
    """Arrays of one device and element type, stepped by the Triton kernel.

    Where step numbers are on the device (`capturable`) all that follows from them is computed there, and the host waits
    for nothing; otherwise all arrays have the same step number.
    """

    def __init__(self, tensors: Tensors, indices: list[int], options: Options) -> None:
        from adabelief.kernels import gpu  # not before it is needed: to import Triton takes a while

        self.indices, self._gpu = indices, gpu
        first = tensors.params[indices[0]]
        self._device, self._flags = first.device, _flags(tensors, indices, options)
        self._table = gpu.Table([_row(tensors, i, options) for i in indices], _type_name(first), first.device)
        steps = [tensors.steps[i] for i in indices if tensors.steps]
        self._steps = steps if options.capturable else []
        self.counted = [] if options.capturable else [x.data_ptr() for x in steps]
        """Addresses of the step numbers that the host counts."""

    def follow(self, addresses: list[int]) -> None:
        """Takes new addresses of the gradients."""
        self._table.set_gradients(addresses)

    def step(self, recipe: Recipe, t: float) -> None:
        """Applies step t, which has been counted, or counts and applies one where the device counts."""
        if self._steps:
            self.apply(device_scalars(self._steps, recipe, self._device), lookahead=bool(recipe.k))
            return
        scalars = recipe.scalars(t)
        self.apply(scalars, lookahead=bool(scalars.synchronize))

    def apply(self, scalars: Tensor | Scalars, lookahead: bool) -> None:
        """Applies one step with a row of scalars for each array, or one for all; without `lookahead` none is due."""
        flags = self._flags if lookahead else self._flags & ~LOOKAHEAD  # that variant reads no slow weights at all
        with record_function("adabelief::gpu_update") if internals.profiling() else nullcontext():
            self._table.update(flags, scalars)


def device_scalars(steps: list[Tensor], recipe: Recipe, device: torch.device) -> Tensor:
    """Counts one step for each array, and the scalars that it takes: a row each, in float64, on a device."""
    count(steps, recipe.skip)
    t = torch.stack(steps).to(device, torch.float64)
    rows = t.new_empty(len(steps), len(Scalars._fields))
    for column, scalar in zip(rows.unbind(1), recipe.scalars(t, torch), strict=True):
        column.copy_(scalar) if isinstance(scalar, Tensor) else column.fill_(scalar)
    return rows


def _gpu_unavailable() -> str | None:
    from adabelief.kernels import gpu  # not before it is needed: to import Triton takes a while

    return gpu.unavailable()


KERNELS: dict[str, tuple[type[OnCpu | OnGpu], Callable[[], str | None]]] = {
    "cpu": (OnCpu, cpu.unavailable),
    "cuda": (OnGpu, _gpu_unavailable),  # ROCm too, which torch calls cuda
}
"""What steps the tensors of a type of device, and why it cannot."""

BY_DEFAULT = {"cpu"} if torch.version.hip else {"cpu", "cuda"}
"""Types of device whose kernel is taken unasked: those on which it has been run and timed, see `make gpu`."""


def unserved(device_type: str) -> str | None:
    """Why there is no kernel for a type of device; None where there is one."""
    if device_type not in KERNELS:
        return f"there is no kernel for {device_type}"
    _, unavailable = KERNELS[device_type]
    return unavailable() or proof.unavailable()


# A compiler does not follow what loads libraries; nothing of the answer changes in a process.
unserved = torch.compiler.assume_constant_result(unserved)  # type: ignore[no-untyped-call]


def kernel_for(tensors: Tensors, i: int, options: Options) -> type[OnCpu | OnGpu] | None:
    """What may step a tensor: its memory must be dense, aligned, and alike for its gradient and its state."""
    named = tensors.at(i)
    arrays = [x for name, x in named.items() if name not in EXPONENTS.values()]
    p, g, *_ = arrays
    dims = centralized_dims(p.ndim, options.gc_min_dim)
    fits = (
        (options.fused or p.device.type in BY_DEFAULT)
        and not unserved(p.device.type)
        and all(map(internals.is_plain, named.values()))
        and all(x.device == p.device for x in named.values())
        and all(x.layout == torch.strided and not x.is_conj() and not x.is_neg() for x in arrays)
        and p.dtype in DTYPES
        and g.dtype == p.dtype
        and storage.fits(named, state_dtype(p), options)
        and all(x.shape == p.shape and x.stride() == p.stride() for x in arrays)
        and all(map(_aligned, arrays))
        and _dense(p)
        and not (dims and (p.is_complex() or p.stride(0) * p.shape[0] != p.numel()))
        and (not tensors.steps or _counted(tensors.steps[i], p, options))
    )
    return KERNELS[p.device.type][0] if fits else None


def _aligned(x: Tensor) -> bool:
    """Whether a tensor has memory, as one that only says that it is full of zeros has not, and where C may read it."""
    address = x.data_ptr()
    return address % x.dtype.to_real().itemsize == 0 and bool(address or not x.numel())


def overlapping(tensors: Tensors, indices: list[int]) -> bool:
    """Whether two arrays that a step writes share memory: a kernel's threads would lose updates of one."""
    written = [x for i in indices for name, x in tensors.at(i).items() if name != "g" and x.numel()]
    begins = np.array([x.data_ptr() for x in written], dtype=np.int64)
    ends = begins + np.array([x.numel() * x.element_size() for x in written], dtype=np.int64)
    order = np.argsort(begins)
    return bool((ends[order][:-1] > begins[order][1:]).any())


def _counted(step: Tensor, p: Tensor, options: Options) -> bool:
    """Whether a step number is where the kernel of p's device finds it."""
    device = p.device if options.capturable else torch.device("cpu")
    return type(step) is Tensor and step.device == device and step.dtype == torch.float32 and step.data_ptr() % 4 == 0


def _dense(p: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, in whatever order of dimensions."""
    elements = 1  # in the dimensions that lie closer together
    for stride, size in sorted((stride, size) for stride, size in zip(p.stride(), p.shape, strict=True) if size != 1):
        if stride != elements:
            return p.numel() == 0
        elements *= size
    return True


def _flags(tensors: Tensors, indices: list[int], options: Options) -> int:
    """What every step of some tensors has in common, for any kernel."""
    steps = 0 if options.gc_loc else CENTRALIZED_STEPS
    steps |= storage.flags(tensors.at(indices[0]), options)
    return steps | (AMSGRAD if tensors.columns["s_max"] else 0) | (LOOKAHEAD if tensors.columns["slow"] else 0)


def _row(tensors: Tensors, i: int, options: Options) -> list[int]:
    """The columns of a kernel's table."""
    arrays, p = tensors.at(i), tensors.params[i]
    rows = p.shape[0] if p.numel() and centralized_dims(p.ndim, options.gc_min_dim) else 0
    return row(
        **{name: x.data_ptr() for name, x in arrays.items()},
        elements=p.numel() * (2 if p.is_complex() else 1),
        rows=rows,
        row_length=storage.row_length(p) if storage.coded(arrays, options) else 0,
        first=tensors.starts[i] if tensors.starts else 0,
    )


def _type_name(p: Tensor) -> str:
    return str(p.dtype.to_real()).removeprefix("torch.")
