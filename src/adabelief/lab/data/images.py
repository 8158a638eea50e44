"""Images for the lab: how they are split and augmented, and ImageNet-like folders of them as datasets.

The validation part is split off the training set, always the same one; the test set is for the report only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from adabelief.lab.data import parquet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        std: Standard deviation of each channel, for the same pixels.

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
    validation_share: float = 0.02,
    train_examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
) -> ImageSplit:
    """Images as ImageNet has them, with its standard transforms.

    Training: a random crop of 8 to 100 % of the area, resized, and a random flip. Otherwise the shorter side is resized
    to size × 256/224, and the centre cropped. Both are normalized by the mean and std of ImageNet.

    Args:
        data: A folder with train/ and val/ (or validation/, or test/) and in each a folder of image files for every
            class; or with train*.parquet and validation*.parquet (or val, or test), columns image and label.
        size: Height and width of what the network sees.
        validation_share: The fraction of the training images that is for validation. The folder's own val/ is the test
            set.
        train_examples: Keep only so many of the other training images.
        test_examples: Keep only so many test images.
        seed: Seed of the choice of images. It is not the seed of a run: runs that are to be compared share it.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing of the kind in it.
        ValueError: If files are not what they should be, or there are fewer images than asked for. A file that is no
            image is told only when its turn comes.
    """
    if not 0 < validation_share < 1:
        raise ValueError(
            f"validation_share={validation_share} is no fraction of the training images: give, say, "
            "--set validation_share=0.02"
        )
    if size < 1:
        raise ValueError(f"size={size}: an image has at least 1 pixel; give, say, --set size=224")
    read, labels, names = _source(data, ("train",))
    test_read, test_labels, test_names = _source(data, ("val", "validation", "test"))
    if test_names != names[: len(test_names)]:
        raise ValueError(
            f"{data}: the classes to train on, {parquet.few(names)}, and to test on, {parquet.few(test_names)}, differ"
        )
    kept, held = training_parts(
        labels,
        max(1, round(validation_share * len(labels))),
        train_examples,
        seed,
        asked=f"validation_share={validation_share}",
    )
    tested = first(stratified(test_labels, seed), test_examples, "test_examples", "test")
    to_input = v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), to_input])
    evaluation = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), to_input])
    return ImageSplit(
        train=Images(read, kept, labels, training),
        validation=Images(read, held, labels, evaluation),
        test=Images(test_read, tested, test_labels, evaluation),
        classes=len(names),
    )


def training_parts(
    labels: Tensor, validation: int, limit: int | None, seed: int, *, asked: str
) -> tuple[Tensor, Tensor]:
    """Splits training images, always in the same way; the validation part is as large, however few are trained on.

    Args:
        labels: (n,), of all training images.
        validation: How many of them are for validation.
        limit: Keep only so many of the others; None for all.
        seed: Seed of the choice.
        asked: The option that asked for validation, as in "validation_examples=5000", for a message.

    Returns:
        Indices for training and for validation.

    Raises:
        ValueError: If there are too few images.
    """
    if not isinstance(validation, int) or not 1 <= validation < len(labels):
        raise ValueError(
            f"{asked}: give at least 1 and less than all {len(labels)} training images, with "
            f"--set {asked.partition('=')[0]}=N"
        )
    order = stratified(labels, seed)
    return first(order[validation:], limit, "train_examples", "training"), order[:validation]


def first(order: Tensor, limit: int | None, option: str, kind: str) -> Tensor:
    """The first so many of some indices, or all of them where there is no limit.

    Raises:
        ValueError: If there are not so many; it names the option that asked for them.
    """
    if limit is not None and (not isinstance(limit, int) or not 1 <= limit <= len(order)):
        beside = " beside those for validation" if kind == "training" else ""
        raise ValueError(
            f"{option}={limit}: there are {len(order)} {kind} images{beside}; give at least 1, at most {len(order)}, "
            f"with --set {option}=N"
        )
    return order[:limit]


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
    rows = parquet.local(folder, parts)
    if rows.labels.min() < 0:  # −1, as ImageNet's test set has it on the hub
        raise ValueError(f"{rows.place}: there are images without a label; name a folder where all have one")
    return rows.image, rows.labels, rows.classes or [str(i) for i in range(int(rows.labels.max()) + 1)]


def _read_file(paths: Sequence[str], index: int) -> Image.Image:
    return parquet.decoded(Path(paths[index]).read_bytes(), paths[index])
