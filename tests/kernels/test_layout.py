"""One table of columns and scalars, for both kernels and for torch."""

from __future__ import annotations

import pytest

from adabelief.kernels import cpu, gpu, layout
from adabelief.rule import Coefficients
from adabelief.torch import state, update


def test_torch_has_the_same_scalars_and_state():
    assert update.Scalars._fields == layout.SCALARS
    assert layout.SCALARS[1 : 1 + len(Coefficients._fields)] == Coefficients._fields
    assert tuple(state.COLUMNS) == layout.KEPT
    assert layout.COLUMNS[: len(layout.ARRAYS)] == layout.ARRAYS
    assert gpu.TYPES == layout.TYPES


@pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
@pytest.mark.parametrize("name", ["COLUMNS", "SCALARS", "TYPES"])
def test_a_library_of_another_layout_is_refused(name, monkeypatch):
    monkeypatch.setattr(cpu, name, (*getattr(layout, name)[::-1],))
    loaded = cpu._library.__wrapped__()
    assert isinstance(loaded, str)
    assert "another version of this package" in loaded
