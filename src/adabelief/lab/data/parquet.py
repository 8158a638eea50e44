"""Rows of an image and a label, from parquet files or from the Hugging Face hub, and the images in them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from adabelief.lab.data import hub

if TYPE_CHECKING:
    import datasets  # which takes seconds, and what is embedded does without


def downloaded(repository: str, part: str) -> tuple[datasets.Dataset, str]:
    """The rows of a part of what is on the Hugging Face hub or in the cache, and what to call them in a message."""
    return hub.load(repository, split=part, or_else="its train*.parquet and test*.parquet"), f"{repository}, {part}"


def local(folder: Path, parts: Sequence[str]) -> tuple[datasets.Dataset, str]:
    """The rows of the first of the parts that there are files for, and what to call them. Nothing is downloaded.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are damaged.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [str(file) for file in files_of(folder, parts)]
    if not files:
        raise FileNotFoundError(f"{folder} has no {parts[0]}*.parquet; name a folder that has, with --data FOLDER")
    for file in files:
        try:
            pq.read_schema(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{file} is no readable parquet file ({_line(error)}); download it again") from error
    where = few(files)
    try:
        return datasets.Dataset.from_parquet(files), where
    except datasets.exceptions.DatasetGenerationError as error:
        reason = _line(error.__cause__)
        raise ValueError(f"{where}: damaged, or of different columns ({reason}); download again") from error


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


def rows_of(source: datasets.Dataset, labels: Sequence[str], where: str) -> datasets.Dataset:
    """The same with two columns: image, its bytes left as they are, and label."""
    import datasets

    features = source.features
    image = next((name for name in ("img", "image") if name in features), None)
    label = next((name for name in labels if name in features), None)
    if image is None or label is None:
        raise ValueError(f"{where}: there is no column img or image, or no {' or '.join(labels)}: {few(features)}")
    if not isinstance(features[image], (datasets.Image, dict)):
        raise ValueError(f"{where}: the column {image} holds {features[image]}; it should hold image files, as bytes")
    if "int" not in str(features[label].dtype):
        raise ValueError(f"{where}: the column {label} holds {features[label].dtype}; it should hold int64, from 0")
    rows = source.select_columns([image, label]).rename_columns({image: "image", label: "label"})
    return rows.cast_column("image", datasets.Image(decode=False))


def row_image(row: Mapping[str, Any], where: str, index: int) -> Image.Image:
    """The image of a row of `rows_of`, decoded."""
    return decoded(row["bytes"], f"{where}, row {index}, {row['path']}")


def decoded(content: bytes, name: str) -> Image.Image:
    """The image of a file's content, in RGB.

    Raises:
        ValueError: If it is none; it is told by its name.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content)).convert("RGB")
        return image
    except (OSError, SyntaxError, ValueError) as error:
        reason = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name} is no readable image ({reason}); remove or replace it") from error


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def few(values: Iterable[Any]) -> str:
    """The first five of some values, for a message."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:5]) + (f" … ({len(texts)} in all)" if len(texts) > 5 else "")
