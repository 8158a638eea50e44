"""Files that are there whole or not at all, and downloads that say what to do where they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives another name to write to, which becomes `path` at the end: nobody ever sees half of it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def downloading(name: str, files: str) -> Iterator[None]:
    """Around a call of the datasets library, which looks into its cache and then downloads.

    Args:
        name: Of what is asked for.
        files: Which files of one's own do as well.

    Raises:
        FileNotFoundError: If the call fails.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"{name} is not in the cache of the datasets library, and could not be downloaded "
            f"({' '.join(str(error).split())}); give a folder that has {files}, with --data FOLDER"
        ) from error
