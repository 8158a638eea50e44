"""Rows of an image and a label, from parquet files or from the Hugging Face hub, and the images in them.

Reading is the datasets library's. Which files are a part's is decided here: `load_dataset(folder)` would read all parts
for one of them, mix what two folders hold, and name no file where one is damaged.
"""

from __future__ import annotations

import glob
import io
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from adabelief.lab.data import hub

if TYPE_CHECKING:
    import datasets  # which takes seconds, and what is embedded does without


class Place(NamedTuple):
    """Where rows are, for messages: one after the other in several files, or in one thing of another name.

    Attributes:
        names: The files.
        ends: How many rows there are up to the end of each.

    Example:
        >>> place = Place(("one.parquet", "two.parquet"), (10, 15))
        >>> str(place), place.row(9), place.row(10)
        ('one.parquet, two.parquet', 'one.parquet, row 9', 'two.parquet, row 0')
    """

    names: tuple[str, ...]
    ends: tuple[int, ...]

    def __str__(self) -> str:
        return few(self.names)

    def row(self, index: int) -> str:
        """A row, counted from 0 over all files, as its own file counts it."""
        file = bisect_right(self.ends, index)
        return f"{self.names[file]}, row {index - (0, *self.ends)[file]}"


class Rows(NamedTuple):
    """Images and their labels.

    Attributes:
        images: One column, image, with the content of image files: `image_of` decodes it.
        labels: (n,) in int64.
        classes: Names of the labels, from 0 upwards; empty where nothing says them.
        place: Where the rows are.
    """

    images: datasets.Dataset
    labels: Tensor
    classes: Sequence[str]
    place: Place

    def image(self, index: int) -> Image.Image:
        """The image of a row, in RGB."""
        return image_of(self.images[index]["image"], self.place, index)


def downloaded(repository: str, part: str, labels: Sequence[str] = ("label",)) -> Rows:
    """The rows of a part of what is on the Hugging Face hub, or in the cache of what came from it.

    Args:
        repository: Its name on the hub.
        part: "train", for example.
        labels: Names that the column of labels may have.

    Raises:
        FileNotFoundError: If it is not in the cache and cannot be downloaded.
        ValueError: If it has other columns, or rows without an image or a label.
    """
    table = hub.load(repository, split=part, or_else="its train*.parquet and test*.parquet")
    return _rows(table, labels, Place((f"{repository}, {part}",), (len(table),)))


def local(folder: Path, parts: Sequence[str], labels: Sequence[str] = ("label",)) -> Rows:
    """The rows of the first of the parts that there are files for. Nothing is downloaded.

    Args:
        folder: Where part*.parquet is, or a folder that has it.
        parts: What the names of files may begin with.
        labels: Names that the column of labels may have.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If they are damaged, have other columns, or rows without an image or a label.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [str(file) for file in files_of(folder, parts)]
    if not files:
        raise FileNotFoundError(f"{folder} has no {parts[0]}*.parquet; name a folder that has, with --data FOLDER")
    counts = []
    for file in files:
        try:
            counts.append(pq.read_metadata(file).num_rows)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{file} is no readable parquet file ({_line(error)}); download it again") from error
    place = Place(tuple(files), tuple(accumulate(counts)))
    if not place.ends[-1]:
        raise ValueError(f"{place}: there are no rows; download it again")
    try:
        table = datasets.Dataset.from_parquet([glob.escape(file) for file in files])  # it takes names for patterns
    except datasets.exceptions.DatasetGenerationError as error:
        reason = _line(error.__cause__)
        raise ValueError(f"{place}: damaged, or of different columns ({reason}); download again") from error
    return _rows(table, labels, place)


def files_of(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Those of the first of the parts that has any, in the folder or in one below it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r} is no folder; name one that is there, with --data FOLDER")
    for pattern in (f"{below}{part}*.parquet" for part in parts for below in ("", "*/")):
        files = sorted(folder.glob(pattern))
        if len(parents := sorted({str(file.parent) for file in files})) > 1:
            raise ValueError(f"{folder} has {pattern} in {few(parents)}; name one of these, with --data FOLDER")
        if files:
            return files
    return []


def _rows(table: datasets.Dataset, labels: Sequence[str], place: Place) -> Rows:
    import datasets
    import pyarrow.compute as pc

    features = table.features
    image = next((name for name in ("img", "image") if name in features), None)
    label = next((name for name in labels if name in features), None)
    if image is None or label is None:
        raise ValueError(f"{place}: there is no column img or image, or no {' or '.join(labels)}: {few(features)}")
    if not isinstance(features[image], (datasets.Image, dict)):
        raise ValueError(f"{place}: the column {image} holds {features[image]}; it should hold image files, as bytes")
    if not isinstance(features[label], (datasets.Value, datasets.ClassLabel)) or "int" not in features[label].dtype:
        kind = getattr(features[label], "dtype", features[label])
        raise ValueError(f"{place}: the column {label} holds {kind}; it should hold int64, from 0")
    images = table.select_columns([image]).rename_columns({image: "image"})
    images = images.cast_column("image", datasets.Image(decode=False))
    contents, numbers = pc.struct_field(images.data.column("image"), "bytes"), table.data.column(label)
    for column, values, missing in ((image, contents, "image"), (label, numbers, "label")):
        if values.null_count:
            first = place.row(pc.index(values.is_null(), True).as_py())
            raise ValueError(
                f"{first} has no {missing}: it is null in the column {column}, as it is in {values.null_count} of "
                f"{len(values)} rows; remove these rows, or download again"
            )
    classes = getattr(features[label], "names", None) or ()
    return Rows(images, torch.tensor(numbers.to_pylist(), dtype=torch.int64), classes, place)


def image_of(row: Mapping[str, Any], place: Place, index: int) -> Image.Image:
    """The image in a row of `Rows.images`, in RGB."""
    return decoded(row["bytes"], f"{place.row(index)}, {row['path']}")


def decoded(content: bytes, name: str) -> Image.Image:
    """The image of a file's content, in RGB; 16 bits of grey become 8.

    Args:
        content: The file's bytes.
        name: What to call it in a message.

    Raises:
        ValueError: If it is no image, or one of numbers of which nothing says how bright they are.
    """
    try:
        return _in_rgb(Image.open(io.BytesIO(content)))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else _line(error)
        raise ValueError(f"{name} is no readable image ({reason}); remove or replace it") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own conversion cuts what is above 255, so 16 bits become white, and floats from 0 to 1 black.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))  # 65535/255 is 257: rounded to the nearest
    elif image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, and nothing says which is white: convert it to 8 or 16 bits")
    return image.convert("RGB")


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def few(values: Iterable[Any]) -> str:
    """The first five of some values, for a message."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:5]) + (f" … ({len(texts)} in all)" if len(texts) > 5 else "")
