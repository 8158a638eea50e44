"""CIFAR from parquet files, from its authors' own, and from the hub."""

import os
import socket
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from adabelief.lab.data import parquet
from adabelief.lab.data.cifar import CIFAR, cifar
from tests.lab.data.pictures import leave_out, some_pixels, write, write_cifar


def labelled(*parts):
    return {x.numpy().tobytes(): y.item() for part in parts for x, y in zip(*part, strict=True)}


@pytest.fixture
def folder(tmp_path):
    write_cifar(tmp_path / "data")
    return tmp_path / "data"


def test_cifar_holds_all_images_with_their_labels(tmp_path):
    train, test = write_cifar(tmp_path / "data")
    split = cifar("cifar10", tmp_path / "data", validation_examples=20)
    assert labelled(split.train, split.validation) == train
    assert labelled(split.test) == test
    assert [len(part.labels) for part in split] == [180, 20, 50]
    for images, labels in split:
        assert images.shape == (len(labels), 3, 32, 32)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("place", ["{}.parquet", "{}-00000-of-00001.parquet", "plain_text/{}-00000-of-00001.parquet"])
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("cifar10", {"image": "image"}),
        ("cifar100", {"label": "fine_label"}),
        ("cifar100", {"label": "label"}),
    ],
)
def test_layouts_of_the_hub(tmp_path, name, columns, place):
    classes = CIFAR[name].classes
    _, test = write_cifar(tmp_path / "flat", 2 * classes, classes, classes, **columns)
    for part in ("train", "test"):
        file = tmp_path / "data" / place.format(part)
        file.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / f"{part}.parquet").rename(file)
    split = cifar(name, tmp_path / "data", validation_examples=classes)
    assert labelled(split.test) == test
    assert split.validation.labels.bincount().tolist() == [1] * classes


def test_coarse_labels_are_not_taken(tmp_path):
    pixels, fine = some_pixels(200), np.arange(200) % 100
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", pixels, fine, label="fine_label", coarse_label=pa.array(fine // 5))
    assert cifar("cifar100", tmp_path, validation_examples=100).train.labels.max() == 99


def test_several_files_of_a_part_are_one(tmp_path):
    pixels, labels = some_pixels(60), np.arange(60) % 10
    for i in range(3):
        write(tmp_path / f"train-{i}.parquet", pixels[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20])
    write(tmp_path / "test.parquet", pixels[:10], labels[:10])
    split = cifar("cifar10", tmp_path, validation_examples=10)
    assert len(labelled(split.train, split.validation)) == 60


def test_the_split_is_the_same_whatever_the_seed_of_the_run(folder):
    torch.manual_seed(1)
    one = cifar("cifar10", folder, validation_examples=20)
    torch.manual_seed(2)
    for part, again in zip(one, cifar("cifar10", folder, validation_examples=20), strict=True):
        assert torch.equal(part.inputs, again.inputs)
        assert torch.equal(part.labels, again.labels)
    other = cifar("cifar10", folder, validation_examples=20, seed=1)
    assert labelled(other.validation).keys() != labelled(one.validation).keys()
    assert labelled(other.train, other.validation) == labelled(one.train, one.validation)


