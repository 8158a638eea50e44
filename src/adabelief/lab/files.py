"""Files that are there whole or not at all, and a full disk that is told as one."""

from __future__ import annotations

import errno
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
def full_disk_told(path: Path) -> Iterator[None]:
    """Raises OSError (ENOSPC) where a library that writes to `path` makes something else of it."""
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether the system's word is among the causes: torch wraps it, TensorFlow repeats it."""
    while error:
        if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
