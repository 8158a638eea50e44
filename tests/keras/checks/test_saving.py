"""Configs, saved models, and what a saved optimizer remembers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.optimizers import schedules

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief, WarmupDecay
from tests.keras.checks.common import QUIET, Reference, X, Y, array, gradients, new_model, new_variables
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
    AdaBeliefW(fixed_decay=True, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
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


@pytest.mark.parametrize("resumed_by", ["load_model", "load_weights"])
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
def test_saved_model_resumes_to_the_bit(make, resumed_by, tmp_path):
    model = new_model()
    optimizer = make()
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if v.name in ("bias", "gamma")])
    model.compile(optimizer, "mse")
    fit = dict(batch_size=8, shuffle=False, verbose=0)
    model.fit(X, Y, epochs=2, **fit)
    path = str(tmp_path / "model.keras")
    model.save(path)
    if resumed_by == "load_model":
        resumed = keras.saving.load_model(path)
    else:
        resumed = keras.models.clone_model(model)
        resumed.compile(type(optimizer).from_config(optimizer.get_config()), "mse")
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(path)
    for each in (model, resumed):
        each.fit(X, Y, epochs=2, **fit)
    pairs = [*zip(model.weights, resumed.weights, strict=True)]
    pairs += zip(model.optimizer.variables, resumed.optimizer.variables, strict=True)
    for a, b in pairs:
        assert np.array_equal(array(a), array(b)), a.path
