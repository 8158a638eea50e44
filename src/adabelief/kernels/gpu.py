"""The GPU kernel (Triton; CUDA and ROCm): a whole list of arrays in one launch, at the speed of memory.

Knows addresses and numbers, nothing of optimizers; the element-wise rule is in gpu_rule.py. The work is split into
chunks of equal size, whatever array they are in. No step waits for the device or is compiled again because a number
changed. Scalars that are computed on the device are read there, so that a captured CUDA graph follows them.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adabelief.kernels import layout
from adabelief.kernels.layout import AMSGRAD, CENTRALIZED_STEPS, COLUMNS, LOOKAHEAD, PLACES, SCALARS, TYPES

try:
    import triton.language as tl

    from adabelief.kernels import gpu_rule

    _missing = ""
except ImportError as error:
    _missing = str(error)

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARPS = 4

_WEIGHTS = {16: layout.P_DITHERED, 24: layout.P_24, 32: layout.P_32}
"""How many bits are kept of weights that are not rounded to the nearest, by flag."""


class _Plan(NamedTuple):
    """What the kernels read on the device, apart from the addresses of the gradients; see `Table._planned`."""

    places: Tensor
    chunk_owners: Tensor
    row_owners: Tensor
    means: Tensor


_captured: list[_Plan] = []
"""What CUDA graphs read at every replay. Nothing tells when a graph is gone, so it is kept for good."""


class Table:
    """The addresses of a list of arrays of one type on one device, ready for the kernel.

    Whoever builds one sees to it that the arrays outlive it and stay where they are. Nothing here waits for the
    device. An update may be captured in a CUDA graph, which then stays valid whatever becomes of the table.
    """

    def __init__(self, rows: Sequence[Sequence[int]], type_name: str, device: torch.device) -> None:
        """Takes rows with the entries that COLUMNS names, and a name in TYPES, that of p and g.

        Raises:
            ValueError: For another type.
        """
        if type_name not in TYPES:
            raise ValueError(f"type_name must be one of {', '.join(TYPES)}, got {type_name!r}")
        row = dict(zip(COLUMNS, np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS)).T, strict=True))
        elements, chunks = row["elements"], -(-row["elements"] // _block())
        length = np.maximum(row["row_length"], 1)
        blocks = -(-elements // length) * -(-length // layout.BLOCK)
        in_codes = (row["m_exponents"] | row["s_exponents"]) != 0  # cut into whole blocks, however short they are
        chunks = np.where(in_codes, -(-blocks * layout.BLOCK // _block()), chunks)
        centralized = np.where(elements > 0, row["rows"], 0)  # rows of nothing have no mean
        place = row | {
            "first_chunk": np.cumsum(chunks) - chunks,
            "first_mean": np.cumsum(centralized) - centralized,
            "mean_length": np.where(centralized > 0, elements // np.maximum(centralized, 1), 0),
            "chunks": chunks,
            "rows": centralized,
        }
        self._places = np.stack([place[name] for name in PLACES], axis=1)
        self._addresses = row["g"]
        self._type, self._device = type_name, device
        self._chunks, self._rows = int(chunks.sum()), int(centralized.sum())
        self._plan: _Plan | None = None
        self._gradients: Tensor | None = None
        self._options: dict[int, dict[str, Any]] = {}
        self._compiled: dict[Any, Any] = {}

    def set_gradients(self, addresses: Sequence[int]) -> None:
        """Replaces the addresses of the gradients, one for each row."""
        self._addresses, self._gradients = np.array(addresses, dtype=np.int64), None

    def update(self, flags: int, coefficients: Tensor | Sequence[float]) -> None:
        """Applies one step, on the current stream.

        Args:
            flags: AMSGRAD and LOOKAHEAD, or neither: whether the columns s_max and slow take part. CENTRALIZED_STEPS:
                centralize steps instead of gradients. Those of M_HALF to P_32 that say how all the arrays are stored.
            coefficients: The numbers that SCALARS names: as numbers, shared by all arrays, or on the table's device, a
                row for each, as a float64 tensor of shape (arrays, columns).

        Raises:
            ValueError: For a tensor of another shape, type or layout.
        """
        if isinstance(coefficients, Tensor):
            shape = len(self._places), len(SCALARS)
            right = coefficients.shape == shape and coefficients.dtype == torch.float64
            if not (right and coefficients.is_contiguous()):
                raise ValueError(
                    f"coefficients must be contiguous, of type float64 and shape {shape}, "
                    f"got {coefficients.dtype} and {tuple(coefficients.shape)}"
                )
        if not self._chunks:  # a launch of no programs is an error
            return
        with _current(self._device):
            values, rows, stride = None, None, 0
            if isinstance(coefficients, Tensor):
                rows, stride = coefficients, len(SCALARS)
            elif self._type == "float64":  # an argument of a kernel would be rounded to float32
                rows = _upload(np.array(coefficients, dtype=np.float64), self._device)
            else:
                values = tuple(map(float, coefficients))
            plan, gradients = self._on_device()
            options = self._options.get(flags)
            if options is None:
                options = self._options[flags] = self._compiled_for(flags)
            if self._rows:
                arguments = plan.places, gradients, plan.row_owners, plan.means, rows, stride, values
                self._launch("take_means", self._rows, flags, arguments, options)
            arguments = plan.places, gradients, plan.chunk_owners, plan.means, rows, stride, values
            self._launch("update", self._chunks, flags, arguments, options | {"LOOKAHEAD": bool(flags & LOOKAHEAD)})

    def _compiled_for(self, flags: int) -> dict[str, Any]:
        """The constants of the kernels, in the order in which they take them."""
        return dict(
            T=getattr(tl, self._type),
            DOUBLE=self._type == "float64",
            AMSGRAD=bool(flags & AMSGRAD),
            CENTRALIZED=("steps" if flags & CENTRALIZED_STEPS else "gradients") if self._rows else "",
            BLOCK=_block(),
            M_BITS=8 if flags & layout.M_CODES else 16 if flags & layout.M_HALF else 32,
            S_BITS=8 if flags & layout.S_CODES else 16 if flags & layout.S_HALF else 32,
            P_BITS=next((bits for bits, flag in _WEIGHTS.items() if flags & flag), 0),
        )

    def _launch(
        self, name: str, programs: int, flags: int, arguments: tuple[Any, ...], constants: dict[str, Any]
    ) -> None:
        """Launches a kernel of gpu_rule.py, with the constants in the order in which it takes them.

        Triton looks a compiled kernel up by all arguments and what they specialize, which takes the host longer than
        the device needs for many a step. Here nothing but the flags and the form of the scalars ever varies.
        """
        variant = name, flags, arguments[-1] is None
        compiled = self._compiled.get(variant)
        if compiled is None:  # as it always is in the interpreter
            kernel = getattr(gpu_rule, name)
            self._compiled[variant] = kernel[(programs,)](*arguments, **constants, **compiler_options(flags))
        else:
            compiled[(programs, 1, 1)](*arguments, *constants.values())

    def _on_device(self) -> tuple[_Plan, Tensor]:
        """The plan and the addresses of the gradients.

        Nothing runs while a graph is captured, so what is uploaded then is the graph's alone: it is there whenever the
        graph runs, but not for an update outside of it.
        """
        if _capturing(self._device):
            plan = self._plan or self._planned()
            if self._plan and not any(plan is known for known in _captured):
                _captured.append(plan)
            return plan, _upload(self._addresses, self._device)
        if self._plan is None:
            self._plan = self._planned()
        if self._gradients is None:
            self._gradients = _upload(self._addresses, self._device)
        return self._plan, self._gradients

    def _planned(self) -> _Plan:
        """Which array each chunk and each centralized row belongs to, and room for the mean of each row."""
        places = _upload(self._places, self._device)
        chunks, rows = (places[:, PLACES.index(name)].int() for name in ("chunks", "rows"))
        state = torch.float64 if self._type == "float64" else torch.float32
        return _Plan(
            places,
            torch.repeat_interleave(chunks, output_size=self._chunks),  # told its size, it does not wait for it
            torch.repeat_interleave(rows, output_size=self._rows),
            torch.empty(self._rows, dtype=state, device=self._device),
        )


def unavailable(device_type: str = "cuda") -> str | None:
    """Why there is no kernel for a type of device; None where there is one. ROCm's devices are `cuda` in PyTorch."""
    if device_type != "cuda":
        return f"it is for CUDA and ROCm devices, not for {device_type!r}"
    if _missing:
        return f"Triton cannot be imported ({_missing})"
    if not _compiler():
        return "Triton needs a C compiler, and there is none"
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if initialized and torch.version.cuda and torch.cuda.get_device_capability() < (7, 0):
        return "Triton needs a device of compute capability 7.0 or later"
    return None


