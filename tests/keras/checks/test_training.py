"""What Keras puts around a step: clipping, scaling, accumulation, averages, policies, late gradients."""

from __future__ import annotations

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.keras.checks.common import (
    BACKEND,
    QUIET,
    Reference,
    X,
    Y,
    array,
    gradients,
    new_model,
    new_variables,
    number,
)
from tests.mixes import ALL_WAYS

pytestmark = QUIET


POLICIES = [(AdaBelief, "mixed_float16"), (RangerAdaBelief, "mixed_bfloat16"), (AdaBelief, "bfloat16")]
if ALL_WAYS:
    POLICIES = [*product((AdaBelief, RangerAdaBelief), ("mixed_float16", "mixed_bfloat16", "bfloat16"))]


@pytest.mark.parametrize(("cls", "policy"), POLICIES)
def test_fit_under_policies(cls, policy):
    model = new_model(policy)
    model.compile(cls(1e-2, epsilon=1e-12), "mse")
    if policy == "mixed_float16" and not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        model.compile(keras.optimizers.LossScaleOptimizer(cls(1e-2, epsilon=1e-12)), "mse")
    history = model.fit(X, Y, epochs=15, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert {keras.backend.standardize_dtype(m.dtype) for m in optimizer._exp_avgs} == {"float32"}


@pytest.mark.skipif(BACKEND == "jax", reason="Keras's LossScaleOptimizer.apply does not run outside of jax.jit")
def test_loss_scale_optimizer_unscales_and_skips():
    variables = new_variables()
    inner = AdaBelief(1e-2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    reference = Reference(inner, variables)
    scaled = lambda grads, variables: optimizer.apply([4.0 * g for g in grads], variables)  # noqa: E731
    for t in range(3):
        reference.step(gradients(t), apply=scaled)
    before = [array(v) for v in (*variables, *inner.variables)]
    optimizer.apply([ops.convert_to_tensor(g * np.inf, "float32") for g in gradients(3)], variables)
    for v, x in zip((*variables, *inner.variables), before, strict=True):
        assert np.array_equal(array(v), x)


def test_loss_scale_factor_and_clipping():
    for options, expected in [
        ({"loss_scale_factor": 8.0}, lambda gs: [g / 8 for g in gs]),
        ({"clipnorm": 0.5}, lambda gs: [g * min(1, 0.5 / np.linalg.norm(g)) for g in gs]),
        ({"global_clipnorm": 0.5}, lambda gs: [g * 0.5 / np.sqrt(sum((x**2).sum() for x in gs)) for g in gs]),
    ]:
        reference = Reference(AdaBelief(1e-2, epsilon=1e-8, **options), new_variables())
        for t in range(3):
            gs = [g.astype(np.float32).astype(float) for g in gradients(t)]
            reference.step(gs, expected_gradients=expected(gs))


def test_gradient_accumulation():
    variables = new_variables()
    optimizer = AdaBelief(1e-2, epsilon=1e-8, weight_decay=0.1, rectify=True, gradient_accumulation_steps=2)
    reference = Reference(optimizer, variables)

    def apply(grads, variables):
        before = [array(v) for v in variables]
        optimizer.apply([0.5 * g for g in grads], variables)
        for v, x in zip(variables, before, strict=True):
            assert np.array_equal(array(v), x)
        optimizer.apply([1.5 * g for g in grads], variables)

    for t in range(8):
        reference.step(gradients(t), apply=apply)


def test_ema():
    variables, plain = new_variables(), new_variables()
    optimizer, other = AdaBelief(1e-2, use_ema=True, ema_momentum=0.5), AdaBelief(1e-2)
    for t in range(4):
        grads = [ops.convert_to_tensor(g, "float32") for g in gradients(t)]
        optimizer.apply(grads, variables)
        other.apply(grads, plain)
        average = [array(v) if t == 0 else 0.5 * (a + array(v)) for a, v in zip(average if t else plain, plain)]  # noqa: B905, F821
    optimizer.finalize_variable_values(variables)
    for v, x in zip(variables, average, strict=True):
        np.testing.assert_allclose(array(v), x, rtol=1e-6)


class Overriding(RangerAdaBelief):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)


@pytest.mark.parametrize("cls", [RangerAdaBelief, Overriding])
def test_missing_gradients_and_late_variables(cls):
    variables = new_variables(shapes=((3, 2), (4,)))
    optimizer = cls(1e-2, k=2)
    optimizer.build(variables)
    g = [ops.ones((3, 2)), ops.ones(4)]
    for _ in range(3):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([g[0], None], variables)
    before = array(variables[1])
    optimizer.apply_gradients([(g[1], variables[1])])
    assert np.all(array(variables[1]) != before)
    assert np.abs(array(variables[1]) - before).max() < 0.1  # the slow weights began as the variable


def test_weights_set_after_building_are_the_slow_weights():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=1)
    optimizer.build(variables)
    for v in variables:
        v.assign(v + 1.0)
    reference = Reference(optimizer, variables)
    for t in range(3):
        reference.step(gradients(t))


def test_weights_set_in_mid_run_stay_after_reset_lookahead():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2)
    reference = Reference(optimizer, variables)
    for t in range(9):
        if t == 5:
            for v, walk in zip(variables, reference.walks, strict=True):
                v.assign(v + 1.0)
                walk.state["slow_buffer"] = np.moveaxis(array(v), -1, 0) if len(v.shape) > 1 else array(v)
            optimizer.reset_lookahead()
        reference.step(gradients(t))


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_a_subclass_own_step_is_taken_and_given_a_learning_rate(cls):
    rates = []

    class Own(cls):
        def update_step(self, gradient, variable, learning_rate):
            rates.append(number(learning_rate))
            super().update_step(-gradient, variable, learning_rate)

    variables = new_variables()
    reference = Reference(Own(1e-2, k=2) if cls is RangerAdaBelief else Own(1e-2), variables)
    for t in range(4):
        reference.step(gradients(t), expected_gradients=[-array(ops.cast(g, "float32")) for g in gradients(t)])
    assert rates == [number(reference.optimizer.learning_rate)] * 4 * len(variables)


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")  # of the reference
def test_empty_variables_and_numpy_gradients(cls, dtype):
    shapes = ((0, 4), (4, 0), (0,), (2, 3))
    reference = Reference(cls(1e-2), new_variables(shapes=shapes))
    for t in range(7):
        grads = [g.astype(dtype) for g in gradients(t, shapes)]
        apply = lambda _, variables, grads=grads: reference.optimizer.apply(grads, variables)  # noqa: E731
        reference.step(grads, expected_gradients=[g.astype("float32") for g in grads], apply=apply)
