"""Images for the lab: CIFAR as tensors in memory, ImageNet-like folders as datasets, and their augmentation.

The validation part is split off the training set, always the same one; the test set is for the report only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from adabelief.lab.data import parquet
from adabelief.lab.data.examples import Examples, Split

if TYPE_CHECKING:
    import datasets

SIZE = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Cifar:
    """What sets CIFAR-10 and CIFAR-100 apart.

    Attributes:
        hub: The repository on the Hugging Face hub.
        classes: How many there are.
        labels: Names that the column of labels may have.
        mean: Mean of each channel, for pixels between 0 and 1.
        std: Likewise.
    """

    hub: str
    classes: int
    labels: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR: Mapping[str, Cifar] = {
    # The std of the authors' experiments: smaller than that of all pixels, which is (0.2470, 0.2435, 0.2616).
    "cifar10": Cifar("uoft-cs/cifar10", 10, ("label",), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Cifar(
        *("uoft-cs/cifar100", 100, ("fine_label", "label")), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    ),
}


def cifar(
    name: str,
    data: Path | None = None,
    *,
    validation: int = 5000,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
) -> Split:
    """CIFAR-10 or CIFAR-100, decoded.

    The decoded images are kept in the cache of the `datasets` library (`HF_DATASETS_CACHE`), so only the first call
    takes long. All parts are stratified, and a smaller `limit` gives a part of what a larger one gives.

    Args:
        name: "cifar10" or "cifar100".
        data: A folder with train*.parquet and test*.parquet, as the hub has them (columns img or image, and label or
            fine_label); nothing is downloaded then. Without it they come from the hub.
        validation: How many of the 50,000 training images are for validation.
        limit: Keep only so many of the other training images, and the same share of the validation images.
        test_limit: Keep only so many test images.
        seed: Seed of the choice of images. It is not the seed of a run: runs that are to be compared share it.

    Raises:
        FileNotFoundError: If there is no such folder, or no parquet files in it, or the hub is out of reach.
        ValueError: If there is no such data set, or files are not what they should be, or fewer images than asked for.
    """
    if name not in CIFAR:
        raise ValueError(f"name={name!r}: there are {' and '.join(CIFAR)}")
    train, test = (_decoded(name, data, part) for part in ("train", "test"))
    kept, held = _parts(train.labels, validation, limit, seed)
    tested = _first(stratified(test.labels, seed), test_limit, "test_limit", "test")
    chosen = ((train, kept), (train, held), (test, tested))
    return Split(*(Examples(images[indices], labels[indices]) for (images, labels), indices in chosen))


def augment(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """A random crop of the images with `padding` zeros around them, and a flip for half of them, left to right.

    Every image draws its own; all draws come from the generator, which may be on another device.

    Args:
        images: (n, c, h, w).
        generator: Its state alone decides.
        padding: Pixels on every side.

    Returns:
        Images of the same shape and dtype.

    Example:
        >>> images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
        >>> augment(images, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """
    n, _, height, width = images.shape
    draw = partial(torch.randint, generator=generator, device=generator.device)
    top, left = draw(2 * padding + 1, (2, n)).to(images.device)
    flipped = draw(2, (n, 1, 1, 1)).to(images.device, torch.bool)
    crops = pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = crops[torch.arange(n, device=images.device), :, top, left]
    return torch.where(flipped, cropped.flip(-1), cropped)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images/255 − mean)/std, channel by channel, in float32.

    Args:
        images: (n, c, h, w) in uint8.
        mean: Mean of each channel, for pixels between 0 and 1.
        std: Likewise.

    Raises:
        ValueError: If `images` are not in uint8.

    Example:
        >>> white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
        >>> normalize(white, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).unique()
        tensor([2.])
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images are in {images.dtype}: give pixels from 0 to 255 in torch.uint8")
    centre, scale = (255 * torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (mean, std))
    return (images - centre) / scale


def stratified(labels: Tensor, seed: int) -> Tensor:
    """A random order of the examples in which every beginning holds the classes in their shares, or nearly.

    Args:
        labels: (n,), from 0 upwards.
        seed: Seed of the order within each class.

    Returns:
        (n,) indices.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified(labels, seed=0)]
        tensor([0, 1, 0, 0, 1, 0])
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return order[((rank + 0.5) / counts[labels[order]]).argsort(stable=True)]


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images that are read and transformed when asked for: (3, size, size) in float32, and the label.

    The transforms draw from torch's global random state, which a DataLoader seeds in each worker.

    Attributes:
        labels: (n,) in int64.
    """

    def __init__(self, read: Callable[[int], Image.Image], indices: Tensor, labels: Tensor, transform: v2.Transform):
        self.labels = labels[indices]
        self._read, self._indices, self._transform = read, indices, transform

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self._transform(self._read(int(self._indices[index])))
        return image, int(self.labels[index])


class ImageSplit(NamedTuple):
    """The three parts of a folder of images, and the number of classes."""

    train: Images
    validation: Images
    test: Images
    classes: int


def image_folder(
    data: Path,
    *,
    size: int = 224,
    validation: float = 0.02,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
) -> ImageSplit:
    """Images as ImageNet has them, with its standard transforms.

    Training: a random crop of 8 to 100 % of the area, resized, and a random flip. Otherwise the shorter side is resized
    to size × 256/224, and the centre cropped. Both are normalized by the mean and std of ImageNet.

    Args:
        data: A folder with train/ and val/ (or validation/, or test/) and in each a folder of image files for every
            class; or with train*.parquet and validation*.parquet (or val, or test), columns image and label.
        size: Height and width of what the network sees.
        validation: The fraction of the training images that is for validation. The folder's own val/ is the test set.
        limit: Keep only so many of the other training images, and the same share of the validation images.
        test_limit: Keep only so many test images.
        seed: Seed of the choice of images. It is not the seed of a run: runs that are to be compared share it.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing of the kind in it.
        ValueError: If files are not what they should be, or there are fewer images than asked for. A file that is no
            image is told only when its turn comes.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation} is no fraction of the training images: give, say, 0.02")
    if size < 1:
        raise ValueError(f"size={size}: an image has at least 1 pixel")
    read, labels, names = _source(data, ("train",))
    test_read, test_labels, test_names = _source(data, ("val", "validation", "test"))
    if test_names != names[: len(test_names)]:
        raise ValueError(
            f"{data}: the classes to train on, {parquet.few(names)}, and to test on, {parquet.few(test_names)}, differ"
        )
    kept, held = _parts(labels, max(1, round(validation * len(labels))), limit, seed)
    tested = _first(stratified(test_labels, seed), test_limit, "test_limit", "test")
    to_input = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD))
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *to_input])
    evaluation = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), *to_input])
    return ImageSplit(
        train=Images(read, kept, labels, training),
        validation=Images(read, held, labels, evaluation),
        test=Images(test_read, tested, test_labels, evaluation),
        classes=len(names),
    )


