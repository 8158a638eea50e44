"""CIFAR from the files that its authors offer: pickles, which must not be trusted."""

import io
import os
import pickle
import shutil
import struct
from typing import ClassVar

import numpy as np
import pytest

from adabelief.lab.data.cifar import CIFAR, cifar
from tests.lab.data.pictures import some_pixels, write


class Python2(pickle._Pickler):
    """Writes texts and bytes alike as Python 2 did, whose pickles the real files are."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def string(self, value):
        content = value if isinstance(value, bytes) else value.encode()
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = string


def as_python_2(batch):
    file = io.BytesIO()
    Python2(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


WRITERS = pytest.mark.parametrize("written", [as_python_2, *(lambda x, p=p: pickle.dumps(x, p) for p in (0, 2, 4, 5))])


def write_batches(folder, name="cifar10", written=as_python_2):
    """The files of a data set, 4 images of each class for training and 2 for the test, and what is in them."""
    facts, contents = CIFAR[name], {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, files in facts.batches.items():
        count = (4 if part == "train" else 2) * facts.classes
        pixels = some_pixels(count, seed=len(files)).transpose(0, 3, 1, 2)
        labels = np.arange(count) % facts.classes
        for rows, file in zip(np.array_split(np.arange(count), len(files)), files, strict=True):
            named = {"labels" if name == "cifar10" else "fine_labels": labels[rows].tolist()}
            batch = {"data": pixels[rows].reshape(len(rows), -1), "batch_label": "a batch", **named}
            (folder / file).write_bytes(written(batch))
        contents[part] = {x.tobytes(): y for x, y in zip(pixels, labels, strict=True)}
    return contents


def labelled(*parts):
    return {x.numpy().tobytes(): y.item() for part in parts for x, y in zip(*part, strict=True)}


@WRITERS
@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("name", CIFAR)
def test_all_images_with_their_labels(tmp_path, name, below, written):
    contents = write_batches(tmp_path / CIFAR[name].folder, name, written)
    data = tmp_path if below else tmp_path / CIFAR[name].folder
    split = cifar(name, data, validation_examples=CIFAR[name].classes)
    assert labelled(split.train, split.validation) == contents["train"]
    assert labelled(split.test) == contents["test"]


def test_parquet_files_come_first(tmp_path):
    write_batches(tmp_path)
    pixels = some_pixels(20, seed=9)
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", pixels, np.arange(20) % 10)
    assert labelled(cifar("cifar10", tmp_path, validation_examples=10).test).keys() == {
        x.transpose(2, 0, 1).tobytes() for x in pixels
    }


class Command:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_nothing_in_a_batch_is_executed(tmp_path):
    write_batches(tmp_path / "data")
    (tmp_path / "data" / "data_batch_3").write_bytes(pickle.dumps({"data": Command(tmp_path / "executed")}))
    with pytest.raises(ValueError, match=r"data_batch_3 is no readable batch of CIFAR \(it asks for \w+.mkdir, which"):
        cifar("cifar10", tmp_path / "data", validation_examples=10)
    assert not (tmp_path / "executed").exists()


PIXELS = np.zeros((3, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no readable batch of CIFAR \(.*\); download it again"),
        (b"no pickle", r"is no readable batch of CIFAR \(.*\); download it again"),
        (as_python_2({"data": PIXELS, "labels": [0, 1, 2]})[:1000], r"is no readable batch of CIFAR .*download"),
        (pickle.dumps([1, 2]), "is no batch of CIFAR: it holds a list; download it again"),
        (pickle.dumps({"pixels": 1}), "is no batch of CIFAR: it has pixels, not data and labels"),
        (pickle.dumps({"data": PIXELS}), "is no batch of CIFAR: it has data, not data and labels"),
        (pickle.dumps({"data": PIXELS[:, 1:], "labels": [0, 1, 2]}), r"data is uint8 of shape \(3, 3071\), not uint8"),
        (pickle.dumps({"data": PIXELS / 2, "labels": [0, 1, 2]}), r"data is float64 of shape \(3, 3072\), not uint8"),
        (pickle.dumps({"data": PIXELS, "labels": [0, 1]}), "has 3 images and 2 labels; download it again"),
        (pickle.dumps({"data": PIXELS, "labels": [0, None, 2]}), "row 1 has no label, but None; download it again"),
        (pickle.dumps({"data": PIXELS, "labels": 3}), "labels is a int, not a list of 3 numbers"),
    ],
)
def test_damaged_batches_are_named(tmp_path, content, message):
    write_batches(tmp_path)
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_2.*{message}") as caught:
        cifar("cifar10", tmp_path, validation_examples=10)
    assert "\n" not in str(caught.value)


def test_labels_of_another_data_set(tmp_path):
    write_batches(tmp_path)
    shutil.copy(tmp_path / "data_batch_1", tmp_path / "test_batch")
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": PIXELS, "labels": [0, 1, 57]}))
    with pytest.raises(ValueError, match=r"not all of 0 to 9: is it cifar10\?"):
        cifar("cifar10", tmp_path, validation_examples=10)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["data_batch_4"], "has no data_batch_4; unpack the archive again"),
        (["test_batch"], r"has no test\*.parquet and no cifar-10-batches-py with test_batch; .* --data FOLDER"),
    ],
)
def test_missing_batches_are_named(tmp_path, missing, message):
    write_batches(tmp_path)
    for file in missing:
        (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        cifar("cifar10", tmp_path, validation_examples=10)


def test_one_data_set_is_not_the_other(tmp_path):
    write_batches(tmp_path / "cifar-10-batches-py")
    with pytest.raises(FileNotFoundError, match=r"no train\*.parquet and no cifar-100-python with train; name a"):
        cifar("cifar100", tmp_path, validation_examples=10)
