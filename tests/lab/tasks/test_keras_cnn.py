"""The Keras task: its network, its optimizers, its data, its runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed

from adabelief.lab import optimizers
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan as plan_runs
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.schedules import divide_at
from adabelief.lab.task import Request
from adabelief.lab.tasks import keras_cnn, task
from tests.lab.data.pictures import cache  # noqa: F401 - a fixture
from tests.lab.data.test_mnist import write_mnist
from tests.lab.running import go, goes_on, numbers, weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, on NumPy 2

TASK = task("keras-cnn")
PARAMETERS = (5 * 5 + 1) * 32 + (3 * 3 * 32 + 1) * 64 + (5 * 5 * 64 + 1) * 1024 + (1024 + 1) * 10


def plan(**choices):
    return plan_runs(TASK, **{"scale": "smoke", **choices})


def request(config, data=None) -> Request:
    return Request(config.model, config.seed, config.batch_size, config.options, data)


def test_smoke_learns(tmp_path):
    ((config, result),) = session.run(TASK, plan(names=["AdaBelief"]), tmp_path, cpu=True)
    assert result["test"] > 80
    assert result["parameters"] == PARAMETERS == 1_669_002
    assert 0 < result["optimizer_seconds"] < result["step_seconds"]
    last = numbers(RunFolder(tmp_path / config.folder))[-1]
    assert (last["validation_examples"], last["test_examples"]) == (300, 300)


def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path):
    """Before the end of an epoch of three steps, at it, and in the next one."""
    (config,) = plan(changes={"steps": 3, "batch_size": 8})
    _, whole = go(tmp_path / "whole", config, TASK)
    for at in (1, 3, 4):
        goes_on(tmp_path / str(at), config, TASK, at, whole=whole)


def keras_optimizer(name):
    import keras

    import adabelief.keras

    return {
        "AdaBelief": lambda: adabelief.keras.AdaBelief(1e-3, epsilon=1e-14),
        "AdamW": lambda: keras.optimizers.AdamW(1e-3, weight_decay=1e-2),
        "RMSprop": lambda: keras.optimizers.RMSprop(1e-3, rho=0.9),
    }[name]()


@pytest.mark.parametrize("name", ["AdaBelief", "AdamW", "RMSprop"])
def test_steps_are_those_of_keras_with_this_optimizer(tmp_path, name):
    """Under a schedule, too: the learning rate is divided by 10 after the first of two epochs."""
    scheduled = replace(TASK, schedule=divide_at(0.5))
    (config,) = plan(names=[name], changes={"steps": 3, "batch_size": 8})
    _, folder = go(tmp_path, config, scheduled)

    set_seed(config.seed)
    experiment, optimizer = TASK.make(request(config)), keras_optimizer(name)
    from keras import losses

    model = experiment._model
    model.compile(optimizer, losses.SparseCategoricalCrossentropy(from_logits=True))
    for epoch, lr in enumerate((1e-3, 1e-4)):
        optimizer.learning_rate = lr
        for images, labels in experiment.batches(epoch):
            model.train_on_batch(images.permute(0, 2, 3, 1).numpy(), labels.numpy())
        model.predict_on_batch(np.zeros((1, 28, 28, 1), np.float32))
    for x, y in zip(weights(folder).values(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(x.numpy(), y)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "AdaBelief",
            {"lr": 0.5, "betas": (0.1, 0.2), "eps": 0.3, "weight_decay": 0.4, "weight_decouple": True},
            {"beta_1": 0.1, "beta_2": 0.2, "epsilon": 0.3, "weight_decay": 0.4, "weight_decouple": True},
        ),
        ("AdaBelief", {"lr": 0.5, "rectify": True}, {"rectify": True, "weight_decouple": False, "epsilon": 1e-16}),
        ("SGD", {"lr": 0.5, "momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"lr": 0.5, "amsgrad": True}, {"amsgrad": True, "beta_2": 0.999, "epsilon": 1e-8}),
        ("AdamW", {"lr": 0.5, "weight_decay": 0.25}, {"weight_decay": 0.25}),
        ("RMSprop", {"lr": 0.5, "alpha": 0.75, "centered": True}, {"rho": 0.75, "centered": True, "epsilon": 1e-8}),
    ],
)
def test_settings_keep_their_meaning(name, arguments, expected):
    made = keras_cnn.optimizer_of(optimizers.build(name, [torch.nn.Parameter(torch.ones(1))], arguments))
    assert type(made).__name__ == name
    config = made.get_config()
    assert config["learning_rate"] == 0.5
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("Adam", "weight_decay", 0.1), ("SGD", "dampening", 0.5), ("AdaBelief", "maximize", True)],
)
def test_what_keras_means_otherwise_is_refused(tmp_path, name, option, value):
    with pytest.raises(ValueError, match=rf"{option}={value}: Keras's {name} has no such option, .* it takes lr"):
        session.run(TASK, plan(names=[name], changes={option: value}), tmp_path, cpu=True)


@pytest.mark.parametrize(
    ("choice", "message"), [({"accumulate": 2}, "--accumulate 2"), ({"precision": "bf16"}, "bf16")]
)
def test_batches_are_not_split_and_numbers_not_shortened(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        session.run(TASK, plan(**choice), tmp_path, cpu=True)


def test_missing_keras_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(
        ValueError, match=r"Keras or its backend 'torch' is missing .*pip install 'adabelief\[lab,keras\]'"
    ):
        TASK.make(request(plan()[0]))


def test_epochs_of_mnist_have_the_steps_asked_for(tmp_path, cache):  # noqa: F811
    write_mnist(tmp_path)
    (config,) = plan(scale="small", changes={"validation_examples": 20, "steps": 2, "batch_size": 8})
    experiment = TASK.make(request(config, tmp_path))
    assert [batch.inputs.shape for batch in experiment.batches(0)] == [(8, 1, 28, 28)] * 2


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="images='cifar10': there are mnist, fashion-mnist and digits"):
        TASK.make(request(plan(scale="small", changes={"images": "cifar10"})[0]))


ELSEWHERE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from adabelief.lab.engine import session
from tests.lab.tasks.test_keras_cnn import TASK, plan
configs = plan(epochs=1, changes={{"steps": 2, "batch_size": 8}})
((config, result),) = session.run(TASK, configs, Path({out!r}), cpu=True)
import keras
print(keras.backend.backend(), result["epochs"], result["parameters"])
"""


def test_another_backend(tmp_path):
    script = ELSEWHERE.format(tests=str(Path(__file__).parents[3]), out=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"jax 1 {PARAMETERS}"
