"""The Keras task: its network, its optimizers, its data, its runs."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.utils import set_seed
from PIL import Image

from adabelief.lab import optimizers, runs, session
from adabelief.lab.tasks import Request, divide_at, keras_cnn, task
from tests.lab.engine import go, goes_on, numbers, weights
from tests.lab.test_data import cache  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, on NumPy 2

TASK = task("keras-cnn")
PARAMETERS = (5 * 5 + 1) * 32 + (3 * 3 * 32 + 1) * 64 + (5 * 5 * 64 + 1) * 1024 + (1024 + 1) * 10


def plan(**choices):
    return runs.plan(TASK, **{"scale": "smoke", **choices})


def request(config, data=None) -> Request:
    return Request(config.model, config.seed, config.batch_size, config.options, data)


def test_smoke_learns(tmp_path):
    ((config, result),) = session.run(TASK, plan(names=["AdaBelief"]), tmp_path, cpu=True)
    assert result["test"] > 80
    assert result["parameters"] == PARAMETERS == 1_669_002
    assert 0 < result["optimizer_seconds"] < result["step_seconds"]
    last = numbers(runs.Folder(tmp_path / config.folder))[-1]
    assert (last["validation_examples"], last["test_examples"]) == (300, 300)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path, at):
    """Before the end of an epoch of three steps, at it, and in the next one."""
    (config,) = plan(changes={"steps": 3, "batch_size": 8})
    _, whole = go(tmp_path / "whole", config, TASK)
    goes_on(tmp_path / "parts", config, TASK, at, whole=whole)


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
    with pytest.raises(ValueError, match=r"Keras or its backend 'torch' is missing .*pip install 'adabelief\[keras\]'"):
        TASK.make(request(plan()[0]))


def write_mnist(folder: Path, size: int = 28, classes: int = 10, name: str = "image") -> dict[str, np.ndarray]:
    """Files as the hub has them: 100 and 20 images, in each a block of a brightness that is its label's."""
    pixels = {}
    for part, n in (("train", 100), ("test", 20)):
        labels = np.arange(n) % classes
        images = np.zeros((n, size, size), np.uint8)
        images[:, 5:20, 10:12] = (20 * (1 + labels))[:, None, None]
        rows = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, format="PNG")
            rows.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({name: rows, "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")
        pixels[part] = images
    return pixels


def test_mnist_from_a_folder(tmp_path, cache):  # noqa: F811
    pixels = write_mnist(tmp_path)
    split = keras_cnn.mnist(tmp_path, validation=20)
    assert [len(part.labels) for part in split] == [80, 20, 20]
    assert sorted(split.validation.labels.tolist()) == sorted([*range(10)] * 2)
    np.testing.assert_allclose(255 * split.test.inputs[:, 0], pixels["test"], atol=1e-4)
    assert torch.equal(split.test.labels, torch.arange(20) % 10)
    for images, labels in split:
        assert torch.equal((255 * images.amax((1, 2, 3))).round().long(), 20 * (1 + labels))
    (config,) = plan(scale="small", changes={"validation_examples": 20, "steps": 2, "batch_size": 8})
    experiment = TASK.make(request(config, tmp_path))
    assert [batch.inputs.shape for batch in experiment.batches(0)] == [(8, 1, 28, 28)] * 2


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"size": 32}, ValueError, r"train-00000.*row 0 has 32×32 pixels, not MNIST's 28×28"),
        ({"classes": 9}, ValueError, "the labels are not all of 0 to 9: is it MNIST"),
        ({"name": "picture"}, ValueError, "there is no column img or image"),
        (None, FileNotFoundError, r"has no train\*.parquet; name a folder that has, with --data FOLDER"),
    ],
)
def test_what_is_not_mnist_is_refused(tmp_path, cache, files, error, message):  # noqa: F811
    if files:
        write_mnist(tmp_path, **files)
    with pytest.raises(error, match=message):
        keras_cnn.mnist(tmp_path, validation=20)


def test_validation_cannot_take_all(tmp_path, cache):  # noqa: F811
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match="validation_examples=100: give at least 1 and less than 100"):
        keras_cnn.mnist(tmp_path, validation=100)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="images='cifar10': there are mnist, fashion-mnist and digits"):
        TASK.make(request(plan(scale="small", changes={"images": "cifar10"})[0]))


def write_idx(folder: Path, *, suffix: str = "", size: int = 28, classes: int = 10) -> None:
    """MNIST's own files: 40 and 20 images, each as bright as its number."""
    for part, n in (("train", 40), ("t10k", 20)):
        images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, size, size))
        labels = (np.arange(n) % classes).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            shape = b"".join(length.to_bytes(4, "big") for length in values.shape)
            content = b"\0\0\x08" + bytes([values.ndim]) + shape + values.tobytes()
            file = folder / f"{part}-{kind}-ubyte{suffix}"
            file.write_bytes(gzip.compress(content) if suffix else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_from_its_own_files(tmp_path, suffix):
    write_idx(tmp_path, suffix=suffix)
    split = keras_cnn.mnist(tmp_path, validation=10, name="fashion-mnist")
    assert [len(part.labels) for part in split] == [30, 10, 20]
    assert torch.equal(split.test.labels, torch.arange(20) % 10)
    for images, labels in split:
        bright = (255 * images).round().long().amax((1, 2, 3))
        assert images.shape[1:] == (1, 28, 28)
        assert torch.equal(bright % 10, labels)
    assert len({*(255 * split.train.inputs[:, 0, 0, 0]).round().tolist()}) == 30


def fewer_labels(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").replace(folder / "train-labels-idx1-ubyte")


def damage(file: str, change):
    def applied(folder: Path) -> None:
        path = folder / file
        path.write_bytes(change(path.read_bytes()))

    return applied


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda folder: write_idx(folder, size=32),
            ValueError,
            r"-images-idx3-ubyte has .*\(32, 32\), not .* 28×28",
        ),
        (lambda folder: write_idx(folder, classes=9), ValueError, "the labels are not all of 0 to 9"),
        (fewer_labels, ValueError, "there are 40 images and 20 labels; download both again"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(), FileNotFoundError, "t10k-labels-idx1-ubyte"),
        (
            damage("train-images-idx3-ubyte", lambda x: x[:-1]),
            ValueError,
            "ubyte is no readable IDX file .*download it",
        ),
        (damage("train-images-idx3-ubyte", lambda x: b""), ValueError, "ubyte is no readable IDX file .*download it"),
        (damage("train-labels-idx1-ubyte", lambda x: b"\0\0\x0d" + x[3:]), ValueError, "no IDX file of bytes"),
    ],
)
def test_damaged_files_of_mnist(tmp_path, spoil, error, message):
    write_idx(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        keras_cnn.mnist(tmp_path, validation=10)


ELSEWHERE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from adabelief.lab import session
from tests.lab.test_keras_cnn import TASK, plan
configs = plan(epochs=1, changes={{"steps": 2, "batch_size": 8}})
((config, result),) = session.run(TASK, configs, Path({out!r}), cpu=True)
import keras
print(keras.backend.backend(), result["epochs"], result["parameters"])
"""


def test_another_backend(tmp_path):
    script = ELSEWHERE.format(tests=str(Path(__file__).parents[2]), out=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"jax 1 {PARAMETERS}"
