"""The proof that addresses are still those of an optimizer's tensors (proof.c): all lookups, in one call."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabelief.kernels.layout import STATE
from adabelief.kernels.library import NOT_COMPILED, library
from adabelief.torch import internals, storage
from adabelief.torch.state import NAMES

_PYTHON = {
    "dict_next": "PyDict_Next",
    "dict_size": "PyDict_Size",
    "dict_get": "PyDict_GetItemWithError",
    "list_size": "PyList_Size",
    "list_get": "PyList_GetItem",
    "attribute": "PyObject_GetAttr",
    "call": "PyObject_CallFunctionObjArgs",
    "compare": "PyObject_RichCompareBool",
    "keep": "Py_IncRef",
    "release": "Py_DecRef",
    "clear_error": "PyErr_Clear",
}
_TORCH = (
    *("data_ptr", "dtype", "device_type", "device_index", "dim", "sizes", "strides"),
    *("storage_offset", "storage_size", "layout"),
)
_OBJECTS: dict[str, Any] = {
    "none": None,
    "yes": True,
    "tensor_type": Tensor,
    "parameter_type": torch.nn.Parameter,
    "dtensor_type": None,
    "grad": "grad",
    "local": "_local_tensor",
    "spec": "_spec",
    "is_neg": Tensor.is_neg,
    "is_conj": Tensor.is_conj,
    **{f"name_{name}": name for name in NAMES},
}


class _Api(ctypes.Structure):
    """What proof.c uses of Python and torch, by address."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (*_PYTHON, *_TORCH)),
        *((name, ctypes.c_int64) for name in ("words", "type_words", "names", "alike")),
        *((name, ctypes.c_void_p) for name in _OBJECTS),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("params", "keys", "rows", "without")),
        *((name, ctypes.c_void_p) for name in ("param", "key", "entry", "without_grad")),
        ("lists", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("begins", "at", "row")),
    ]


class Held:
    """What a kernel is to touch, kept alive until it has returned, whatever other threads drop meanwhile."""

    def __init__(self, release: Callable[..., None], api: Any, rows: int) -> None:
        self.objects = (ctypes.c_void_p * (rows * (2 + len(NAMES))))()
        self._release, self._api, self._rows = release, api, rows

    def release(self) -> None:
        """Lets go of it."""
        rows, self._rows = self._rows, 0
        self._release(self._api, self.objects, rows)

    def __del__(self) -> None:
        """An interrupt may come before whoever holds it can release it."""
        self.release()


