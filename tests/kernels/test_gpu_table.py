"""The Triton kernel's tables: what they hold, refuse and leave to a CUDA graph; and why there is no kernel."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from adabelief.kernels import gpu
from adabelief.kernels.layout import PLACES, SCALARS, row
from tests.kernels.arrays import NEEDED, Arrays, copied, needs_interpreter

pytest.importorskip(*NEEDED)


def test_lists_of_nothing_launch_nothing():
    for rows in ([], [row(rows=3)] * 2):  # of none and of empty arrays
        gpu.Table(rows, "float32", torch.device("cpu")).update(0, torch.zeros(len(rows), len(SCALARS)).double())


def test_offsets_go_beyond_32_bits():
    elements, chunk = [2**33 + 1, 0, 2**32], gpu._block()
    table = gpu.Table([row(elements=n, rows=4 if n % 2 == 0 else 0) for n in elements], "float32", torch.device("cpu"))
    plan = table._planned()
    assert plan.chunk_owners.bincount().tolist() == [2**33 // chunk + 1, 0, 2**32 // chunk]
    places = dict(zip(PLACES, plan.places.T.tolist(), strict=True))
    assert places["elements"] == elements
    assert places["first_chunk"] == [0, *[2**33 // chunk + 1] * 2]
    assert places["first_mean"] == [0, 0, 0]
    assert places["mean_length"] == [0, 0, 2**30]


def test_wrong_arguments_are_named():
    table = gpu.Table([row(elements=8)] * 3, "float32", torch.device("cpu"))
    n = len(SCALARS)
    for wrong in (torch.zeros(3, n), torch.zeros(1, n).double(), torch.zeros(n, 3).double().T):
        with pytest.raises(ValueError, match=rf"coefficients must be contiguous, of type float64 and shape \(3, {n}\)"):
            table.update(0, wrong)
    with pytest.raises(ValueError, match=r"type_name must be one of float32, .* got 'int8'"):
        gpu.Table([], "int8", torch.device("cpu"))


@needs_interpreter
def test_what_a_graph_captures_is_its_own(interpreted, monkeypatch):
    """While one is captured nothing runs: an upload of then is no upload for later, and one of before is kept."""
    arrays = Arrays(interpreted, [(5000,), (3, 40)], torch.float32, use_gc=True)
    monkeypatch.setattr(interpreted, "_capturing", lambda device: True)
    monkeypatch.setattr(interpreted, "_captured", [])
    arrays.steps(1)
    assert arrays.table._plan is arrays.table._gradients is None
    assert interpreted._captured == []
    monkeypatch.setattr(interpreted, "_capturing", lambda device: False)
    arrays.steps(1)
    plan, gradients = arrays.table._plan, arrays.table._gradients
    monkeypatch.setattr(interpreted, "_capturing", lambda device: True)
    assert arrays.table._on_device()[1] is not gradients
    arrays.steps(2)
    assert len(interpreted._captured) == 1
    assert interpreted._captured[0] is plan


def test_uploads_are_exact_and_new(interpreted, monkeypatch):
    numbers, addresses = np.array([[0.1, -1e300, 2.0**-1074]]), np.array([0, 2**57 - 1, 2**53 + 1])
    for capturing in (False, True):
        monkeypatch.setattr(interpreted, "_capturing", lambda device, answer=capturing: answer)
        for values in (numbers, addresses):
            uploaded = interpreted._upload(values, torch.device("cpu"))
            assert uploaded.tolist() == values.tolist()
            assert uploaded.data_ptr() != values.ctypes.data


def test_unavailable_says_why(monkeypatch):
    monkeypatch.setenv("CC", "cc")
    gpu._compiler.cache_clear()
    assert gpu.unavailable() is None
    assert "not for 'mps'" in gpu.unavailable("mps")
    monkeypatch.setattr(gpu, "_missing", "No module named 'triton'")
    assert gpu.unavailable() == "Triton cannot be imported (No module named 'triton')"
    monkeypatch.setattr(gpu, "_missing", "")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    gpu._compiler.cache_clear()
    assert gpu.unavailable() == "Triton needs a C compiler, and there is none"
    gpu._compiler.cache_clear()


def test_without_triton_the_module_can_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu_alone", None)  # and what is there afterwards goes with it
    monkeypatch.setitem(sys.modules, "triton.language", None)
    assert copied(gpu, "gpu_alone").unavailable().startswith("Triton cannot be imported")
