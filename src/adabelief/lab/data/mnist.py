"""MNIST, and sets in its form, as tensors: from its own files, from parquet files, or from the hub."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adabelief.lab.data import parquet
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.data.images import training_parts

Array = NDArray[Any]

SIZE, CLASSES = 28, 10
HUB: Mapping[str, str] = {"mnist": "ylecun/mnist", "fashion-mnist": "zalando-datasets/fashion_mnist"}
"""Repositories on the Hugging Face hub. Fashion-MNIST has MNIST's form (Xiao et al., 2017)."""
IDX: Mapping[str, str] = {"train": "train", "test": "t10k"}
"""What the names of MNIST's own files begin with."""


def mnist(folder: Path | None, validation: int, name: str = "mnist") -> Split:
    """MNIST's images, or those of a set in its form, from 0 to 1; the stratified validation part is always the same.

    Args:
        folder: Has train*.parquet and test*.parquet as the hub has them, or MNIST's own files, such as
            train-images-idx3-ubyte, compressed or not; None for a download.
        validation: How many of the 60,000 training images are for validation.
        name: What to download, of `HUB`.

    Raises:
        FileNotFoundError: If there are no such files, or the hub is out of reach.
        ValueError: If files are not what they should be, or `validation` is out of range, or `name` unknown.
    """
    if name not in HUB:
        raise ValueError(f"images={name!r}: there are {', '.join(HUB)} and digits")
    train, test = (_decoded(name, folder, part) for part in ("train", "test"))
    kept, held = training_parts(train.labels, validation, None, seed=0, asked=f"validation_examples={validation}")
    training = Examples(train.inputs[kept], train.labels[kept])
    return Split(training, Examples(train.inputs[held], train.labels[held]), test)


def _decoded(name: str, folder: Path | None, part: str) -> Examples:
    """All images of "train" or "test"."""
    own = sorted(folder.glob(f"{IDX[part]}-images*ubyte*")) if folder else []
    images, labels, where = _of_idx(own[0]) if own else _of_rows(name, folder, part)
    if len(images) != len(labels):
        raise ValueError(f"{where}: there are {len(images)} images and {len(labels)} labels; download both again")
    if set(labels.tolist()) != set(range(CLASSES)):
        raise ValueError(f"{where}: the labels are not all of 0 to {CLASSES - 1}: is it MNIST?")
    return Examples(torch.tensor(images)[:, None] / 255, torch.tensor(labels, dtype=torch.int64))


def _of_idx(path: Path) -> tuple[Array, Array, str]:
    """Images (n, 28, 28) of a file in MNIST's own format, labels (n,) of the file beside it, and what to call them."""
    images, labels = read_idx(path), read_idx(path.with_name(path.name.replace("images-idx3", "labels-idx1")))
    if images.shape[1:] != (SIZE, SIZE):
        raise ValueError(f"{path} has images of shape {images.shape[1:]}, not MNIST's {SIZE}×{SIZE}")
    return images, labels, str(path)


def read_idx(path: Path) -> Array:
    """An array of bytes from a file in the format IDX, compressed by gzip or not.

    It has the bytes 0, 0, 8 (for unsigned bytes) and the number of dimensions, each dimension in four bytes, the
    highest first, and the values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ValueError(f"{path} is no readable IDX file ({error}); download it again") from error
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of bytes: it begins with {content[:4]!r}; download it again")
    return values


def _of_rows(name: str, folder: Path | None, part: str) -> tuple[Array, Array, str]:
    """Images, labels and what to call them, from the rows of parquet files, in a folder or from the hub."""
    rows = parquet.downloaded(HUB[name], part) if folder is None else parquet.local(folder, (part,))
    images = []
    for index, row in enumerate(rows.images["image"]):
        image = parquet.image_of(row, rows.place, index).convert("L")
        if image.size != (SIZE, SIZE):
            where = rows.place.row(index)
            raise ValueError(f"{where} has {image.width}×{image.height} pixels, not MNIST's {SIZE}×{SIZE}")
        images.append(np.asarray(image))
    return np.stack(images), rows.labels.numpy(), str(rows.place)
