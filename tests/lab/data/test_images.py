import io
import os
import pickle
import socket
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional

from adabelief.lab.data import parquet
from adabelief.lab.data.images import (
    CIFAR,
    IMAGENET_MEAN,
    IMAGENET_STD,
    augment,
    cifar,
    image_folder,
    normalize,
    stratified,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def encoded(pixels, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def some_pixels(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def write(file, pixels, labels, *, image="img", label="label", **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(x), "path": f"{i}.png"} for i, x in enumerate(pixels)]
    pq.write_table(pa.table({image: images, label: pa.array(labels), **more}), file)


def write_cifar(folder, train=200, test=50, classes=10, **columns):
    """A folder as the hub has it, and what is in it: the images as bytes, with their labels."""
    contents = []
    for seed, (part, n) in enumerate({"train": train, "test": test}.items()):
        pixels, labels = some_pixels(n, seed=seed), np.arange(n) % classes
        write(folder / f"{part}.parquet", pixels, labels, **columns)
        contents.append({x.transpose(2, 0, 1).tobytes(): y for x, y in zip(pixels, labels, strict=True)})
    return contents


def labelled(*parts):
    return {x.numpy().tobytes(): y.item() for part in parts for x, y in zip(*part, strict=True)}


@pytest.fixture
def folder(tmp_path):
    write_cifar(tmp_path / "data")
    return tmp_path / "data"


def test_cifar_holds_all_images_with_their_labels(tmp_path):
    train, test = write_cifar(tmp_path / "data")
    split = cifar("cifar10", tmp_path / "data", validation=20)
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
    split = cifar(name, tmp_path / "data", validation=classes)
    assert labelled(split.test) == test
    assert split.validation.labels.bincount().tolist() == [1] * classes


def test_coarse_labels_are_not_taken(tmp_path):
    pixels, fine = some_pixels(200), np.arange(200) % 100
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", pixels, fine, label="fine_label", coarse_label=pa.array(fine // 5))
    assert cifar("cifar100", tmp_path, validation=100).train.labels.max() == 99


def test_several_files_of_a_part_are_one(tmp_path):
    pixels, labels = some_pixels(60), np.arange(60) % 10
    for i in range(3):
        write(tmp_path / f"train-{i}.parquet", pixels[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20])
    write(tmp_path / "test.parquet", pixels[:10], labels[:10])
    split = cifar("cifar10", tmp_path, validation=10)
    assert len(labelled(split.train, split.validation)) == 60


def test_the_split_is_the_same_whatever_the_seed_of_the_run(folder):
    torch.manual_seed(1)
    one = cifar("cifar10", folder, validation=20)
    torch.manual_seed(2)
    for part, again in zip(one, cifar("cifar10", folder, validation=20), strict=True):
        assert torch.equal(part.inputs, again.inputs)
        assert torch.equal(part.labels, again.labels)
    other = cifar("cifar10", folder, validation=20, seed=1)
    assert labelled(other.validation).keys() != labelled(one.validation).keys()
    assert labelled(other.train, other.validation) == labelled(one.train, one.validation)


def test_limits(folder):
    full = cifar("cifar10", folder, validation=40)
    small, smaller = (cifar("cifar10", folder, validation=40, limit=n, test_limit=n // 2) for n in (80, 40))
    assert [len(part.labels) for part in full] == [160, 40, 50]
    assert [len(part.labels) for part in small] == [80, 20, 40]
    assert [len(part.labels) for part in smaller] == [40, 10, 20]
    for part in (*full, *small, *smaller):
        assert len(set(part.labels.bincount(minlength=10).tolist())) == 1, "every class as often as any other"
    for larger, part in (*zip(full, small, strict=True), *zip(small, smaller, strict=True)):
        assert labelled(part).items() <= labelled(larger).items()
    assert len(cifar("cifar10", folder, validation=1, limit=1).validation.labels) == 1


def test_images_are_decoded_once(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    one = cifar("cifar10", folder, validation=20)
    monkeypatch.setattr(parquet, "decoded", lambda *_: pytest.fail("decoded again"))
    again = cifar("cifar10", folder, validation=20)
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert sorted(folder.rglob("*")) == before, "the folder stays as it is"


def test_new_files_are_noticed(folder):
    cifar("cifar10", folder, validation=20)
    pixels, labels = some_pixels(30, seed=7), np.arange(30) % 10
    write(folder / "test.parquet", pixels, labels)
    os.utime(folder / "test.parquet", (1, 1))
    assert len(cifar("cifar10", folder, validation=20).test.labels) == 30


def test_nothing_is_downloaded_where_there_is_a_folder(folder, monkeypatch):
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("asked the network"))
    cifar("cifar10", folder, validation=20)


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
    split = cifar("cifar100", validation=100)
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
        (two_data_sets, ValueError, r"train\*.parquet in .*one, .*two; name one"),
    ],
)
def test_spoilt_folders(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        cifar("cifar10", folder, validation=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "cifar"}, ValueError, "name='cifar': there are cifar10 and cifar100"),
        ({"data": Path("/no/such")}, FileNotFoundError, "data='/no/such' is no folder"),
        ({"validation": 0}, ValueError, "validation=0"),
        ({"validation": 200}, ValueError, "validation=200.* all 200 training"),
        ({"limit": 0}, ValueError, "limit=0"),
        ({"limit": 181}, ValueError, "limit=181.* at most 180"),
        ({"test_limit": 51}, ValueError, "test_limit=51.* at most 50"),
    ],
)
def test_arguments(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        cifar(**{"name": "cifar10", "data": folder, "validation": 20, **arguments})


@pytest.mark.parametrize("counts", [(30, 30, 30), (70, 20, 10), (1, 50, 0, 9)])
def test_every_beginning_is_stratified(counts):
    labels = torch.repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    order = stratified(labels, seed=3)
    assert sorted(order.tolist()) == list(range(len(labels)))
    shares = torch.tensor(counts) / sum(counts)
    for k in range(1, len(labels) + 1):
        assert (labels[order[:k]].bincount(minlength=len(counts)) - k * shares).abs().max() <= 1
    assert torch.equal(order, stratified(labels, seed=3))
    assert not torch.equal(order, stratified(labels, seed=4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmented_images_are_crops_and_flips():
    """Every result is one of the 2 × 5² that there are for its image, and all of these come about equally often."""
    n, padding = 1000, 2
    images = torch.from_numpy(some_pixels(n, size=6)).movedim(3, 1).contiguous()
    before = images.clone()
    results = augment(images, seeded(), padding)
    assert torch.equal(images, before)
    assert (results.shape, results.dtype) == (images.shape, torch.uint8)
    found = np.zeros((5, 5, 2), int)
    for image, result in zip(images, results, strict=True):
        wide = np.zeros((3, 10, 10), np.uint8)
        wide[:, 2:8, 2:8] = image
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in range(2)
            if np.array_equal(wide[:, top : top + 6, left : left + 6][..., :: 1 - 2 * flip], result)
        ]
        assert len(matches) == 1
        found[matches[0]] += 1
    assert found.sum() == n
    assert found.min() >= 5
    assert found.max() <= 40
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        expected = n / found.shape[axis]
        assert np.abs(found.sum(others) - expected).max() < 5 * expected**0.5


def test_augmentation_depends_on_the_state_of_the_generator_alone():
    images = torch.from_numpy(some_pixels(16)).movedim(3, 1)
    generator = seeded()
    state = generator.get_state()
    torch.manual_seed(1)
    one, next_one = augment(images, generator), augment(images, generator)
    torch.manual_seed(2)
    generator.set_state(state)
    assert torch.equal(augment(images, generator), one)
    assert not torch.equal(next_one, one)
    assert not torch.equal(augment(images, seeded(1)), one)


def test_without_padding_images_are_flipped_at_most():
    images = torch.from_numpy(some_pixels(64)).movedim(3, 1)
    results = augment(images, seeded(), padding=0)
    flipped = [torch.equal(result, image.flip(-1)) for image, result in zip(images, results, strict=True)]
    same = [torch.equal(result, image) for image, result in zip(images, results, strict=True)]
    assert [a != b for a, b in zip(flipped, same, strict=True)] == [True] * 64
    assert 16 < sum(flipped) < 48


@pytest.mark.parametrize("name", CIFAR)
def test_normalization_is_torchvisions(name):
    images = torch.from_numpy(some_pixels(4)).movedim(3, 1)
    facts = CIFAR[name]
    expected = functional.normalize(functional.to_dtype(images, torch.float32, scale=True), facts.mean, facts.std)
    result = normalize(images, facts.mean, facts.std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_normalization_wants_uint8():
    with pytest.raises(ValueError, match=r"torch.float32: give pixels from 0 to 255 in torch.uint8"):
        normalize(torch.rand(1, 3, 32, 32), (0.5,) * 3, (0.5,) * 3)


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
    split = image_folder(tmp_path, size=16, validation=0.2)
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
    one, again = (image_folder(tmp_path, size=8, validation=0.2) for _ in range(2))
    assert colours(one.validation) == colours(again.validation)
    small = image_folder(tmp_path, size=8, validation=0.2, limit=8, test_limit=2)
    assert [len(part) for part in small[:3]] == [8, 2, 2]
    assert set(colours(small.train)) < set(colours(one.train))
    assert sorted(small.test.labels.tolist()) == [0, 1]
    other = image_folder(tmp_path, size=8, validation=0.2, seed=1)
    assert colours(other.validation) != colours(one.validation)


def test_transforms(tmp_path):
    """Training crops at random; the rest is resized by 256/224 and cropped in the centre."""
    for part in ("train", "val"):
        for i, pixels in enumerate(some_pixels(4, size=80)):
            (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / part / "a" / f"{i}.png").write_bytes(encoded(pixels))
    split = image_folder(tmp_path, size=56, validation=0.25)
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
    split = image_folder(tmp_path, size=8, validation=0.2)
    images, labels = next(iter(DataLoader(pickle.loads(pickle.dumps(split.test)), batch_size=6)))
    assert images.shape == (6, 3, 8, 8)
    assert labels.dtype == torch.int64


def test_grey_and_transparent_images_become_rgb(tmp_path):
    tree(tmp_path)
    for i, mode in enumerate(("L", "RGBA", "P", "CMYK", "1")):
        Image.new(mode, (50, 50)).save(tmp_path / "val" / "cat" / f"{mode}{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    assert {image.shape for image, _ in image_folder(tmp_path, size=8).test} == {(3, 8, 8)}


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


def test_rows_without_a_label(tmp_path):
    rows(tmp_path)
    (tmp_path / "data" / "validation-0.parquet").unlink()
    with pytest.raises(ValueError, match=r"data/test-0.parquet: there are images without a label"):
        image_folder(tmp_path, size=8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": Path("/no/such")}, FileNotFoundError, "data='/no/such' is no folder"),
        ({"validation": 0.0}, ValueError, "validation=0.0 is no fraction"),
        ({"validation": 1.0}, ValueError, "validation=1.0 is no fraction"),
        ({"size": 0}, ValueError, "size=0"),
        ({"limit": 20}, ValueError, "limit=20.* at most 16"),
        ({"test_limit": 7}, ValueError, "test_limit=7.* at most 6"),
    ],
)
def test_arguments_of_image_folders(tmp_path, arguments, error, message):
    tree(tmp_path)
    with pytest.raises(error, match=message):
        image_folder(**{"data": tmp_path, "size": 8, "validation": 0.2, **arguments})


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
