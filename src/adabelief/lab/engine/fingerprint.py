"""Which data a run is of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READ = 2**28
"""Bytes of a folder that are read, at most; of files behind that, names and sizes count."""

OWN = {"config.json", "report.html"}
"""Files of runs and reports: a folder below the data that has one is none of it."""


@dataclass(frozen=True)
class Data:
    """A folder of data, the same one wherever it is.

    Attributes:
        folder: Where it was.
        fingerprint: Of what is in it.
    """

    folder: str = field(compare=False)
    fingerprint: str

    @staticmethod
    def of(folder: Path | None) -> Data | None:
        """The data of a folder; None is what the task itself brings or downloads.

        Raises:
            FileNotFoundError: If there is no such folder.
        """
        if folder is None:
            return None
        if not folder.is_dir():
            raise FileNotFoundError(f"data={str(folder)!r} is no folder; name one that is there, with --data FOLDER")
        digest, left = hashlib.blake2b(digest_size=16), READ
        for path in sorted(_files(folder)):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                content = file.read(left) if left else b""
            digest.update(content)
            left -= len(content)
        return Data(str(folder.resolve()), digest.hexdigest())

    @staticmethod
    def noted(content: Any) -> Data | None:
        """What a run has noted of its data."""
        if not isinstance(content, dict):
            return None
        return Data(str(content.get("folder")), str(content.get("fingerprint")))


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, followlinks=True):
        if OWN.intersection(names) and Path(where) != folder:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for name in names if not name.startswith(".") and (path := Path(where, name)).is_file())
