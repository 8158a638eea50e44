"""What all trials of a task have in common, and the run of an arm under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adabelief.lab import tasks
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.engine.config import Config, plan
from adabelief.lab.search.space import Arm
from adabelief.lab.task import Task


@dataclass(frozen=True)
class Conditions:
    """What all trials of a task have in common; the arguments are those of `engine.config.plan`."""

    task: str
    model: str | None = None
    scale: str = "small"
    changes: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    precision: str | None = None
    accumulate: int = 1

    def config(self, arm: Arm, settings: Mapping[str, Any], seed: int) -> Config:
        """The run of an arm with some settings, of which the usual ones are no part of its name.

        Raises:
            ValueError: If the task or the optimizer refuses something.
        """
        unusual = self._unusual(arm, settings)
        (found,) = plan(
            with_arm(tasks.task(self.task), arm),
            model=self.model,
            scale=self.scale,
            names=[arm.optimizer],
            seeds=[seed],
            changes={**unusual, **self.changes},
            epochs=self.epochs,
            precision=self.precision,
            accumulate=self.accumulate,
        )
        return found

    def clashes(self, arm: Arm, settings: Mapping[str, Any]) -> list[str]:
        """What both the changes and an arm's space decide: `eps` too where `floor` varies."""
        own = {*arm.fixed, *(one.name for one in arm.dimensions), *self._unusual(arm, settings)}
        return [name for name in self.changes if name in own]

    def _unusual(self, arm: Arm, settings: Mapping[str, Any]) -> dict[str, Any]:
        usual = self.usual(arm)
        return {name: value for name, value in settings.items() if name not in usual or usual[name] != value}

    def usual(self, arm: Arm) -> dict[str, Any]:
        """The arguments that the task has for an arm's optimizer; those that the space names go over them."""
        task = tasks.task(self.task)
        model = self.model or (task.models or ("",))[0]
        return dict(task.settings(model).get(arm.optimizer, {}))


def with_arm(task: Task, arm: Arm) -> Task:
    """A task that has settings of an arm's optimizer: none of its own where nothing is published."""
    if "keras" in CATALOGUE[task.name].extra:  # whose optimizers are Keras's
        return task
    return replace(task, settings=lambda model: {arm.optimizer: {}, **task.settings(model)})
