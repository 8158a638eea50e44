"""The folder that has all of a run.

config.json        what was asked for, resolved: nothing is left to a default
environment.json   versions, processor, accelerator, commit: where its (latest) part was run
metrics.jsonl      one line for every few steps and for every epoch; only ever appended to
checkpoint.pt      all that the run needs to go on, replaced atomically; of a finished run, the modules
result.json        what came of it, written last: a run that has it is finished
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adabelief.lab import files
from adabelief.lab.engine.config import Config


class Busy(Exception):
    """Another process is at work on the run."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.json", path / "environment.json"
        self.metrics, self.checkpoint, self.result = (
            *(path / "metrics.jsonl", path / "checkpoint.pt"),
            path / "result.json",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out; raises Busy where one is in. A process that dies is out."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(f"{self.path} is being run by another process") from None
        try:
            yield
        finally:
            lock.release()

    def write_config(self, config: Config) -> None:
        """Writes the configuration, or compares it with the one that is there.

        Raises:
            ValueError: If the folder has a run of another configuration.
        """
        text = config.as_json()
        if self.config.exists() and json.loads(self.config.read_text()) != json.loads(text):
            then, now = json.loads(self.config.read_text()), json.loads(text)
            differing = [name for name in now if then.get(name) != now[name]]
            name = differing[0] if differing else "config.json"
            raise ValueError(
                f"{self.path} has a run with another {name} ({then.get(name)!r}, now {now.get(name)!r}); "
                "name another folder with --out, or remove this one"
            )
        files.write(self.config, text)

    def begin_metrics(self, size: int) -> None:
        """Cuts off what was appended after the checkpoint that the run goes on from."""
        with self.metrics.open("ab") as file:
            file.truncate(size)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Appends lines to the metrics, on the disk when it returns; returns the size of the file then."""
        with self.metrics.open("ab") as file:
            file.write("".join(json.dumps(_plain(line)) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity: they become strings, which `float` reads."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