def test_limits(folder):
    full = cifar("cifar10", folder, validation_examples=40)
    small, smaller = (
        cifar("cifar10", folder, validation_examples=40, train_examples=n, test_examples=n // 2) for n in (80, 40)
    )
    assert [len(part.labels) for part in full] == [160, 40, 50]
    assert [len(part.labels) for part in small] == [80, 40, 40]
    assert [len(part.labels) for part in smaller] == [40, 40, 20]
    for part in (*full, *small, *smaller):
        assert len(set(part.labels.bincount(minlength=10).tolist())) == 1, "every class as often as any other"
    for larger, part in (*zip(full, small, strict=True), *zip(small, smaller, strict=True)):
        assert labelled(part).items() <= labelled(larger).items()
    assert len(cifar("cifar10", folder, validation_examples=1, train_examples=1).train.labels) == 1


def test_images_are_decoded_once(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    one = cifar("cifar10", folder, validation_examples=20)
    monkeypatch.setattr(parquet, "decoded", lambda *_: pytest.fail("decoded again"))
    again = cifar("cifar10", folder, validation_examples=20)
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert sorted(folder.rglob("*")) == before, "the folder stays as it is"


def test_new_files_are_noticed(folder):
    cifar("cifar10", folder, validation_examples=20)
    pixels, labels = some_pixels(30, seed=7), np.arange(30) % 10
    write(folder / "test.parquet", pixels, labels)
    os.utime(folder / "test.parquet", (1, 1))
    assert len(cifar("cifar10", folder, validation_examples=20).test.labels) == 30


def test_a_folder_s_name_is_no_pattern(tmp_path):
    _, test = write_cifar(tmp_path / "a[1] b*")
    assert labelled(cifar("cifar10", tmp_path / "a[1] b*", validation_examples=20).test) == test


def test_nothing_is_downloaded_where_there_is_a_folder(folder, monkeypatch):
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("asked the network"))
    cifar("cifar10", folder, validation_examples=20)


def test_hub(monkeypatch):
    """As `load_dataset` returns it: images as such, labels with names."""
    pixels, labels = some_pixels(200), np.arange(200) % 100
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        features = datasets.Features(
            img=datasets.Image(),
            fine_label=datasets.ClassLabel(names=[f"class {i}" for i in range(100)]),
            coarse_label=datasets.ClassLabel(names=[f"coarse {i}" for i in range(20)]),
        )
        rows = {"img": [Image.fromarray(x) for x in pixels], "fine_label": labels, "coarse_label": labels // 5}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    split = cifar("cifar100", validation_examples=100)
    assert asked == [("uoft-cs/cifar100", "train"), ("uoft-cs/cifar100", "test")]
    expected = {x.transpose(2, 0, 1).tobytes(): y for x, y in zip(pixels, labels, strict=True)}
    assert labelled(split.test) == labelled(split.train, split.validation) == expected


def test_no_network(monkeypatch):
    def load_dataset(name, split):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"cifar10 .* could not be downloaded .*reach the hub.* --data FOLDER"):
        cifar("cifar10")


def without_test(folder):
    (folder / "test.parquet").unlink()


def half_a_file(folder):
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[: len(content) // 2])


def damaged_pages(folder):
    content = bytearray((folder / "train.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (folder / "train.parquet").write_bytes(content)


def no_labels(folder):
    write(folder / "train.parquet", some_pixels(10), range(10), label="kind")


def no_images(folder):
    pq.write_table(pa.table({"img": range(10), "label": range(10)}), folder / "train.parquet")


def labels_in_words(folder):
    write(folder / "train.parquet", some_pixels(10), [str(i) for i in range(10)])


def too_few_classes(folder):
    write(folder / "train.parquet", some_pixels(9), range(9))


def larger_images(folder):
    write(folder / "train.parquet", some_pixels(20, size=33), np.arange(20) % 10)


def no_image_files(folder):
    table = pa.table({"img": [{"bytes": b"no image", "path": f"{i}.png"} for i in range(10)], "label": range(10)})
    pq.write_table(table, folder / "train.parquet")


def no_rows(folder):
    pq.write_table(pq.read_table(folder / "train.parquet")[:0], folder / "train.parquet")


def a_label_missing(folder):
    leave_out(folder / "train.parquet", "label", 7, 9)


def an_image_missing(folder):
    leave_out(folder / "train.parquet", "img", 7)


def an_image_without_content(folder):
    leave_out(folder / "train.parquet", "img", 7, inner="bytes")


def all_labels_missing(folder):
    leave_out(folder / "train.parquet", "label", *range(200))


def a_label_missing_in_the_second_file(folder):
    (folder / "train.parquet").rename(folder / "train-0.parquet")
    write(folder / "train-1.parquet", some_pixels(20), np.arange(20) % 10)
    leave_out(folder / "train-1.parquet", "label", 3)


def lists_of_labels(folder):
    write(folder / "train.parquet", some_pixels(10), [[i] for i in range(10)])


def two_data_sets(folder):
    for name in ("one", "two"):
        write(folder / name / "train.parquet", some_pixels(20), np.arange(20) % 10)
    (folder / "train.parquet").unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_test, FileNotFoundError, r"data has no test\*.parquet; .* --data FOLDER"),
        (half_a_file, ValueError, r"train.parquet is no readable parquet file .* download it again"),
        (damaged_pages, ValueError, r"train.parquet: damaged.* download again"),
        (no_labels, ValueError, r"data/train.parquet: there is no column .*label.*img, kind"),
        (no_images, ValueError, r"data/train.parquet: the column img holds .*int64.* image files"),
        (labels_in_words, ValueError, r"data/train.parquet: the column label holds string"),
        (
            too_few_classes,
            ValueError,
            r"data/train.parquet: the labels are 0, 1, 2, 3, 4 … \(9 in all\), not all of 0 to 9",
        ),
        (larger_images, ValueError, r"data/train.parquet, row 0 has 33×33 pixels"),
        (no_image_files, ValueError, r"data/train.parquet, row 0, 0.png is no readable image .*Pillow"),
        (no_rows, ValueError, r"data/train.parquet: there are no rows; download"),
        (a_label_missing, ValueError, r"data/train.parquet, row 7 has no label: .*null .* label, .* 2 of 200 .*remove"),
        (an_image_missing, ValueError, r"data/train.parquet, row 7 has no image: .*null .* img, .* 1 of 200 .*remove"),
        (an_image_without_content, ValueError, r"data/train.parquet, row 7 has no image: .* 1 of 200 .*remove"),
        (all_labels_missing, ValueError, r"data/train.parquet: the column label holds null; it should hold int64"),
        (a_label_missing_in_the_second_file, ValueError, r"data/train-1.parquet, row 3 has no label: .* 1 of 220 rows"),
        (lists_of_labels, ValueError, r"data/train.parquet: the column label holds List.*; it should hold int64"),
        (two_data_sets, ValueError, r"train\*.parquet in .*one, .*two; name one"),
    ],
)
def test_spoilt_folders(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        cifar("cifar10", folder, validation_examples=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "cifar"}, ValueError, "name='cifar': there are cifar10 and cifar100"),
        ({"data": Path("/no/such")}, FileNotFoundError, "data='/no/such' is no folder"),
        ({"validation_examples": 0}, ValueError, "validation_examples=0"),
        (
            {"validation_examples": 200},
            ValueError,
            "validation_examples=200.* all 200 training images, with --set validation_examples=N",
        ),
        ({"train_examples": 0}, ValueError, "train_examples=0"),
        ({"train_examples": 181}, ValueError, "train_examples=181.* at most 180, with --set train_examples=N"),
        ({"test_examples": 51}, ValueError, "test_examples=51.* at most 50, with --set test_examples=N"),
    ],
)
def test_arguments(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        cifar(**{"name": "cifar10", "data": folder, "validation_examples": 20, **arguments})


def test_real_cifar10():
    folder = Path(os.environ.get("ADABELIEF_DATA", "")) / "cifar10"
    if not (folder / "train.parquet").exists():
        pytest.skip("ADABELIEF_DATA names no folder with cifar10/train.parquet")
    split = cifar("cifar10", folder)
    assert [len(part.labels) for part in split] == [45_000, 5_000, 10_000]
    for part in split:
        assert part.labels.bincount().tolist() == [len(part.labels) // 10] * 10
    pixels = split.train.inputs.double() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(CIFAR["cifar10"].mean, abs=2e-3)
