"""Numbers that no machine comes to an end with are refused by name before anything is built."""

from __future__ import annotations

import pytest

from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.engine.config import plan
from adabelief.lab.task import BOUNDS
from adabelief.lab.tasks import task

SCALES = [
    scale for name in CATALOGUE for model in task(name).models or ("",) for scale in task(name).scales(model).values()
]
NUMBERS = {(name, type(x), x) for scale in SCALES for name, x in scale.options.items() if type(x) in BOUNDS}
NUMBERS |= {("batch_size", int, scale.batch_size) for scale in SCALES}


def test_every_number_of_a_scale_has_bounds_and_is_within_them():
    assert {(name, kind) for name, kind, _ in NUMBERS} == {(name, kind) for kind in BOUNDS for name in BOUNDS[kind]}
    for name, kind, usual in NUMBERS:
        least, most = BOUNDS[kind][name]
        assert least <= usual <= most, name


@pytest.mark.parametrize(
    ("name", "option", "value", "bounds"),
    [
        ("charlm", "layers", 1e12, "a whole number, at least 1 and at most 1000"),
        ("charlm", "layers", 0, "a whole number, at least 1 and at most 1000"),
        ("translation", "beam", 0, "a whole number, at least 1 and at most 1000"),
        ("rl-sac", "episodes", 0, "a whole number, at least 1 and at most 1000000"),
        ("rl-sac", "memory", "1e15", "a whole number, at least 1 and at most 1000000000"),
        ("wgan", "samples", 7, "a whole number, at least 8 and at most 1000000"),
        ("wgan", "critic_steps", 2.5, "a whole number, at least 1 and at most 1000"),
        ("wgan", "train_examples", 0, "a whole number, at least 1 and at most 1000000000 or none"),
        ("imagenet", "workers", 10**6, "a whole number, at least 0 and at most 1000"),
        ("cifar10", "width", 1e12, "a finite number, at least 0.001 and at most 100"),
        ("keras-cnn", "steps", 0, "a whole number, at least 1 and at most 1000000000 or none"),
        ("digits", "batch_size", 10**7, "a whole number, at least 1 and at most 1000000"),
    ],
)
def test_a_number_out_of_bounds(name, option, value, bounds):
    with pytest.raises(ValueError, match=r"`adabelief tasks .*` tells the usual ones") as error:
        plan(task(name), changes={option: value})
    assert str(error.value).startswith(f"{option} must be {bounds}, got {value!r}; `adabelief tasks {name}`")
