"""The CPU kernel (cpu.c, with OpenMP): a whole list of arrays in one call.

Import it after the framework whose threads it is to share: the OpenMP runtime that is loaded first serves both.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence

import numpy as np

from adabelief.kernels.library import NOT_COMPILED, library

COLUMNS = ("p", "g", "m", "s", "s_max", "slow", "elements", "rows")
"""A row of the table: addresses (0 where unused), how many elements, and how many rows where they are centralized."""

TYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3, "traffic": 4}
"""Element types of p and g; `traffic` moves the bytes of a float32 step and does no more: the limit of its speed."""

AMSGRAD, LOOKAHEAD, CENTRALIZED_STEPS = 1, 2, 4

SCALARS = (
    *("gain", "shrink", "l2", "mean_gain", "beta2", "belief_gain", "eps"),
    *("step_size", "root_scale", "offset", "alpha"),
)
"""The numbers that an update takes."""


_SCALARS = struct.Struct(f"{len(SCALARS)}d")
"""As cpu.c has them."""


class Table:
    """The addresses of a list of arrays of one type, ready for the kernel.

    Whoever builds one sees to it that the arrays outlive it and stay where they are.
    """

    def __init__(self, rows: Sequence[Sequence[int]], type_name: str) -> None:
        """Takes rows with the entries that COLUMNS names, and a name in TYPES, that of p and g."""
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))
        begins = np.concatenate([[0], np.cumsum(self._rows[:, COLUMNS.index("elements")])])
        self._begins = np.ascontiguousarray(begins, dtype=np.int64)
        self._type = TYPES[type_name]
        self._scalars = ctypes.create_string_buffer(_SCALARS.size)
        self._size = len(self._rows)
        self._addresses = ctypes.c_void_p(self._rows.ctypes.data), ctypes.c_void_p(self._begins.ctypes.data)

    def set_gradients(self, addresses: Sequence[int]) -> None:
        """Replaces the addresses of the gradients, one for each row."""
        self._rows[:, COLUMNS.index("g")] = addresses

    def update(self, flags: int, scalars: Sequence[float]) -> None:
        """Applies one step.

        Args:
            flags: AMSGRAD and LOOKAHEAD, or neither: whether the columns s_max and slow take part. CENTRALIZED_STEPS:
                centralize steps instead of gradients.
            scalars: The numbers that SCALARS names.
        """
        _SCALARS.pack_into(self._scalars, 0, *scalars)
        _kernel().adabelief_update(*self._addresses, self._size, self._type, flags, self._scalars)


class Steps:
    """Step numbers in memory: the addresses of float32 numbers, all alike while they are counted together."""

    def __init__(self, addresses: Sequence[int]) -> None:
        self._addresses = np.array(addresses, dtype=np.int64)
        self._arguments = ctypes.c_void_p(self._addresses.ctypes.data), len(self._addresses)

    def count(self) -> float:
        """Counts one more step everywhere and returns its number."""
        return float(_kernel().adabelief_count(*self._arguments))

    def in_step(self) -> bool:
        """Whether all numbers are the same."""
        return bool(_kernel().adabelief_steps(*self._arguments) >= 0)


def unavailable() -> str:
    """Why there is no kernel here; empty where there is one."""
    kernel = _library()
    return kernel if isinstance(kernel, str) else ""


def instruction_set() -> str:
    """The instruction set that was chosen for this processor."""
    name: bytes = _kernel().adabelief_instruction_set()
    return name.decode()


def _kernel() -> ctypes.CDLL:
    kernel = _library()
    if isinstance(kernel, str):
        raise RuntimeError(f"There is no CPU kernel: {kernel}")
    return kernel


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or why there is none."""
    built = library(__file__, "_cpu")
    if built is None:
        return NOT_COMPILED
    try:
        kernel = ctypes.CDLL(str(built))
    except OSError as error:
        return f"{built.name} could not be loaded ({error})"
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    for count in (kernel.adabelief_steps, kernel.adabelief_count):
        count.argtypes, count.restype = [pointer, int64], ctypes.c_double
    kernel.adabelief_update.argtypes = [pointer, pointer, int64, ctypes.c_int, ctypes.c_int, pointer]
    kernel.adabelief_update.restype = None
    kernel.adabelief_instruction_set.restype = ctypes.c_char_p
    return kernel
