"""The GPU kernel (Triton; CUDA and ROCm): a whole list of arrays in one launch, at the speed of memory.

Knows addresses and numbers, nothing of optimizers. The element-wise rule is that of cpu.c: arithmetic in the type of
the state, correctly rounded roots and quotients, and one rounding of half-precision parameters, to nearest even. The
work is split into chunks of equal size, whatever array they are in. All scalars are read on the device: no step waits
for the host or is compiled again because a number changed, and a captured CUDA graph follows them.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    _missing = ""
except ImportError as error:
    _missing = str(error)

from adabelief.kernels.layout import AMSGRAD, CENTRALIZED_STEPS, COLUMNS, LOOKAHEAD, SCALARS, TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 4096
"""Elements that one program updates: many enough to make up for finding them, few enough that short lists fill the
device too."""

WARPS = 4


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`triton.jit`, or nothing where there is no Triton."""
    if _missing:
        return lambda function: function
    jit: Callable[[Callable[..., Any]], Any] = triton.jit(**options)
    return jit


@_jit()
def _moments(
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    mean_gain: tl.tensor,
    beta2: tl.tensor,
    belief_gain: tl.tensor,
    eps: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    d = g - m
    return m + mean_gain * d, beta2 * s + belief_gain * (d * d) + eps


@_jit()
def _larger(s_max: tl.tensor, s: tl.tensor) -> tl.tensor:
    return tl.maximum(s_max, s, propagate_nan=tl.PropagateNan.ALL)


@_jit()
def _step(m: tl.tensor, s: tl.tensor, root_scale: tl.tensor, offset: tl.tensor, DOUBLE: tl.constexpr) -> tl.tensor:
    if DOUBLE:  # there the plain operators are the correctly rounded ones
        return m / (tl.sqrt(s) * root_scale + offset)
    else:
        return tl.div_rn(m, tl.sqrt_rn(s) * root_scale + offset)


@_jit()
def _update_elements(
    p: tl.tensor,
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    s_max: tl.tensor,
    slow: tl.tensor,
    start: tl.tensor,
    size: tl.tensor,
    c: tl.tensor,
    means: tl.tensor,
    rest: tl.tensor,
    length: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The rule for `size` elements of one array, from `start` on, given its addresses and its coefficients c.

    T is the type of p and g; state and arithmetic are DOUBLE or single. ALIGNED promises addresses divisible by 16 and
    a size divisible by 8: then every access is of 128 bits. Where gradients or steps are CENTRALIZED, means points to
    the mean of the row that `start` is in, of which `rest` elements are left; rows after it have `length` (0: the array
    is not centralized).
    """
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    p, g = p.to(tl.pointer_type(T)), g.to(tl.pointer_type(T))
    m, s = m.to(tl.pointer_type(R)), s.to(tl.pointer_type(R))
    s_max, slow = s_max.to(tl.pointer_type(R)), slow.to(tl.pointer_type(R))
    if ALIGNED:
        p, g, m, s = tl.multiple_of(p, 16), tl.multiple_of(g, 16), tl.multiple_of(m, 16), tl.multiple_of(s, 16)
        s_max, slow, size = tl.multiple_of(s_max, 16), tl.multiple_of(slow, 16), size // 8 * 8
    p, g, m, s, s_max, slow = p + start, g + start, m + start, s + start, s_max + start, slow + start
    gain, shrink, l2 = tl.load(c).to(R), tl.load(c + 1).to(R), tl.load(c + 2).to(R)
    mean_gain, beta2, belief_gain = tl.load(c + 3).to(R), tl.load(c + 4).to(R), tl.load(c + 5).to(R)
    eps, step_size, root_scale = tl.load(c + 6).to(R), tl.load(c + 7).to(R), tl.load(c + 8).to(R)
    offset, alpha, synchronize = tl.load(c + 9).to(R), tl.load(c + 10).to(R), tl.load(c + 11) != 0
    for begin in range(0, size, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < size
        p_i, g_i = tl.load(p + i, inside).to(R), tl.load(g + i, inside).to(R)
        m_i, s_i = tl.load(m + i, inside), tl.load(s + i, inside)
        if AMSGRAD:
            s_max_i = tl.load(s_max + i, inside)
        p_i *= shrink
        g_i *= gain
        g_i += tl.where(l2 != 0, l2 * p_i, 0.0)
        if CENTRALIZED != "":
            row = tl.where(i < rest, 0, (i - rest) // tl.maximum(length, 1) + 1)
            mean = tl.load(means + row, inside & (length > 0), other=0.0)
            if CENTRALIZED == "gradients":
                g_i -= mean
        m_i, s_i = _moments(g_i, m_i, s_i, mean_gain, beta2, belief_gain, eps)
        tl.store(m + i, m_i, inside)
        tl.store(s + i, s_i, inside)
        if AMSGRAD:
            s_i = _larger(s_max_i, s_i)
            tl.store(s_max + i, s_i, inside)
        step = _step(m_i, s_i, root_scale, offset, DOUBLE)
        if CENTRALIZED == "steps":
            step -= mean
        p_i -= step_size * step
        if LOOKAHEAD:  # noqa: SIM102 - one is known when the kernel is compiled, the other at every step
            if synchronize:
                slow_i = tl.load(slow + i, inside)
                p_i = slow_i + alpha * (p_i - slow_i)
                tl.store(slow + i, p_i, inside)
        tl.store(p + i, p_i.to(T), inside)


@_jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["coefficients"])
def _update(
    places: tl.tensor,
    gradients: tl.tensor,
    owners: tl.tensor,
    means: tl.tensor,
    coefficients: tl.tensor,
    stride: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One chunk of the array that owners names; COLUMNS is the number of columns of places."""
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place, c = places + array * COLUMNS, coefficients + array * stride
    if tl.load(c + 12) == 0:  # not to be skipped
        p, g, m, s = tl.load(place), tl.load(gradients + array), tl.load(place + 1), tl.load(place + 2)
        s_max, slow = tl.load(place + 3), tl.load(place + 4)
        start = (tl.program_id(0) - tl.load(place + 6)) * CHUNK
        size = tl.minimum(tl.load(place + 5) - start, CHUNK).to(tl.int32)
        rest, length = size, size
        if CENTRALIZED != "":
            length = tl.load(place + 8)
            row = start // tl.maximum(length, 1)
            means += tl.load(place + 7) + row
            rest = tl.minimum((row + 1) * length - start, CHUNK).to(tl.int32)
            length = tl.minimum(length, CHUNK).to(tl.int32)  # no longer row ends twice in a chunk
        if ((p | g | m | s | s_max | slow) % 16 == 0) & (size % 8 == 0):
            _update_elements(
                p, g, m, s, s_max, slow, start, size, c, means, rest, length,
                T, DOUBLE, True, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK,
            )  # fmt: skip
        else:
            _update_elements(
                p, g, m, s, s_max, slow, start, size, c, means, rest, length,
                T, DOUBLE, False, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK,
            )  # fmt: skip


@_jit()
def _add(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return x + y


@_jit()
def _sum(
    p: tl.tensor,
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    s_max: tl.tensor,
    start: tl.tensor,
    length: tl.tensor,
    c: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The sum of what is CENTRALIZED over the row that begins at `start`: in double, of terms in the state's type."""
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    p, g = p.to(tl.pointer_type(T)), g.to(tl.pointer_type(T))
    m, s, s_max = m.to(tl.pointer_type(R)), s.to(tl.pointer_type(R)), s_max.to(tl.pointer_type(R))
    if ALIGNED:
        p, g, m, s = tl.multiple_of(p, 16), tl.multiple_of(g, 16), tl.multiple_of(m, 16), tl.multiple_of(s, 16)
        s_max, start, length = tl.multiple_of(s_max, 16), start // 8 * 8, length // 8 * 8
    p, g, m, s, s_max = p + start, g + start, m + start, s + start, s_max + start
    gain, shrink, l2 = tl.load(c).to(R), tl.load(c + 1).to(R), tl.load(c + 2).to(R)
    mean_gain, beta2, belief_gain = tl.load(c + 3).to(R), tl.load(c + 4).to(R), tl.load(c + 5).to(R)
    eps, root_scale, offset = tl.load(c + 6).to(R), tl.load(c + 8).to(R), tl.load(c + 9).to(R)
    total = tl.full([BLOCK], 0.0, tl.float64)
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < length
        x = tl.load(g + i, inside, other=0.0).to(R) * gain
        if l2 != 0:
            x += l2 * (tl.load(p + i, inside, other=0.0).to(R) * shrink)
        if CENTRALIZED == "steps":
            m_i, s_i = tl.load(m + i, inside, other=0.0), tl.load(s + i, inside, other=0.0)
            m_i, s_i = _moments(x, m_i, s_i, mean_gain, beta2, belief_gain, eps)
            if AMSGRAD:
                s_i = _larger(tl.load(s_max + i, inside, other=0.0), s_i)
            x = tl.where(inside, _step(m_i, s_i, root_scale, offset, DOUBLE), 0.0)
        total += x.to(tl.float64)
    return tl.reduce(total, 0, _add)  # tl.sum would not be interpreted where these functions are


@_jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["coefficients"])
def _take_means(
    places: tl.tensor,
    gradients: tl.tensor,
    owners: tl.tensor,
    means: tl.tensor,
    coefficients: tl.tensor,
    stride: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The mean that is subtracted from one row of the array that owners names."""
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place, c = places + array * COLUMNS, coefficients + array * stride
    p, g, m, s = tl.load(place), tl.load(gradients + array), tl.load(place + 1), tl.load(place + 2)
    s_max, length = tl.load(place + 3), tl.load(place + 8)
    start = (tl.program_id(0) - tl.load(place + 7)) * length
    if ((p | g | m | s | s_max) % 16 == 0) & (length % 8 == 0):
        total = _sum(p, g, m, s, s_max, start, length, c, T, DOUBLE, True, AMSGRAD, CENTRALIZED, BLOCK)
    else:
        total = _sum(p, g, m, s, s_max, start, length, c, T, DOUBLE, False, AMSGRAD, CENTRALIZED, BLOCK)
    tl.store(means + tl.program_id(0), (total / length.to(tl.float64)).to(means.dtype.element_ty))


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
        elements, chunks = row["elements"], -(-row["elements"] // CHUNK)
        centralized = np.where(elements > 0, row["rows"], 0)
        self._places = np.stack(
            [
                *(row[name] for name in ("p", "m", "s", "s_max", "slow", "elements")),
                *(np.cumsum(chunks) - chunks, np.cumsum(centralized) - centralized),  # those before the array's first
                np.where(centralized > 0, elements // np.maximum(centralized, 1), 0),  # elements of a row
                *(chunks, centralized),
            ],
            axis=1,
        )
        self._addresses = row["g"]
        self._type, self._device = type_name, device
        self._chunks, self._rows = int(chunks.sum()), int(centralized.sum())
        self._plan: _Plan | None = None
        self._gradients: Tensor | None = None

    def set_gradients(self, addresses: Sequence[int]) -> None:
        """Replaces the addresses of the gradients, one for each row."""
        self._addresses, self._gradients = np.array(addresses, dtype=np.int64), None

    def update(self, flags: int, coefficients: Tensor) -> None:
        """Applies one step, on the current stream.

        Args:
            flags: AMSGRAD and LOOKAHEAD, or neither: whether the columns s_max and slow take part. CENTRALIZED_STEPS:
                centralize steps instead of gradients.
            coefficients: The columns that SCALARS names, in float64 on the table's device: (1, columns), shared by all
                arrays, or (arrays, columns).

        Raises:
            ValueError: For coefficients of another shape, type or layout.
        """
        shapes = (1, len(SCALARS)), (len(self._places), len(SCALARS))
        if coefficients.shape not in shapes or coefficients.dtype != torch.float64 or not coefficients.is_contiguous():
            raise ValueError(
                f"coefficients must be contiguous, of type float64 and shape {shapes[0]} or {shapes[1]}, "
                f"got {coefficients.dtype} and {tuple(coefficients.shape)}"
            )
        if not self._chunks:
            return
        with _current(self._device):
            plan, gradients = self._on_device()
            stride = len(SCALARS) if len(coefficients) > 1 else 0
            options = dict(
                T=getattr(tl, self._type),
                DOUBLE=self._type == "float64",
                AMSGRAD=bool(flags & AMSGRAD),
                CENTRALIZED=("steps" if flags & CENTRALIZED_STEPS else "gradients") if self._rows else "",
                BLOCK=_block(),
                COLUMNS=self._places.shape[1],
                num_warps=WARPS,
            )
            if self._rows:
                _take_means[(self._rows,)](
                    plan.places, gradients, plan.row_owners, plan.means, coefficients, stride, **options
                )
            _update[(self._chunks,)](
                *(plan.places, gradients, plan.chunk_owners, plan.means, coefficients, stride),
                LOOKAHEAD=bool(flags & LOOKAHEAD),
                CHUNK=CHUNK,
                **options,
            )

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
        chunks, rows = places[:, -2:].T.int().contiguous()
        state = torch.float64 if self._type == "float64" else torch.float32
        return _Plan(
            places,
            torch.repeat_interleave(chunks, output_size=self._chunks),
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


def upload(rows: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """A new tensor in float64 on the device, without waiting for it: coefficients that the host knows.

    While a CUDA graph is captured it becomes part of the graph, with the values of now.
    """
    with _current(device):
        return _upload(np.array(rows, dtype=np.float64), device)


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
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _block() -> int:
    """Elements of a program at a time, 8 for each thread: 128 bits of half precision, twice 128 of single."""
    return 8 * WARPS * (64 if torch.version.hip else 32)
