"""The folder that has all of a run.

config.json        what was asked for, resolved: nothing is left to a default; and which data the run began with
environment.json   versions, processor, accelerator, commit: where its (latest) part was run
metrics.jsonl      one line for every few steps and for every epoch; only ever appended to
checkpoint.pt      all that the run needs to go on, replaced atomically; of a finished run, modules and history
hits.npz           which examples were right after the last epoch, where a task says so: for paired tests
result.json        what came of it: a run that has it is finished
probe.jsonl        where a probe was asked for: what it saw of the optimizers, now and then
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from adabelief.lab import files
from adabelief.lab.engine import recorded
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.fingerprint import Data

REMEDY = "remove it, and the same command writes it again"
"""For a file that is damaged."""


class Busy(Exception):
    """Another process is at work on the run."""


class OtherData(ValueError):
    """The run is of other data."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.json", path / "environment.json"
        self.metrics, self.checkpoint = path / "metrics.jsonl", path / "checkpoint.pt"
        self.result, self.hits, self.probe = path / "result.json", path / "hits.npz", path / "probe.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out; raises Busy where one is in. A process that dies is out.

        A run that ends before anything is recorded leaves nothing behind.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(f"{self.path} is being run by another process") from None
        try:
            yield
        finally:
            if not (self.result.exists() or self.checkpoint.exists() or self._content()):
                self._leave_nothing()
            lock.release()

    def _leave_nothing(self) -> None:
        for path in (self.config, self.environment, self.metrics, self.probe):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # where there is something else in one of the folders
            (self.path / ".lock").unlink()
            for path in (self.path, *list(self.path.parents)[:2]):
                path.rmdir()

    def read_config(self) -> dict[str, Any]:
        """What the run was asked for; empty where it has not begun.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.config.exists():
            return {}
        return recorded.read(self.config, "configuration", REMEDY)

    def write_config(self, config: Config, data: Data | None) -> None:
        """Writes the configuration, or compares it with the one that is there.

        Raises:
            OtherData: If the folder has a run on other data.
            ValueError: If it has a run of another configuration, or its file is damaged.
        """
        then, now = self.read_config(), json.loads(json.dumps(asdict(config)))
        if then:
            for name in now:
                if then[name] != now[name]:
                    raise ValueError(
                        f"{self.path} has a run with another {name} ({then[name]!r}, now {now[name]!r}); "
                        "name another folder with --out, or remove this one"
                    )
            before = Data.noted(then.get("data"))
            if "data" in then and before != data:
                was, is_now = (x.folder if x else "the task's own" for x in (before, data))
                raise OtherData(
                    f"{self.path} has a run on other data ({was}, now {is_now}); name another folder with --out, or "
                    "give --data as it was"
                )
        else:
            files.write(self.config, json.dumps({**now, "data": data and asdict(data)}, indent=2) + "\n")

    def read_result(self) -> dict[str, Any] | None:
        """What came of the run; None where it is not finished.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.result.exists():
            return None
        return recorded.read(self.result, "result", REMEDY)

    def begin_metrics(self, size: int, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Leaves what a checkpoint knows of: cuts off what was appended later, and puts back what is missing.

        Args:
            size: How long the file was.
            step: How many steps there were.
            history: The lines of the epochs.
        """
        content = self._content()
        known = [json.loads(json.dumps(_plain(line))) for line in history]
        lines = _readable(content[:size])
        if len(content) < size or [line for line in lines if "train_loss" in line] != known:
            steps = [line for line in _readable(content) if "train_loss" not in line and line["step"] <= step]
            lines = sorted([*steps, *known], key=lambda line: (line["step"], "train_loss" in line))
            files.write(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))
        else:
            with self.metrics.open("ab") as file:
                file.truncate(size)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Appends lines to the metrics, on the disk when it returns; returns the size of the file then."""
        with self.metrics.open("ab") as file:
            file.write("".join(json.dumps(_plain(line)) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def write_hits(self, hits: Mapping[str, Tensor], parts: Sequence[str]) -> None:
        """Writes which examples of these held-out parts were right, as arrays of bool; nothing where nobody knows."""
        known = {part: hits[part].numpy() for part in parts if part in hits}
        if known:
            with (
                files.full_disk_told(self.hits),
                files.replacing(self.hits) as unfinished,
                unfinished.open("wb") as file,
            ):
                np.savez_compressed(file, **known)  # type: ignore[arg-type]

    def _content(self) -> bytes:
        return self.metrics.read_bytes() if self.metrics.exists() else b""


def _readable(content: bytes) -> list[dict[str, Any]]:
    """The lines that are whole; each has its step."""
    lines = []
    for text in content.split(b"\n"):
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return lines


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity: they become strings, which `float` reads."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
