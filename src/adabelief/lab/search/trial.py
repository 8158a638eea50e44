"""A trial of a task: an ordinary run in its folder, which `adabelief train` would go on with and `report` shows."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from adabelief.lab import tasks
from adabelief.lab.console import silent_console
from adabelief.lab.engine import recorded, session
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.run import Observer, Run
from adabelief.lab.search.conditions import Conditions, with_arm
from adabelief.lab.search.search import Search, Trial
from adabelief.lab.search.space import Space
from adabelief.lab.task import Metric

RETRY = 1.0
"""Seconds until a run is asked for again that another process is at."""


@dataclass(frozen=True)
class TaskObjective:
    """The objective of a task: its metric on the validation set after the last epoch."""

    conditions: Conditions
    data: Path | None = None
    cpu: bool = False
    checkpoint_seconds: float = 60.0

    def __call__(self, trial: Trial) -> float:
        """Runs what is left of a trial; its run is in the search's folder, where `train` would put it.

        Raises:
            optuna.TrialPruned: If it is behind the others.
            ValueError: If the task refuses the settings.
            OSError: If data cannot be read or a file cannot be written.
        """
        task = with_arm(tasks.task(self.conditions.task), trial.arm)
        config = self.conditions.config(trial.arm, trial.settings, trial.seed)
        trial.note("folder", str(config.folder))
        reporting = Reporting(trial)
        while True:
            done = session.run(
                *(task, [config], trial.folder),
                data=self.data,
                cpu=self.cpu,
                checkpoint_seconds=self.checkpoint_seconds,
                observers=[reporting],
                console=silent_console(),
            )
            if done or reporting.pruned:
                break
            time.sleep(RETRY)
        if not done:
            raise reporting.pruned or optuna.TrialPruned
        ((_, result),) = done
        metric, folder = task.metric.of(config.options), RunFolder(trial.folder / config.folder)
        return math.nan if result["diverged"] else last_validation(metric, folder)


def search_of(
    conditions: Conditions,
    space: Space,
    *,
    data: Path | None = None,
    cpu: bool = False,
    checkpoint_seconds: float = 60.0,
    seed: int = 0,
    name: str | None = None,
    **options: Any,
) -> Search:
    """The search of a task's settings, once everything has been asked whether it takes what it is given.

    Args:
        conditions: What all trials have in common.
        space: The arms.
        data: Where the task's data is.
        cpu: Do not use an accelerator.
        checkpoint_seconds: At least this long between two checkpoints within an epoch.
        seed: Of points, weights and batches.
        name: What the search is called in the store; by default after the task, the model and the scale.
        **options: The other attributes of `Search`.

    Raises:
        ValueError: If the task or an optimizer refuses something.
        FileNotFoundError: If there is no such folder of data.
    """
    task = tasks.task(conditions.task)
    session.check_data(task, data)
    experiment, metric = "", task.metric
    for arm in space.arms:
        if not arm.optimizer:
            raise ValueError(f"space: [{arm.name}] has no optimizer, which a task needs; name one")
        varied = {dimension.name for dimension in arm.dimensions}
        settings = arm.settings(arm.values(dict.fromkeys(varied, 0.5)), conditions.usual(arm))
        for clash in conditions.clashes(arm, settings):
            raise ValueError(f"--set {clash}: [{arm.name}] of the space has it; leave one of them away")
        config = conditions.config(arm, settings, seed)
        experiment, metric = config.experiment, task.metric.of(config.options)
    return Search(
        name=name or experiment,
        space=space,
        objective=TaskObjective(conditions, data and data.absolute(), cpu, checkpoint_seconds),
        direction="maximize" if metric.higher_is_better else "minimize",
        seed=seed,
        conditions=asdict(conditions),
        usual={arm.name: conditions.usual(arm) for arm in space.arms},
        **options,
    )


class Reporting(Observer):
    """Reports the metric after every epoch, and ends the run where it is behind."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._reported = trial, 0
        self.pruned: optuna.TrialPruned | None = None

    def after_epoch(self, run: Run) -> None:
        """Reports what an earlier worker may not have come to say, too."""
        name = f"validation_{run.task.metric.of(run.config.options).name}"
        for line in run.state.history[self._reported :]:
            self._reported = line["epoch"]
            try:
                self._trial.report(float(line[name]), line["epoch"])
            except optuna.TrialPruned as pruned:
                self.pruned = pruned

    def stop(self, run: Run) -> bool:
        """Whether it is behind."""
        return self.pruned is not None


def last_validation(metric: Metric, folder: RunFolder) -> float:
    """The metric of a run on the validation set after its last epoch.

    Raises:
        ValueError: If the run's file is damaged.
    """
    epochs, _ = recorded.lines(folder.metrics, metric.name)
    return float(epochs[-1][f"validation_{metric.name}"])