@functools.cache
def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def _upload(values: NDArray[Any], device: torch.device) -> Tensor:
    """A new tensor on the current device.

    It is copied from memory that nothing else reads or writes, so that the host need not wait. Not so while a graph is
    captured: it would read that memory again at every replay, and to pin any is an error in PyTorch before 2.7. There
    the values are the arguments of kernels.
    """
    host = torch.from_numpy(values.copy())
    if _capturing(device):
        flat = torch.zeros(values.size, dtype=host.dtype, device=device)
        torch._foreach_add_(list(flat.unbind()), values.ravel().tolist())
        return flat.view(values.shape)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a device the current one; to say so costs time, so not of one that is."""
    other = device.type == "cuda" and device.index != torch.cuda.current_device()
    return torch.cuda.device(device) if other else nullcontext()


def compiler_options(flags: int) -> dict[str, int]:
    """How a kernel is compiled; of one with codes, the way for unaligned arrays is not to slow the other down.

    Products and sums are rounded one by one, as in cpu.c: every variant of a kernel takes the same step to the bit.
    """
    coded = flags & (layout.M_CODES | layout.S_CODES)
    few = {"maxnreg": 64} if coded and not torch.version.hip else {}
    return {"num_warps": WARPS, "enable_fp_fusion": False} | few


def _block() -> int:
    """Elements of a program, which are a chunk: 8 for each thread, 128 bits of half precision, twice 128 of single."""
    return 8 * WARPS * (64 if torch.version.hip else 32)
