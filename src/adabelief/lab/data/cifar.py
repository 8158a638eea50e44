"""CIFAR-10 and CIFAR-100 as tensors in memory: from parquet files, from the authors' own batches, or from the hub."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabelief.lab.data import parquet
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.data.images import first, stratified, training_parts

SIZE = 32
PIXELS = 3 * SIZE * SIZE
PARTS = ("train", "test")


@dataclass(frozen=True)
class Cifar:
    """What sets CIFAR-10 and CIFAR-100 apart.

    Attributes:
        hub: The repository on the Hugging Face hub.
        classes: How many there are.
        labels: Names that the column of labels may have.
        mean: Mean of each channel, for pixels between 0 and 1.
        std: Standard deviation of each channel, for the same pixels.
        folder: The folder in the archive of the Python version that the authors of the data offer.
        batches: The files of each part in it.
    """

    hub: str
    classes: int
    labels: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    folder: str
    batches: Mapping[str, tuple[str, ...]]


CIFAR: Mapping[str, Cifar] = {
    "cifar10": Cifar(
        hub="uoft-cs/cifar10",
        classes=10,
        labels=("label",),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),  # the authors'; that of all pixels is larger, (0.2470, 0.2435, 0.2616)
        folder="cifar-10-batches-py",
        batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    ),
    "cifar100": Cifar(
        hub="uoft-cs/cifar100",
        classes=100,
        labels=("fine_label", "label"),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
    ),
}


def cifar(
    name: str,
    data: Path | None = None,
    *,
    validation_examples: int = 5000,
    train_examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
) -> Split:
    """CIFAR-10 or CIFAR-100, decoded.

    Images decoded from parquet files are kept in the cache of the `datasets` library (`HF_DATASETS_CACHE`), so only the
    first call takes long. All parts are stratified, and a smaller `train_examples` gives a part of what a larger one
    gives.

    Args:
        name: "cifar10" or "cifar100".
        data: A folder with train*.parquet and test*.parquet, as the hub has them (columns img or image, and label or
            fine_label); or else with the files of cifar-10-batches-py or cifar-100-python, or with a folder of this
            name. Nothing is downloaded then. Without it the images come from the hub.
        validation_examples: How many of the 50,000 training images are for validation.
        train_examples: Keep only so many of the other training images.
        test_examples: Keep only so many test images.
        seed: Seed of the choice of images. It is not the seed of a run: runs that are to be compared share it.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing of the kind in it, or the hub is out of reach.
        ValueError: If there is no such data set, or files are not what they should be, or fewer images than asked for.
    """
    if name not in CIFAR:
        raise ValueError(f"name={name!r}: there are {' and '.join(CIFAR)}")
    # The one or the other for both parts: what people have in parquet files may be another encoding of the images.
    batches = data is not None and not any(parquet.files_of(data, (part,)) for part in PARTS)
    train, test = (_decoded(name, data, part, batches=batches) for part in PARTS)
    kept, held = training_parts(
        train.labels,
        validation_examples,
        train_examples,
        seed,
        asked=f"validation_examples={validation_examples}",
    )
    tested = first(stratified(test.labels, seed), test_examples, "test_examples", "test")
    return Split(_chosen(train, kept), _chosen(train, held), _chosen(test, tested))


def _chosen(examples: Examples, indices: Tensor) -> Examples:
    return Examples(examples.inputs[indices], examples.labels[indices])


def _decoded(name: str, data: Path | None, part: str, *, batches: bool) -> Examples:
    """All images of "train" or "test"; `batches`: from the authors' own files."""
    facts = CIFAR[name]
    if data is None:
        examples, where = _of_rows(name, part, parquet.downloaded(facts.hub, part, facts.labels))
    elif batches:
        examples, where = _of_batches(name, data, part)
    else:
        examples, where = _of_rows(name, part, parquet.local(data, (part,), facts.labels))
    present = sorted(set(examples.labels.tolist()))
    if present != list(range(facts.classes)):
        raise ValueError(
            f"{where}: the labels are {parquet.few(present)}, not all of 0 to {facts.classes - 1}: is it {name}?"
        )
    return examples


