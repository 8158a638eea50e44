"""A step is the reference's, for every mix of options: in single or double precision, traced or not, by turns."""

from __future__ import annotations

from itertools import product

import keras
import pytest

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.keras.checks.common import (
    BACKEND,
    IMPORTED,
    MIXES,
    QUIET,
    Reference,
    compiled,
    gradients,
    named,
    new_variables,
)
from tests.mixes import DEFAULTS, share

pytestmark = QUIET


def test_import_loads_no_other_framework():
    assert not IMPORTED


@pytest.fixture
def floats(dtype):
    floatx = keras.config.floatx()
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
    keras.config.set_floatx(dtype)
    yield
    keras.config.set_floatx(floatx)
    if BACKEND == "jax":
        jax.config.update("jax_enable_x64", False)


WAYS = [*product(("float32", "float64"), (False, True))]


@pytest.mark.usefixtures("floats")
@pytest.mark.parametrize(
    ("mix", "dtype", "traced"),
    [(mix, *way) for i, way in enumerate(WAYS) for mix in share(MIXES, i, of=len(WAYS))],
    ids=lambda x: {False: "eager", True: "traced"}.get(x, x),
)
def test_many_steps(mix, dtype, traced):
    """More than any option needs to take part: rectified steps, Lookahead in every sixth step."""
    name, options = MIXES[mix]
    cls, arguments = named(name, options)
    optimizer, traces = cls(**arguments), []
    variables = new_variables(dtype)
    apply = compiled(optimizer, traces) if traced else None
    optimizer.build(variables)
    outputs_last = {"gc_outputs_last": True} if name == "RangerAdaBelief" else {}
    reference = Reference(optimizer, variables, options=DEFAULTS[name] | outputs_last | options)
    for t in range(20):
        reference.step(gradients(t), apply=apply)
    assert len(traces) == (traced and BACKEND != "torch")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_narrow_variables_have_float32_state(cls, dtype):
    reference = Reference(cls(learning_rate=1e-2, amsgrad=True), new_variables(dtype))
    for t in range(10):
        reference.step(gradients(t))


def test_learning_rate_function_and_assignment():
    optimizer = AdaBelief(1)
    reference = Reference(optimizer, new_variables())
    for t, rate in enumerate([0.1, 0.01]):
        optimizer.learning_rate = rate
        reference.step(gradients(t))
    optimizer = AdaBelief(lambda: 0.1)
    Reference(optimizer, new_variables()).step(gradients(0))
