"""Image files and parquet files of them, for tests."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What the datasets library keeps of a test's files, each test its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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


def leave_out(file, column, *rows, inner=None):
    """Makes some rows of a column null, or the entry `inner` of what they hold."""
    columns = pq.read_table(file).to_pydict()
    for row in rows:
        if inner is None:
            columns[column][row] = None
        else:
            columns[column][row][inner] = None
    pq.write_table(pa.table(columns), file)
