"""What this package uses of torch beside its documented interface.

Each name is looked up here, once, with what is done where a version of torch does not have it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


def _named(module: str, name: str, fallback: Any) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return fallback


profiling: Callable[[], bool] = _named("torch.autograd", "_profiler_enabled", lambda: True)
"""Whether a profiler is on. Unknown, it counts as on: then ranges are recorded for nothing."""

_global_hooks: list[Mapping[Any, Any]] = [
    _named("torch.optim.optimizer", f"_global_optimizer_{when}_hooks", {0: None}) for when in ("pre", "post")
]

increment_version: Callable[[Any], None] = _named("torch.autograd.graph", "increment_version", lambda tensors: None)
"""Tells autograd that tensors were changed in place."""


def torch_cpu() -> ctypes.CDLL:
    """Torch's functions for CPUs, as this process has loaded them.

    Raises:
        OSError: Where this torch keeps them elsewhere.
    """
    return loaded("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll")


def openmp() -> ctypes.CDLL:
    """Torch's OpenMP runtime: a library that leads to it, or itself where the system looks no further (Windows).

    Raises:
        OSError: Where this torch keeps it elsewhere.
    """
    return loaded("libtorch_cpu.so", "libtorch_cpu.dylib", "libiomp5md.dll")


def loaded(*names: str) -> ctypes.CDLL:
    """The first of torch's own libraries that is there by one of some names."""
    folder = Path(torch.__file__).parent / "lib"
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise OSError(f"there is none of {', '.join(names)} in {folder}")
    return ctypes.CDLL(str(path))


def after_backward(f: Callable[[], None]) -> None:
    """Has something done at the end of the backward that is going on; nothing where torch has no way to ask for it."""
    engine: Any = getattr(torch.autograd.Variable, "_execution_engine", None)
    if hasattr(engine, "queue_callback"):
        engine.queue_callback(f)


def hooked(func: Callable[..., Any]) -> Callable[..., Any]:
    """A class's step with torch's hooks and its range for the profiler."""
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = getattr(Optimizer, "profile_hook_step", None)
    return wrap(func) if wrap else func


def watched(optimizer: Optimizer) -> bool:
    """Whether a step has to go through `hooked`: someone traces or profiles it, or has registered a hook.

    Where it cannot be told, it does.
    """
    own = [getattr(optimizer, f"_optimizer_step_{when}_hooks", True) for when in ("pre", "post")]
    return bool(torch.compiler.is_compiling() or profiling() or any(own) or any(_global_hooks))


def check_graph_capture(optimizer: Optimizer) -> None:
    """Raises where a CUDA graph is being captured and a group is not capturable, as torch's own optimizers do."""
    for name in (
        "_accelerator_graph_capture_health_check",
        "_cuda_graph_capture_health_check",
    ):  # the second of old torch
        check = getattr(optimizer, name, None)
        if check is not None:
            check()
            return


PLAIN = {Tensor, torch.nn.Parameter}
"""Types of tensors whose memory is what they say, but for those of `torch.func`."""

_is_wrapped: Callable[[Tensor], bool] = _named("torch._C._functorch", "is_functorch_wrapped_tensor", lambda x: False)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of no other package's type, and no wrapper that `torch.func` traces with."""
    return type(tensor) in PLAIN and (torch.compiler.is_compiling() or not _is_wrapped(tensor))


def has_value(x: Any) -> bool:
    """Whether a number can be read: not of a fake tensor, which estimates memory."""
    return not isinstance(x, Tensor) or is_plain(x)


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a distributed one, of exactly torch's own type.

    The module of that type takes long to import; where nobody has, there are none.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and type(tensor) is getattr(module, "DTensor", None)


def part(tensor: Any) -> Tensor:
    """The part of a distributed tensor that is in this process: its memory, not a view that autograd knows of."""
    local: Tensor | None = getattr(tensor, "_local_tensor", None)
    return tensor.to_local() if local is None else local


def same_memory(tensor: Tensor, other: Any) -> bool:
    """Whether two tensors, or the parts of them that are in this process, are in the same place."""
    one, two = (part(x) if is_distributed(x) else x for x in (tensor, other))
    return isinstance(two, Tensor) and one.data_ptr() == two.data_ptr()


