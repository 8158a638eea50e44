"""Objectives that workers import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from adabelief.lab.search.search import Trial
from adabelief.lab.search.trial import TaskObjective


def distance(trial: Trial) -> float:
    """How far the learning rate is from 0.01."""
    lr = trial.settings["lr"]
    trial.report(lr, 1)
    return abs(lr - 0.01)


@dataclass(frozen=True)
class Killed:
    """A trial of a task whose worker is killed after the first epoch, once."""

    task: TaskObjective
    killed: Path
    slot: int

    def __call__(self, trial: Trial) -> float:
        config = self.task.conditions.config(trial.arm, trial.settings, trial.seed)

        def report(value: float, step: int) -> None:
            trial.report(value, step)
            if trial.slot == self.slot and not self.killed.exists():
                self.killed.write_bytes((trial.folder / config.folder / "metrics.jsonl").read_bytes())
                os.kill(os.getpid(), signal.SIGKILL)

        return self.task(replace(trial, _report=report))


def endless(trial: Trial) -> float:
    """Says that it has begun, and does not end by itself."""
    (trial.folder / "begun.unfinished").write_text(str(os.getpid()))
    (trial.folder / "begun.unfinished").rename(trial.folder / "begun")
    time.sleep(600)
    return 0.0


def refusing(trial: Trial) -> float:
    """For lack of data."""
    raise FileNotFoundError("no such data")


@dataclass(frozen=True)
class Gone:
    """A trial in which the store's server ends."""

    server: int

    def __call__(self, trial: Trial) -> float:
        os.kill(self.server, signal.SIGKILL)
        return distance(trial)


class Orphaned:
    """Whoever a worker works for, dead."""

    def is_alive(self) -> bool:
        return False
