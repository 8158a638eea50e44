"""What the lab has found so far, and `results.csv`: one row a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks.toy import Walk
from adabelief.lab.train import Run

COLUMNS = (
    "task",
    "optimizer",
    "seed",
    "settings",
    "epochs",
    "best_epoch",
    "validation_accuracy",
    "test_accuracy",
    "last_test_accuracy",
    "last_train_loss",
    "optimizer_seconds_per_step",
    "seconds_per_step",
    "steps",
    "arrival_step",
    "last_distance",
    "last_value",
)


@dataclass
class Results:
    """Finished training runs and walks, out of those that were planned; a walk ends after `walk_limit` steps."""

    planned_runs: int
    planned_walks: int
    walk_limit: int
    runs: list[Run] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all that was planned is finished."""
        return (len(self.runs), len(self.walks)) == (self.planned_runs, self.planned_walks)

    def csv(self) -> str:
        """The table, with a header; accuracies are fractions; what does not apply to a row is empty."""
        file = io.StringIO()
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_run_row, self.runs))
        writer.writerows(map(_walk_row, self.walks))
        return file.getvalue()


def by_optimizer(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs of each optimizer, in the order of `METHODS`."""
    order = list(METHODS)
    ordered = sorted(runs, key=lambda run: order.index(run.optimizer))
    return [(name, list(group)) for name, group in groupby(ordered, key=lambda run: run.optimizer)]


def _run_row(run: Run) -> Mapping[str, Any]:
    return {
        "task": run.task,
        "optimizer": run.optimizer,
        "seed": run.seed,
        "settings": json.dumps(run.settings),
        "epochs": len(run.epochs),
        "best_epoch": run.best_epoch,
        "validation_accuracy": run.best.validation_accuracy,
        "test_accuracy": run.test_accuracy,
        "last_test_accuracy": run.last_test_accuracy,
        "last_train_loss": run.epochs[-1].train_loss,
        "optimizer_seconds_per_step": run.optimizer_seconds,
        "seconds_per_step": run.step_seconds,
    }


def _walk_row(walk: Walk) -> Mapping[str, Any]:
    return {
        "task": walk.function,
        "optimizer": walk.optimizer,
        "settings": json.dumps(walk.settings),
        "steps": walk.steps,
        "arrival_step": walk.arrival,
        "last_distance": walk.distance[-1],
        "last_value": walk.value[-1],
    }