def cut_by(placement: Any) -> int | None:
    """The dimension along which a placement cuts a tensor; None for none.

    That of FSDP2 over tensor parallelism says of itself that it is no shard.
    """
    return None if placement.is_replicate() or placement.is_partial() else int(placement.dim)


def cuts(tensor: Any) -> set[int]:
    """The dimensions along which a distributed tensor is cut."""
    return {dim for dim in map(cut_by, tensor.placements) if dim is not None}


def distributed_as(tensor: Any, local: Tensor, shape: Any) -> Tensor:
    """A distributed tensor of a shape, of which this process has a part, that lies as another one does."""
    stride = torch.empty(shape, device="meta").stride()
    made: Tensor = type(tensor).from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
    return made


def distribute_as(tensor: Any, whole: Tensor) -> Tensor:
    """A tensor that every process has, cut by its rows as a distributed one is."""
    there = box(tensor)
    begin, rows = (there.offset[0], there.shape[0]) if there else (0, 0)
    return distributed_as(tensor, whole[begin : begin + rows].contiguous(), whole.shape)


class Box(NamedTuple):
    """Where a process's part of a distributed tensor lies in the whole."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    first: bool
    """Of all processes that have the same part, whether this one has the first place in the mesh."""


def box(tensor: Any) -> Box | None:
    """Where this process's part of a distributed tensor lies; None where torch does not tell."""
    locate = _named("torch.distributed.tensor._utils", "compute_local_shape_and_global_offset", None)
    coordinate = tensor.device_mesh.get_coordinate()
    if locate is None or coordinate is None:
        return None
    shape, offset = locate(tensor.shape, tensor.device_mesh, tensor.placements)
    again = [at for at, placement in zip(coordinate, tensor.placements, strict=True) if cut_by(placement) is None]
    return Box(tuple(offset), tuple(shape), not any(again))


def ranks(tensor: Any) -> list[int]:
    """The processes that have parts of a distributed tensor."""
    return [int(rank) for rank in tensor.device_mesh.mesh.flatten().tolist()]


def store() -> Any:
    """The key-value store by which the processes of the default group met; None where there is none to be had."""
    found: Callable[[], Any] | None = _named("torch.distributed.distributed_c10d", "_get_default_store", None)
    return found() if found and in_process_group() else None


def start_of(tensor: Any) -> int:
    """The index in the whole of this process's first element, of a tensor cut along its first two dimensions."""
    there, lengths = box(tensor), [math.prod(tensor.shape[1:]), math.prod(tensor.shape[2:])]
    return sum(at * length for at, length in zip(there.offset, lengths, strict=False)) if there else 0


def in_process_group() -> bool:
    """Whether this process trains together with others (or alone in a group of its own)."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()


def is_flat(p: Tensor, *, pieces: bool = True) -> bool:
    """Whether a parameter is one of FSDP1's flat ones, or a piece of one."""
    return bool(getattr(p, "_is_flat_param", False) or (pieces and getattr(p, "_fsdp_flattened", False)))


def has_lock() -> bool:
    """Whether this Python has a lock that keeps other threads out of what is read in one call."""
    check = getattr(sys, "_is_gil_enabled", None)
    return check is None or bool(check())


def data_parallel(tensors: list[Tensor]) -> bool:
    """Whether a DistributedDataParallel averages gradients of any of these parameters.

    Nothing of the parameters tells: its hooks are C++'s. Every object is asked, which takes a while.
    """
    if not in_process_group():
        return False
    kind, ids = torch.nn.parallel.DistributedDataParallel, set(map(id, tensors))
    wrapped = [x for x in gc.get_objects() if issubclass(type(x), kind)]
    return any(
        id(p) in ids
        for x in wrapped
        for p in x.module.parameters()
        if p.requires_grad and not getattr(p, "_ddp_ignored", False)
    )


def register_functional(optimizer: type, form: type) -> None:
    """Has torch.distributed find an optimizer's functional form; it takes long to import, so nobody else does."""
    if torch.distributed.is_available():
        _named("torch.distributed.optim.utils", "register_functional_optim", lambda key, optim: None)(optimizer, form)
