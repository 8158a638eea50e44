"""The CPU kernel (cpu.c): a whole list of arrays in one call, by the threads of the framework that they are of."""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable, Sequence

import numpy as np

from adabelief.kernels.layout import COLUMNS, SCALARS, TYPES
from adabelief.kernels.library import NOT_COMPILED, library

TRAFFIC = "traffic"
"""In place of a type: moves the bytes of a float32 step and does no more, which is the limit of its speed."""

_SCALARS = struct.Struct(f"{len(SCALARS)}d")
"""As cpu.c has them."""

_OPENMP = ("omp_in_parallel", "omp_get_max_threads", "omp_get_num_threads", "omp_get_thread_num")
_GCC, _LLVM = ("GOMP_parallel",), ("__kmpc_global_thread_num", "__kmpc_push_num_threads", "__kmpc_fork_call")
_FUNCTIONS = (*_OPENMP, *_GCC, *_LLVM)
"""Those of threads.h, in its order: what any OpenMP runtime has, and what begins a region, in one of two ways."""

_scopes: list[Callable[[], ctypes.CDLL]] = [] if sys.platform == "win32" else [lambda: ctypes.CDLL(None)]
"""Where these are looked up: in what all libraries see, and in the libraries of frameworks."""


class Table:
    """The addresses of a list of arrays of one type, ready for the kernel.

    Whoever builds one sees to it that the arrays outlive it and stay where they are.
    """

    def __init__(self, rows: Sequence[Sequence[int]], type_name: str) -> None:
        """Takes rows with the entries that COLUMNS names, and a name in TYPES, that of p and g."""
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))
        begins = np.concatenate([[0], np.cumsum(self._rows[:, COLUMNS.index("elements")])])
        self._begins = np.ascontiguousarray(begins, dtype=np.int64)
        self._type = (*TYPES, TRAFFIC).index(type_name)
        self._scalars = ctypes.create_string_buffer(_SCALARS.size)
        self._size = len(self._rows)
        self._addresses = ctypes.c_void_p(self._rows.ctypes.data), ctypes.c_void_p(self._begins.ctypes.data)

    def set_gradients(self, addresses: Sequence[int]) -> None:
        """Replaces the addresses of the gradients, one for each row."""
        self._rows[:, COLUMNS.index("g")] = addresses

    def update(self, flags: int, scalars: Sequence[float]) -> None:
        """Applies one step; the interpreter runs on in other threads meanwhile.

        Args:
            flags: AMSGRAD and LOOKAHEAD, or neither: whether the columns s_max and slow take part. CENTRALIZED_STEPS:
                centralize steps instead of gradients.
            scalars: The numbers that SCALARS names.
        """
        _SCALARS.pack_into(self._scalars, 0, *scalars)
        _kernel().adabelief_update(*self._addresses, self._size, self._type, flags, self._scalars)


class Steps:
    """Step numbers in memory, float32 each, in lists whose members are all alike while they are counted together."""

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        """Takes the addresses of each list."""
        self._addresses = np.array([address for addresses in lists for address in addresses], dtype=np.int64)
        self._begins = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        self.numbers = np.zeros(len(lists))
        """Of each list, as of the last count; of an empty one 0."""
        pointers = (ctypes.c_void_p(x.ctypes.data) for x in (self._addresses, self._begins))
        self._arguments = *pointers, len(lists), ctypes.c_void_p(self.numbers.ctypes.data)

    def count(self) -> bool:
        """Counts one more step everywhere; nowhere, and returns False, if the members of a list are not alike."""
        return bool(_kernel().adabelief_count(*self._arguments))


def share_threads(framework: Callable[[], ctypes.CDLL]) -> None:
    """Takes the threads of a framework, given by one of its libraries.

    Where there is no OpenMP runtime, a step is taken by one thread.
    """
    # Linux prefers everybody's to a library's own, for the framework's calls too (think of LD_PRELOAD); Apple does not.
    _scopes.insert(0 if sys.platform == "darwin" else len(_scopes), framework)
    _library.cache_clear()  # one that is loaded looks again


def threads() -> int:
    """How many threads a step may take, called from this one."""
    return int(_kernel().adabelief_threads())


def unavailable() -> str | None:
    """Why there is no kernel here; None where there is one."""
    kernel = _library()
    return kernel if isinstance(kernel, str) else None


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
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    try:
        kernel = ctypes.CDLL(str(built))
        kernel.adabelief_layout.restype = kernel.adabelief_instruction_set.restype = ctypes.c_char_p
        kernel.adabelief_threads.argtypes = []
        kernel.adabelief_count.argtypes = [pointer, pointer, int64, pointer]
        kernel.adabelief_update.argtypes = [pointer, pointer, int64, ctypes.c_int, ctypes.c_int, pointer]
        kernel.adabelief_update.restype = None
    except (OSError, AttributeError) as error:
        return f"{built.name} could not be loaded ({error})"
    addresses = next(filter(None, map(_openmp, _scopes)), [None] * len(_FUNCTIONS))  # none is one thread
    kernel.adabelief_share_threads((pointer * len(addresses))(*addresses))
    if kernel.adabelief_layout().decode().split() != [*COLUMNS, *SCALARS, *TYPES]:
        return f"{built.name} was compiled from another version of this package: install it again"
    return kernel


def _openmp(scope: Callable[[], ctypes.CDLL]) -> list[int | None] | None:
    """The addresses of the OpenMP functions; None where a scope has no such runtime."""
    try:
        runtime = scope()
    except OSError:
        return None
    found = {name: getattr(runtime, name, None) for name in _FUNCTIONS}
    if not any(all(map(found.get, (*_OPENMP, *region))) for region in (_GCC, _LLVM)):
        return None
    return [ctypes.cast(function, ctypes.c_void_p).value if function else None for function in found.values()]