def _parts(labels: Tensor, validation: int, limit: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Indices for training and for validation."""
    if not 1 <= validation < len(labels):
        raise ValueError(f"validation={validation}: give at least 1 and less than all {len(labels)} training images")
    order = stratified(labels, seed)
    held, remaining = order[:validation], order[validation:]
    kept = _first(remaining, limit, "limit", "training")
    return kept, held[: max(1, round(validation * len(kept) / len(remaining)))]


def _first(order: Tensor, limit: int | None, argument: str, kind: str) -> Tensor:
    if limit is not None and not 1 <= limit <= len(order):
        raise ValueError(f"{argument}={limit}: give at least 1, at most {len(order)}: so many {kind} images there are")
    return order[:limit]


def _decoded(name: str, data: Path | None, part: str) -> Examples:
    """All images of "train" or "test", from the cache where they are in it."""
    import datasets

    facts = CIFAR[name]
    source, where = parquet.downloaded(facts.hub, part) if data is None else parquet.local(data, (part,))
    decoded = parquet.rows_of(source, facts.labels, where).map(
        partial(_pixels, where=where),
        batched=True,
        with_indices=True,
        input_columns=["image", "label"],
        remove_columns=["image"],
        features=datasets.Features(pixels=datasets.Value("binary"), label=datasets.Value("int64")),
        desc=f"Decoding {name}, {part}",
    )
    table = decoded.with_format("arrow")[:]
    labels = torch.tensor(table["label"].to_pylist(), dtype=torch.int64)
    present = sorted(set(labels.tolist()))
    if present != list(range(facts.classes)):
        raise ValueError(
            f"{where}: the labels are {parquet.few(present)}, not all of 0 to {facts.classes - 1}: is it {name}?"
        )
    pixels = torch.frombuffer(bytearray().join(table["pixels"].to_pylist()), dtype=torch.uint8)
    return Examples(pixels.view(-1, 3, SIZE, SIZE), labels)


def _pixels(rows: list[dict[str, Any]], labels: list[int], indices: list[int], where: str) -> dict[str, list[Any]]:
    """Rows of the cache: the pixels of each image as bytes, channel by channel."""
    pixels = []
    for row, index in zip(rows, indices, strict=True):
        image = parquet.row_image(row, where, index)
        if image.size != (SIZE, SIZE):
            raise ValueError(f"{where}, row {index} has {image.width}×{image.height} pixels, not CIFAR's {SIZE}×{SIZE}")
        pixels.append(b"".join(channel.tobytes() for channel in image.split()))
    return {"pixels": pixels, "label": labels}


def _source(folder: Path, parts: Sequence[str]) -> tuple[Callable[[int], Image.Image], Tensor, Sequence[str]]:
    """How to read an image, the labels, and the names of the classes, of the first of the parts that is there."""
    for root in (folder / part for part in parts):
        if root.is_dir():
            try:
                files = ImageFolder(root)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{root}: {error}; it needs a folder of images for every class") from error
            return partial(_read_file, [path for path, _ in files.samples]), torch.tensor(files.targets), files.classes
    if not parquet.files_of(folder, parts):
        raise FileNotFoundError(
            f"{folder} has no {parts[0]}/ and no {parts[0]}*.parquet; name a folder that has, with --data FOLDER"
        )
    source, where = parquet.local(folder, parts)
    rows = parquet.rows_of(source, ("label",), where)
    labels = torch.tensor(rows.with_format("arrow")[:]["label"].to_pylist(), dtype=torch.int64)
    if not len(labels) or labels.min() < 0:
        raise ValueError(f"{where}: there are images without a label; name a folder where all have one")
    names = getattr(rows.features["label"], "names", None) or [str(i) for i in range(int(labels.max()) + 1)]
    return partial(_read_row, rows, where), labels, names


def _read_file(paths: Sequence[str], index: int) -> Image.Image:
    return parquet.decoded(Path(paths[index]).read_bytes(), paths[index])


def _read_row(rows: datasets.Dataset, where: str, index: int) -> Image.Image:
    return parquet.row_image(rows[index]["image"], where, index)
