"""What the constructors refuse and warn of, the schedule, and what comes from adabelief-tf."""

from __future__ import annotations

import doctest
import importlib
import inspect
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import schedules

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief, WarmupDecay
from adabelief.options import FLAGS
from tests.keras.checks.common import QUIET, array, compiled, number

pytestmark = QUIET


def tf_defaults(**options: Any) -> dict[str, Any]:
    return {"epsilon": 1e-14, "weight_decouple": True, "rectify": True} | options


ADABELIEF_TF = {
    "default": ({}, [0.9475605, 1.9471607], [2.94784, 3.9478]),
    "amsgrad": ({"amsgrad": True}, [0.9485513, 1.9481515], [2.9488308, 3.9487908]),
    "decay": ({"weight_decay": 0.01}, [0.94657826, 1.9451787], [2.9448593, 3.9438188]),
    "warm-up": (
        {"learning_rate": WarmupDecay(1e-3, total_steps=100, min_lr=1e-5)},
        [0.9811546, 1.9810544],
        [2.981224, 3.981214],
    ),
    "plain": ({"rectify": False}, [0.6672395, 1.6672392], [2.667238, 3.6672378]),
    "schedules": (
        {
            "learning_rate": schedules.ExponentialDecay(1e-3, 50, 0.5),
            "weight_decay": schedules.InverseTimeDecay(2e-3, 25, 0.25),
        },
        [0.9778532, 1.9773799],
        [2.977964, 3.977844],
    ),
}


@pytest.mark.parametrize("name", ADABELIEF_TF)
def test_values_of_adabelief_tf(name):
    """The dense table of adabelief-tf's own tests: 100 steps."""
    options, *expected = ADABELIEF_TF[name]
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0])]
    optimizer = AdaBelief(**tf_defaults(**options))
    optimizer.build(variables)
    apply, grads = compiled(optimizer, []), [ops.convert_to_tensor(g) for g in ([0.1, 0.2], [0.03, 0.04])]
    for _ in range(100):
        apply(grads, variables)
    for v, x in zip(variables, expected, strict=True):
        np.testing.assert_allclose(array(v), x, atol=2e-4)


def test_warmup_decay_matches_adabelief_tf_formula():
    schedule = WarmupDecay(2e-3, total_steps=50, warmup_proportion=0.3, min_lr=1e-4)
    for t in range(1, 70):
        warmup = 50 * 0.3
        expected = 2e-3 * t / warmup if t <= warmup else 2e-3 - 1.9e-3 * min(t - warmup, 35) / 35
        assert number(schedule(t - 1)) == pytest.approx(expected, rel=1e-5)
    assert number(WarmupDecay(1e-3, 10, 0.0)(0)) == pytest.approx(9e-4)
    assert number(WarmupDecay(1e-3, 10, 1.0)(9)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (AdaBelief, {"learning_rate": -1.0}, r"learning_rate must be a finite number, at least 0, got -1\.0"),
        (AdaBelief, {"learning_rate": "fast"}, "learning_rate"),
        (AdaBelief, {"beta_1": 1.0}, r"beta_1 must be a number in \[0, 1\), got 1\.0"),
        (AdaBelief, {"beta_2": -0.1}, "beta_2"),
        (AdaBelief, {"epsilon": float("nan")}, "epsilon must be a finite number, at least 0, got nan"),
        (AdaBelief, {"max_update": 0}, "max_update must be a number above 0, or None for no bound, got 0"),
        (RangerAdaBelief, {"max_update": True}, "max_update must be .* got True"),
        (AdaBeliefW, {"weight_decay": "1e-2"}, "weight_decay must be a finite number, at least 0, got '1e-2'"),
        (RangerAdaBelief, {"k": 0}, "k must be a whole number, at least 1, got 0"),
        (RangerAdaBelief, {"alpha": 2}, "alpha"),
        (RangerAdaBelief, {"adaptive_from": 3}, "adaptive_from must be a number, at least 4, got 3"),
        (AdaBelief, {"beta1": 0.9}, "beta1"),
        (WarmupDecay, {"total_steps": 0}, "total_steps must be a finite number, at least 1, got 0"),
        (WarmupDecay, {"warmup_proportion": 2}, "warmup_proportion"),
        *(
            (cls, {name: "no"}, f"{name} must be True or False, got 'no'")
            for cls in (AdaBelief, AdaBeliefW, RangerAdaBelief)
            for name in sorted(FLAGS & inspect.signature(cls).parameters.keys())
        ),
    ],
)
def test_errors(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


FOREIGN = {
    "total_steps": "WarmupDecay",
    "warmup_proportion": "WarmupDecay",
    "min_lr": "WarmupDecay",
    "sma_threshold": "adaptive_from",
    "n_sma_threshold": "adaptive_from",
    "print_change_log": "leave it out",
    "decay": "InverseTimeDecay",
    "lr": "learning_rate",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_arguments_of_other_packages_say_the_new_form(cls, name):
    with pytest.raises(TypeError, match=f"{cls.__name__} has no argument {name}: .*{FOREIGN[name]}"):
        cls(**{name: 1})


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_warnings(cls):
    with pytest.warns(UserWarning, match=r"clipvalue=0\.1.*clipnorm") as clipped:
        optimizer = cls(clipvalue=0.1)
    with pytest.warns(UserWarning, match="never become adaptive") as never:
        cls(beta_2=0.5, **({} if cls is RangerAdaBelief else {"rectify": True}))
    assert [(len(caught), caught[0].filename) for caught in (clipped, never)] == [(1, __file__)] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(clipnorm=1.0)
        optimizer.apply([ops.ones(2)], [keras.Variable([1.0, 1.0])])


@pytest.mark.parametrize("module", ["optimizers", "schedule"])
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(f"adabelief.keras.{module}"))
    assert result.attempted > 1
    assert result.failed == 0
