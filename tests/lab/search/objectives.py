"""Objectives that workers import."""

from __future__ import annotations

import os
import signal
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
