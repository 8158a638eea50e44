"""MNIST from parquet files and from its own."""

import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from adabelief.lab.data.mnist import mnist
from tests.lab.data.pictures import leave_out


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


def test_mnist_from_a_folder(tmp_path):
    pixels = write_mnist(tmp_path)
    split = mnist(tmp_path, validation=20)
    assert [len(part.labels) for part in split] == [80, 20, 20]
    assert sorted(split.validation.labels.tolist()) == sorted([*range(10)] * 2)
    np.testing.assert_allclose(255 * split.test.inputs[:, 0], pixels["test"], atol=1e-4)
    assert torch.equal(split.test.labels, torch.arange(20) % 10)
    for images, labels in split:
        assert torch.equal((255 * images.amax((1, 2, 3))).round().long(), 20 * (1 + labels))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"size": 32}, ValueError, r"train-00000.*row 0 has 32×32 pixels, not MNIST's 28×28"),
        ({"classes": 9}, ValueError, "the labels are not all of 0 to 9: is it MNIST"),
        ({"name": "picture"}, ValueError, "there is no column img or image"),
        (None, FileNotFoundError, r"has no train\*.parquet; name a folder that has, with --data FOLDER"),
    ],
)
def test_what_is_not_mnist_is_refused(tmp_path, files, error, message):
    if files:
        write_mnist(tmp_path, **files)
    with pytest.raises(error, match=message):
        mnist(tmp_path, validation=20)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("label", r"test-00000-of-00001.parquet, row 3 has no label: it is null in the column label, .* 1 of 20 rows"),
        ("image", r"test-00000-of-00001.parquet, row 3 has no image: it is null in the column image, .* 1 of 20 rows"),
    ],
)
def test_what_is_null_is_named(tmp_path, column, message):
    write_mnist(tmp_path)
    leave_out(tmp_path / "test-00000-of-00001.parquet", column, 3)
    with pytest.raises(ValueError, match=message):
        mnist(tmp_path, validation=20)


def test_validation_cannot_take_all(tmp_path):
    write_mnist(tmp_path)
    with pytest.raises(
        ValueError, match="validation_examples=100: give at least 1 and less than all 100 training images"
    ):
        mnist(tmp_path, validation=100)


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
    split = mnist(tmp_path, validation=10, name="fashion-mnist")
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
        mnist(tmp_path, validation=10)
