"""What only TensorFlow has: gradients of a few rows, and of shapes that are not known before the step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief, WarmupDecay
from adabelief.rule import reference_step
from tests.keras.checks.common import BACKEND, QUIET, Reference, array, gradients, new_variables, number, only

if BACKEND == "tensorflow":
    import tensorflow as tf

pytestmark = [QUIET, only["tensorflow"]]

ADABELIEF_TF_SPARSE = {
    "default": ({}, [0.78374314, 2.0], [3.0, 3.7839816]),
    "amsgrad": ({"amsgrad": True}, [0.7947248, 2.0], [3.0, 3.7949643]),
    "decay": ({"weight_decay": 0.01}, [0.7818859, 2.0], [3.0, 3.7761304]),
    "warm-up": (
        {"learning_rate": WarmupDecay(1e-3, total_steps=200, min_lr=1e-5)},
        [0.9211433, 2.0],
        [3.0, 3.9211729],
    ),
    "plain": ({"rectify": False}, [0.0538935, 2.0], [3.0, 3.0538921]),
}


@pytest.mark.parametrize("name", ADABELIEF_TF_SPARSE)
def test_sparse_values_of_adabelief_tf(name):
    """The sparse table of adabelief-tf's own tests: 200 steps, inside tf.function."""
    options, *expected = ADABELIEF_TF_SPARSE[name]
    variables = [tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])]
    optimizer = AdaBelief(epsilon=1e-14, weight_decouple=True, **({"rectify": True} | options))
    optimizer.build(variables)

    @tf.function
    def step():
        grads = [tf.IndexedSlices([g], [i], [2]) for i, g in ((0, 0.1), (1, 0.04))]
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    for _ in range(200):
        step()
    for v, x in zip(variables, expected, strict=True):
        np.testing.assert_allclose(v.numpy(), x, atol=2e-4)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}, {"clipnorm": 1e6}], ids=str)
def test_sparse_rows(options):
    """Rows without a gradient keep their values while their state decays; repeated rows count as their sum."""
    variable = keras.Variable(np.random.default_rng(0).normal(size=(4, 3)))
    optimizer = AdaBelief(1e-2, epsilon=1e-8, **options)
    state: dict[str, Any] = {}
    rule = {"lr": number(optimizer.learning_rate), "eps": 1e-8, "amsgrad": "amsgrad" in options}
    for t in range(20):
        rows = [t % 4, (t + 1) % 4, t % 4]
        values = np.random.default_rng(t).normal(size=(3, 3)).astype("float32")
        gradient = np.zeros((4, 3))
        np.add.at(gradient, rows, values)
        touched = np.isin(np.arange(4), rows)
        before, previous = array(variable), state
        optimizer.apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), (4, 3))], [variable])
        p, state = reference_step(before, gradient, state, weight_decay=options.get("weight_decay", 0.0), **rule)
        if previous:
            state["exp_avg"][~touched] = 0.9 * previous["exp_avg"][~touched]
            state["exp_avg_var"][~touched] = 0.999 * previous["exp_avg_var"][~touched] + 1e-8
        else:
            state["exp_avg"][~touched], state["exp_avg_var"][~touched] = 0.0, 1e-8
        if "amsgrad" in options:
            state["max_exp_avg_var"] = np.maximum(previous.get("max_exp_avg_var", 0.0), state["exp_avg_var"])
        np.testing.assert_allclose(array(variable), np.where(touched[:, None], p, before), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(optimizer._exp_avgs[0]), state["exp_avg"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(optimizer._exp_avg_vars[0]), state["exp_avg_var"], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"gc_loc": False}, {"gc_outputs_last": False}], ids=str)
def test_sparse_rows_that_are_centralized_are_those_of_the_dense_gradient(options):
    optimizers = [RangerAdaBelief(1e-2, **options) for _ in range(2)]
    variables = [keras.Variable(np.random.default_rng(0).normal(size=(4, 3))) for _ in range(2)]
    for t in range(10):
        values = np.random.default_rng(t).normal(size=(2, 3)).astype("float32")
        sparse = tf.IndexedSlices(tf.constant(values), tf.constant([t % 4, (t + 1) % 4]), (4, 3))
        for optimizer, variable, gradient in zip(
            optimizers, variables, (sparse, tf.convert_to_tensor(sparse)), strict=True
        ):
            optimizer.apply([gradient], [variable])
    assert np.array_equal(*map(array, variables))


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_optimizer_built_inside_a_function(cls, jit_compile):
    variables = new_variables(shapes=((3, 2), (4,)))
    optimizer = cls(1e-2)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(grads):
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    reference = Reference(optimizer, variables)
    for t in range(7):
        reference.step(gradients(t, ((3, 2), (4,))), apply=lambda grads, _: step(grads))


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
@pytest.mark.parametrize("known", ["rank", "nothing", "rows"])
def test_gradients_of_unknown_shape(cls, known):
    """As `tf.py_function` and strategies hand them over; rows without the number of all rows, as well."""
    variables = new_variables(shapes=((4, 3),))
    optimizer = cls(1e-2)
    optimizer.build(variables)
    shape = {"rank": tf.TensorShape([None, None]), "nothing": None, "rows": tf.TensorShape([None, 3])}[known]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def step(gradient):
        if known == "rows":
            gradient = tf.IndexedSlices(gradient, tf.range(4))
        optimizer.apply_gradients([(gradient, variables[0])])

    reference = Reference(optimizer, variables)
    for t in range(7):
        reference.step(gradients(t, ((4, 3),)), apply=lambda grads, _: step(grads[0]))