class Proof:
    """What an optimizer's objects, addresses, types and shapes are now, to be compared with what they are later.

    It keeps none of them alive. An object that it finds in its place is alive; another one at the same address, whose
    type, memory and shape are those of the old one, serves as well.
    """

    def __init__(
        self,
        lists: Sequence[list[Tensor]],
        state: dict[Any, Any],
        moving: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> None:
        """Notes everything.

        Args:
            lists: The parameters of each group.
            state: The optimizer's state.
            moving: The parameters whose addresses are used, with all of their state; their gradients may move.
            gradients: Of all parameters of the lists, in their order.
        """
        compiled, self._api = _loaded()
        params = list(chain.from_iterable(lists))
        without = [p for p, g in zip(params, gradients, strict=True) if g is None]
        begins = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        positions = {id(p): i for i, p in enumerate(params)}
        at = np.array([positions[id(p)] for p in moving], dtype=np.int64)
        self._arrays = [*map(_ids, (params, state, list(state.values()), without)), begins, at]
        row_bytes = compiled.adabelief_row_bytes()
        self._rows = np.zeros(max(1, len(moving)) * row_bytes, dtype=np.uint8)
        shapes = np.zeros(max(1, sum(2 * p.ndim + 4 for p in moving)), dtype=np.int64)
        self.gradients = np.zeros(len(moving), dtype=np.int64)
        room, self._noted = shapes.ctypes.data, True
        for i, p in enumerate(moving):
            entry, is_local = state[p], internals.is_distributed(p)
            if is_local:
                self._api.dtensor_type = id(type(p))
            tensors, part = [p, *map(entry.get, NAMES)], internals.part(p) if is_local else p
            self._noted &= compiled.adabelief_note(
                ctypes.byref(self._api),
                self._rows.ctypes.data + i * row_bytes,
                id(entry),
                (ctypes.c_void_p * len(tensors))(*(None if x is None else id(x) for x in tensors)),
                (ctypes.c_int32 * len(tensors))(*(0 if x is None else x.element_size() for x in tensors)),
                part.numel(),
                math.prod(storage.exponents_shape(part)) if part.ndim else 0,
                p.is_complex(),
                is_local,
                room,
            )
            room += (2 * p.ndim + 4) * shapes.itemsize
        self._shapes = shapes
        self._plan = _Plan(
            *(len(params), len(state), len(moving), len(without)),
            *(array.ctypes.data for array in self._arrays[:4]),
            len(lists),
            *(array.ctypes.data for array in self._arrays[4:]),
            self._rows.ctypes.data,
        )
        self._moved = ctypes.c_int()
        self._arguments = ctypes.byref(self._api), ctypes.byref(self._plan)
        self._results = ctypes.c_void_p(self.gradients.ctypes.data), ctypes.byref(self._moved)
        self._holds, self._release = compiled.adabelief_holds, compiled.adabelief_release

    def holds(
        self, lists: Sequence[list[Tensor]], state: dict[Any, Any], gradients: list[Tensor] | None = None
    ) -> Held | None:
        """Holds all that is to be touched, if it is as it was, but for the addresses of gradients; else None.

        Those are then in `gradients`. It is never so where a tensor has no memory of its own, or less than its elements
        need.

        Args:
            lists: The parameters of each group.
            state: The optimizer's state.
            gradients: Of all parameters, in their order; None where each is its parameter's attribute.
        """
        if not self._noted:
            return None
        held = Held(self._release, self._arguments[0], self._plan.rows)
        found = self._holds(*self._arguments, lists, state, gradients, *self._results, held.objects)
        return held if found else None

    @property
    def moved(self) -> bool:
        """Whether a gradient was elsewhere than the time before when `holds` was last asked."""
        return bool(self._moved.value)


def unavailable() -> str | None:
    """Why there is no such proof here; None where there is one."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def _ids(objects: Any) -> Any:
    return np.fromiter(map(id, objects), dtype=np.int64, count=len(objects))


def _loaded() -> tuple[ctypes.PyDLL, _Api]:
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


@functools.cache
def _load() -> tuple[ctypes.PyDLL, _Api] | str:
    """The loaded library with what it needs of Python and torch, or why there is none."""
    if not internals.has_lock():
        return "this Python has no global lock, so that other threads may change what is being compared"
    built = library(__file__, "_proof")
    if built is None:
        return NOT_COMPILED
    words, type_words = _words_before(lambda x: getattr(x, "_cdata", -1)), _words_before(lambda x: id(type(x)))
    if words is None or type_words is None:
        return f"torch {torch.__version__} keeps its tensors in an unknown way"
    try:
        loaded = ctypes.PyDLL(str(built))
        functions = _functions()
    except (OSError, AttributeError) as error:
        return f"{built.name} does not go with torch {torch.__version__} ({error})"
    objects = {name: id(value) for name, value in _OBJECTS.items()}
    api = _Api(**functions, words=words, type_words=type_words, names=len(NAMES), alike=len(STATE), **objects)
    pointer, int64, py_object = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    loaded.adabelief_holds.argtypes = [pointer, pointer, *[py_object] * 3, pointer, pointer, pointer]
    loaded.adabelief_release.argtypes, loaded.adabelief_release.restype = [pointer, pointer, int64], None
    loaded.adabelief_row_bytes.restype = loaded.adabelief_most.restype = int64
    loaded.adabelief_note.restype = ctypes.c_bool
    loaded.adabelief_note.argtypes = [*[pointer] * 5, int64, int64, ctypes.c_int, ctypes.c_int, pointer]
    if loaded.adabelief_most() < len(NAMES):
        return f"{built.name} was compiled from another version of this package: install it again"
    return loaded, api


def _functions() -> dict[str, int | None]:
    """The addresses of the functions that `_Api` names."""
    torch_cpu = internals.torch_cpu()
    optional = {"layout"} - {name for name in _TORCH if hasattr(torch_cpu, f"aoti_torch_get_{name}")}
    return {
        **{name: _address(getattr(ctypes.pythonapi, symbol)) for name, symbol in _PYTHON.items()},
        **{
            name: None if name in optional else _address(getattr(torch_cpu, f"aoti_torch_get_{name}"))
            for name in _TORCH
        },
    }


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def _words_before(pointer: Callable[[Tensor], int]) -> int | None:
    """Words of a tensor's object before a pointer that it has: fixed in every build of Python and torch."""
    examples = [torch.zeros(3), torch.nn.Parameter(torch.zeros(())), torch.zeros(2, 2, dtype=torch.int8).t()]
    size = Tensor.__basicsize__ // 8
    found = [
        {i for i in range(size) if ctypes.c_size_t.from_address(id(x) + 8 * i).value == pointer(x)} for x in examples
    ]
    common = set.intersection(*found)
    return common.pop() if len(common) == 1 else None
