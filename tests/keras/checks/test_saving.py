"""Configs, saved models, and what a saved optimizer remembers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras.optimizers import schedules

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief, WarmupDecay
from tests.keras.checks.common import QUIET, Reference, X, Y, array, gradients, new_model, new_variables, number
from tests.mixes import DECAYS

pytestmark = QUIET


def test_schedules():
    variables = new_variables()
    rates = schedules.ExponentialDecay(1e-2, 5, 0.5), schedules.InverseTimeDecay(0.1, 5, 0.5)
    optimizer = AdaBelief(rates[0], weight_decay=rates[1], weight_decouple=True)
    reference = Reference(optimizer, variables)
    for t in range(10):
        reference.step(gradients(t))
    copy = AdaBelief.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy.weight_decay, schedules.InverseTimeDecay)


@pytest.mark.parametrize("excluded", ["variables", "names"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled", "fixed"])
def test_exclusions(decay, excluded):
    variables = new_variables()
    optimizer = AdaBelief(1e-2, **DECAYS[decay])
    if excluded == "names":
        optimizer.exclude_from_weight_decay(var_names=["weight_1", "weight_2"])
    else:
        optimizer.exclude_from_weight_decay(var_list=variables[1:3])
    optimizer.build(variables)
    for again in (optimizer, AdaBelief.from_config(optimizer.get_config())):
        reference = Reference(again, variables, undecayed=(1, 2))
        for t in range(3):
            reference.step(gradients(t))
        assert again.get_config() == optimizer.get_config()


CONFIGS = [
    AdaBelief(2e-3, 0.8, 0.99, 1e-12, 0.1, True, True, True, True, False, clipnorm=1.0, name="mine"),
    AdaBeliefW(max_update=0.5, fixed_decay=True, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
    RangerAdaBelief(k=3, alpha=0.3, adaptive_from=4.5, use_gc=False, gc_loc=False, gc_outputs_last=False),
    AdaBelief(WarmupDecay(1e-3, 100, min_lr=1e-5), gradient_accumulation_steps=2, loss_scale_factor=8.0),
]


@pytest.mark.parametrize("optimizer", CONFIGS, ids=lambda o: type(o).__name__)
def test_config_round_trip(optimizer):
    config = optimizer.get_config()
    for copy in (
        type(optimizer).from_config(config),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    ):
        assert type(copy) is type(optimizer)
        assert copy.get_config() == config
    type(optimizer)(**{k: v for k, v in config.items() if not isinstance(v, dict)})
    older = {name: value for name, value in config.items() if name != "max_update"}
    assert type(optimizer).from_config(older).max_update is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaBelief(1e-2, rectify=True, amsgrad=True),
        lambda: AdaBeliefW(WarmupDecay(1e-2, 16)),
        lambda: RangerAdaBelief(1e-2, k=3, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(AdaBeliefW(1e-2), dynamic_growth_steps=3),
    ],
    ids=["AdaBelief", "AdaBeliefW", "Ranger", "LossScale"],
)
def test_saved_model_resumes_to_the_bit(make, tmp_path):
    """By its file alone, and by the weights of one that is made and compiled anew."""
    model = new_model()
    optimizer = make()
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if v.name in ("bias", "gamma")])
    model.compile(optimizer, "mse")
    fit = dict(batch_size=8, shuffle=False, verbose=0)
    model.fit(X, Y, epochs=2, **fit)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded, filled = keras.saving.load_model(path), keras.models.clone_model(model)
    filled.compile(type(optimizer).from_config(optimizer.get_config()), "mse")
    filled.optimizer.build(filled.trainable_variables)
    filled.load_weights(path)
    for each in (model, loaded, filled):
        each.fit(X, Y, epochs=2, **fit)
    for resumed in (loaded, filled):
        pairs = [*zip(model.weights, resumed.weights, strict=True)]
        pairs += zip(model.optimizer.variables, resumed.optimizer.variables, strict=True)
        for a, b in pairs:
            assert np.array_equal(array(a), array(b)), a.path


def layers_of(*units: int) -> list[Any]:
    layers = [keras.layers.Dense(n, name=f"layer_{i}") for i, n in enumerate(units)]
    keras.Sequential([keras.layers.Input((3,)), *layers])
    return layers


def weights_of(layers: list[Any]) -> list[Any]:
    return [v for layer in layers for v in layer.trainable_variables]


FREEZINGS = {"none": (0, 1, 2), "before": (1, 2), "between": (0, 2), "other": (2, 0)}


@pytest.mark.parametrize("left", FREEZINGS.values(), ids=FREEZINGS)
def test_exclusions_follow_their_variables_where_layers_are_frozen(left):
    layers = layers_of(3, 3, 3)
    optimizer = AdaBelief(1e-2, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[layers[2].bias])
    optimizer.build(weights_of(layers))
    again = AdaBelief.from_config(optimizer.get_config())
    variables = weights_of([layers[i] for i in left])
    again.build(variables)
    assert [v.path for i, v in enumerate(variables) if not again._decays(i)] == [layers[2].bias.path]


def test_exclusions_that_are_gone_are_told():
    layers = layers_of(3, 3)
    optimizer = AdaBelief(1e-2, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[layers[0].bias])
    optimizer.build(weights_of(layers))
    again = AdaBelief.from_config(optimizer.get_config())
    with pytest.warns(UserWarning, match=r"not among its variables now: .*layer_0/bias"):
        again.build(weights_of(layers[1:]))
    assert all(map(again._decays, range(2)))


def test_exclusions_of_a_model_made_anew_go_by_order():
    """As its layers may have other names."""
    first, second = ([keras.layers.Dense(3), keras.layers.Dense(3)] for _ in range(2))
    for layers in (first, second):
        keras.Sequential([keras.layers.Input((3,)), *layers])
    optimizer = AdaBelief(1e-2, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[layer.bias for layer in first])
    optimizer.build(weights_of(first))
    again = AdaBelief.from_config(optimizer.get_config())
    again.build(weights_of(second))
    assert [again._decays(i) for i in range(4)] == [True, False, True, False]


def test_what_older_versions_saved_loads():
    saved = {
        "module": "adabelief.keras",
        "class_name": "RangerAdaBelief",
        "registered_name": "adabelief>RangerAdaBelief",
        "config": {
            "name": "ranger_ada_belief",
            "learning_rate": 0.25,
            "weight_decay": 0.1,
            "n_sma_threshold": 4.5,
            "k": 3,
            "excluded_from_weight_decay": {"variables": [[1, "bias"]], "var_names": []},
        },
    }
    optimizer = keras.optimizers.deserialize(saved)
    optimizer.build(weights_of(layers_of(3)))
    assert type(optimizer) is RangerAdaBelief
    assert (optimizer.adaptive_from, optimizer.k, number(optimizer.learning_rate)) == (4.5, 3, 0.25)
    assert [optimizer._decays(i) for i in range(2)] == [True, False]
