"""Image files and parquet files of them, for tests."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


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


def leave_out(file, column, *rows, inner=None):
    """Makes some rows of a column null, or the entry `inner` of what they hold."""
    columns = pq.read_table(file).to_pydict()
    for row in rows:
        if inner is None:
            columns[column][row] = None
        else:
            columns[column][row][inner] = None
    pq.write_table(pa.table(columns), file)
