"""ImageNet-like folders: images in files, and in the rows of parquet files."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional

from adabelief.lab.data import parquet
from adabelief.lab.data.images import IMAGENET_MEAN, IMAGENET_STD, image_folder
from tests.lab.data.pictures import encoded, leave_out, some_pixels, write


def shades(n):
    """Images of a single colour each, 40×60 pixels."""
    return [np.full((40, 60, 3), (i, 2 * i, 255 - i), np.uint8) for i in range(n)]


def tree(folder, train=20, test=6):
    for part, n in (("train", train), ("val", test)):
        for i, pixels in enumerate(shades(n)):
            file = folder / part / ("cat", "dog")[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(pixels))


def rows(folder, train=20, test=6):
    for part, n in (("data/train-0.parquet", train), ("data/validation-0.parquet", test)):
        write(folder / part, shades(n), np.arange(n) % 2, image="image")
    write(folder / "data/test-0.parquet", shades(4), [-1] * 4, image="image")


LAYOUTS = pytest.mark.parametrize("layout", [tree, rows])


def colours(part):
    """The first channel of each image of a single colour."""
    return [round(255 * (x[0].mean().item() * 0.229 + 0.485)) for x, _ in part]


@LAYOUTS
def test_image_folders(tmp_path, layout):
    layout(tmp_path)
    split = image_folder(tmp_path, size=16, validation_share=0.2)
    assert split.classes == 2
    assert [len(part) for part in split[:3]] == [16, 4, 6]
    assert sorted(colours(split.train) + colours(split.validation)) == list(range(20))
    assert sorted(colours(split.test)) == list(range(6))
    for part in split[:3]:
        assert part.labels.bincount().tolist() == [len(part) // 2] * 2
        for (image, label), colour, again in zip(part, colours(part), part.labels, strict=True):
            assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
            assert label == again == colour % 2
            expected = (
                torch.tensor([colour, 2 * colour, 255 - colour]) / 255 - torch.tensor([0.485, 0.456, 0.406])
            ) / (torch.tensor([0.229, 0.224, 0.225]))
            torch.testing.assert_close(image, expected[:, None, None].expand(3, 16, 16), atol=1e-5, rtol=1e-5)


@LAYOUTS
def test_image_folders_are_split_once_and_for_all(tmp_path, layout):
    layout(tmp_path)
    one, again = (image_folder(tmp_path, size=8, validation_share=0.2) for _ in range(2))
    assert colours(one.validation) == colours(again.validation)
    small = image_folder(tmp_path, size=8, validation_share=0.2, train_examples=8, test_examples=2)
    assert [len(part) for part in small[:3]] == [8, 4, 2]
    assert colours(small.validation) == colours(one.validation)
    assert set(colours(small.train)) < set(colours(one.train))
    assert sorted(small.test.labels.tolist()) == [0, 1]
    other = image_folder(tmp_path, size=8, validation_share=0.2, seed=1)
    assert colours(other.validation) != colours(one.validation)


def test_transforms(tmp_path):
    """Training crops at random; the rest is resized by 256/224 and cropped in the centre."""
    for part in ("train", "val"):
        for i, pixels in enumerate(some_pixels(4, size=80)):
            (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / part / "a" / f"{i}.png").write_bytes(encoded(pixels))
    split = image_folder(tmp_path, size=56, validation_share=0.25)
    for part in (split.validation, split.test):
        assert torch.equal(part[0][0], part[0][0])
    assert not torch.equal(split.train[0][0], split.train[0][0])
    torch.manual_seed(0)
    one = split.train[0][0]
    torch.manual_seed(0)
    assert torch.equal(split.train[0][0], one)
    file = sorted((tmp_path / "val" / "a").iterdir())[int(split.test._indices[0])]
    with Image.open(file) as image:
        inner = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR).crop((4, 4, 60, 60)))
    expected = functional.normalize(torch.tensor(inner).movedim(2, 0) / 255, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(split.test[0][0], expected, atol=1e-5, rtol=1e-5)


@LAYOUTS
def test_image_folders_go_to_workers(tmp_path, layout):
    layout(tmp_path)
    split = image_folder(tmp_path, size=8, validation_share=0.2)
    images, labels = next(iter(DataLoader(pickle.loads(pickle.dumps(split.test)), batch_size=6)))
    assert images.shape == (6, 3, 8, 8)
    assert labels.dtype == torch.int64


def test_grey_and_transparent_images_become_rgb(tmp_path):
    tree(tmp_path)
    for i, mode in enumerate(("L", "RGBA", "P", "CMYK", "1")):
        Image.new(mode, (50, 50)).save(tmp_path / "val" / "cat" / f"{mode}{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    assert {image.shape for image, _ in image_folder(tmp_path, size=8).test} == {(3, 8, 8)}


SHADES = np.array([[0, 128, 257, 32768, 65407, 65535]] * 6, np.uint16)


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        ("png", SHADES),
        ("tiff", SHADES),
        ("tiff", SHADES.astype(">u2")),
        ("ppm", SHADES),
    ],
)
def test_grey_of_16_bits_becomes_grey_of_8(kind, pixels):
    image = parquet.decoded(encoded(pixels, kind), "grey")
    assert image.mode == "RGB"
    for channel in image.split():
        assert np.asarray(channel)[0].tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6), "floating-point numbers, and nothing says which is"),
        (np.full((6, 6), 70_000, np.int32), "whole numbers of 32 bits, and nothing says which is white: convert it"),
    ],
)
def test_pixels_of_unknown_brightness_are_refused(tmp_path, pixels, message):
    tree(tmp_path)
    (tmp_path / "val" / "cat" / "0.tiff").write_bytes(encoded(pixels, "tiff"))
    with pytest.raises(ValueError, match=rf"cat/0.tiff is no readable image \(its pixels are {message}"):
        list(image_folder(tmp_path, size=8).test)


def test_images_that_are_too_large_for_pillow_are_named(monkeypatch):
    content = encoded(some_pixels(1, size=60)[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large.png is no readable image \(Image size .* exceeds limit"):
        parquet.decoded(content, "large.png")


@pytest.mark.parametrize("spoil", [lambda content: content[:100], lambda content: b"no image", lambda content: b""])
def test_unreadable_images_are_named(tmp_path, spoil):
    tree(tmp_path)
    file = tmp_path / "val" / "cat" / "0.png"
    file.write_bytes(spoil(encoded(some_pixels(1, size=60)[0])))
    with pytest.raises(ValueError, match=rf"{file} is no readable image .*; remove or replace it"):
        list(image_folder(tmp_path, size=8).test)


def test_unreadable_rows_are_named(tmp_path):
    rows(tmp_path)
    images = [{"bytes": b"no image", "path": "n01.JPEG"}] * 2
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "data" / "validation-0.parquet")
    with pytest.raises(
        ValueError, match=r"data/validation-0.parquet, row \d, n01.JPEG is no readable image \(no image format"
    ):
        list(image_folder(tmp_path, size=8).test)


def without_val(folder):
    for file in (folder / "val").rglob("*.png"):
        file.unlink()
    for below in ("cat", "dog", ""):
        (folder / "val" / below).rmdir()


def empty_class(folder):
    (folder / "train" / "emu").mkdir()


def another_class(folder):
    (folder / "val" / "cat").rename(folder / "val" / "cow")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_val, FileNotFoundError, r"has no val/ and no val\*.parquet; .* --data FOLDER"),
        (empty_class, FileNotFoundError, r"train: .* emu"),
        (another_class, ValueError, r"to train on, cat, dog, and to test on, cow, dog, differ"),
    ],
)
def test_spoilt_image_folders(tmp_path, spoil, error, message):
    tree(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        image_folder(tmp_path, size=8)


@pytest.mark.parametrize("column", ["image", "label"])
def test_what_is_null_is_named(tmp_path, column):
    rows(tmp_path)
    write(tmp_path / "data" / "train-1.parquet", shades(6), np.arange(6) % 2, image="image")
    leave_out(tmp_path / "data" / "train-1.parquet", column, 4)
    with pytest.raises(ValueError, match=rf"train-1.parquet, row 4 has no {column}: it is null .* 1 of 26 rows"):
        image_folder(tmp_path, size=8)


def test_rows_without_a_label(tmp_path):
    rows(tmp_path)
    (tmp_path / "data" / "validation-0.parquet").unlink()
    with pytest.raises(ValueError, match=r"data/test-0.parquet: there are images without a label"):
        image_folder(tmp_path, size=8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": Path("/no/such")}, FileNotFoundError, "data='/no/such' is no folder"),
        ({"validation_share": 0.0}, ValueError, "validation_share=0.0 is no fraction"),
        ({"validation_share": 1.0}, ValueError, "validation_share=1.0 is no fraction"),
        ({"size": 0}, ValueError, "size=0"),
        ({"train_examples": 20}, ValueError, "train_examples=20.* at most 16"),
        ({"test_examples": 7}, ValueError, "test_examples=7.* at most 6"),
    ],
)
def test_arguments_of_image_folders(tmp_path, arguments, error, message):
    tree(tmp_path)
    with pytest.raises(error, match=message):
        image_folder(**{"data": tmp_path, "size": 8, "validation_share": 0.2, **arguments})