def _of_rows(name: str, part: str, rows: parquet.Rows) -> tuple[Examples, str]:
    """The images of parquet files, from the cache where they are in it, and what to call them in a message."""
    import datasets

    decoded = rows.images.map(
        partial(_pixels, place=rows.place),
        batched=True,
        with_indices=True,
        input_columns=["image"],
        remove_columns=["image"],
        features=datasets.Features(pixels=datasets.Value("binary")),
        desc=f"Decoding {name}, {part}",
    )
    table = decoded.with_format("arrow")[:]
    pixels = torch.frombuffer(bytearray().join(table["pixels"].to_pylist()), dtype=torch.uint8)
    return Examples(pixels.view(-1, 3, SIZE, SIZE), rows.labels), str(rows.place)


def _pixels(rows: list[dict[str, Any]], indices: list[int], place: parquet.Place) -> dict[str, list[bytes]]:
    """Rows of the cache: the pixels of each image as bytes, channel by channel."""
    pixels = []
    for row, index in zip(rows, indices, strict=True):
        image = parquet.image_of(row, place, index)
        if image.size != (SIZE, SIZE):
            size = f"{image.width}×{image.height}"
            raise ValueError(f"{place.row(index)} has {size} pixels, not CIFAR's {SIZE}×{SIZE}")
        pixels.append(b"".join(channel.tobytes() for channel in image.split()))
    return {"pixels": pixels}


def _of_batches(name: str, data: Path, part: str) -> tuple[Examples, str]:
    """The images of the authors' own files, and what to call them in a message."""
    facts = CIFAR[name]
    inside = data / facts.folder
    folder = inside if inside.is_dir() else data
    files = [folder / file for file in facts.batches[part]]
    missing = [str(file.name) for file in files if not file.is_file()]
    if len(missing) == len(files):
        raise FileNotFoundError(
            f"{data} has no {part}*.parquet and no {facts.folder} with {parquet.few(facts.batches[part])}; "
            "name a folder that has, with --data FOLDER"
        )
    if missing:
        raise FileNotFoundError(f"{folder} has no {parquet.few(missing)}; unpack the archive again")
    batches = [read_batch(file) for file in files]
    images = torch.cat([batch.inputs for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    return Examples(images, labels), parquet.few(files)


def read_batch(file: Path) -> Examples:
    """The images (n, 3, 32, 32) and labels of a file of the Python version of CIFAR. No code in it is executed.

    It is a pickle of a dictionary: `data`, an array (n, 3072) in uint8 with the channels one after the other, and
    `labels` or, in CIFAR-100, `fine_labels`.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        batch = _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # whatever comes of bytes that are no pickle, or of one that asks for other things
        raise ValueError(
            f"{file} is no readable batch of CIFAR ({' '.join(str(error).split())}); download it again"
        ) from error
    if not isinstance(batch, dict):
        raise ValueError(f"{file} is no batch of CIFAR: it holds a {type(batch).__name__}; download it again")
    # In a pickle of Python 2 that was read and written by Python 3 as bytes, the names are bytes.
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels, labels = entries.get("data"), entries.get("fine_labels", entries.get("labels"))
    if pixels is None or labels is None:
        raise ValueError(f"{file} is no batch of CIFAR: it has {parquet.few(entries)}, not data and labels")
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise ValueError(f"{file}: data is {pixels.dtype} of shape {pixels.shape}, not uint8 of (n, {PIXELS})")
    if not isinstance(labels, (list, tuple, np.ndarray)):
        raise ValueError(f"{file}: labels is a {type(labels).__name__}, not a list of {len(pixels)} numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"{file} has {len(pixels)} images and {len(labels)} labels; download it again")
    for row, label in enumerate(labels):
        if not isinstance(label, (int, np.integer)):
            raise ValueError(f"{file}, row {row} has no label, but {label!r}; download it again")
    return Examples(torch.tensor(pixels).view(-1, 3, SIZE, SIZE), torch.tensor([int(label) for label in labels]))


class _Unpickler(pickle.Unpickler):
    """Makes arrays and what Python has words for, and refuses everything else: a pickle can call anything."""

    ALLOWED: Mapping[str, Any] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        # How Python 3 writes an array, if someone wrote the files anew: from protocol 5 on, and up to 2.
        "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # where NumPy 2 has it
        if wanted not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return self.ALLOWED[wanted]
