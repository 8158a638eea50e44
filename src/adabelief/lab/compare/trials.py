"""The runs of a comparison: those of the search, and those of the finals once the search has picked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adabelief.lab.analysis.runs import Run, load
from adabelief.lab.compare.plan import Plan, Workload
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.search.conditions import Conditions
from adabelief.lab.search.points import halton
from adabelief.lab.search.space import Arm
from adabelief.lab.task import Metric

SEARCH, FINALS = "search", "finals"

FAILURE = "failed.txt"
"""In the folder of a run that an error ended: it is not run again unless the file is removed."""


@dataclass(frozen=True)
class Trial:
    """A run that the plan asks for.

    Attributes:
        workload: What it is on.
        stage: "search" or "finals".
        arm: The arm's name.
        slot: Which point of the search its settings are, from 0.
        values: What varies, at that point.
        config: The run.
    """

    workload: Workload
    stage: str
    arm: str
    slot: int
    values: Mapping[str, Any]
    config: Config = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where the run is, under the folder of the comparison: `place` and what every run's folder is called."""
        return self.place / self.config.folder

    @property
    def place(self) -> Path:
        """The folder of its arm's runs of its stage."""
        return Path(self.stage, self.workload.name, self.arm)

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        return self.workload.about.metric.of(self.config.options)


@dataclass(frozen=True)
class Done:
    """A trial with what came of it so far.

    Attributes:
        trial: What was asked for.
        run: What there is of it; None before it has begun.
        failure: What ended it for good; empty where nothing did.
    """

    trial: Trial
    run: Run | None
    failure: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run of it."""
        return bool(self.failure) or (self.run is not None and self.run.finished)

    @property
    def lost(self) -> bool:
        """Whether it failed, diverged, or ended with no number: a loss against whatever did not."""
        return self.finished and not math.isfinite(self.validation)

    @property
    def validation(self) -> float:
        """The validation metric after the last epoch; nan where there is none, or the run diverged."""
        return self._last(f"validation_{self.trial.metric.name}")

    @property
    def validation_loss(self) -> float:
        """The same of the validation loss; nan also where the task has none."""
        return self._last("validation_loss")

    @property
    def test(self) -> float:
        """The test metric after the last epoch; nan where it was not read."""
        return self._last(f"test_{self.trial.metric.name}")

    @property
    def hits(self) -> NDArray[np.bool_] | None:
        """Which test examples were right; None where nobody wrote that down."""
        path = RunFolder(self.run.path).hits if self.run is not None else None
        if path is None or not path.exists():
            return None
        with np.load(path) as found:
            return np.asarray(found["test"]) if "test" in found else None

    @property
    def picked(self) -> float:
        """The validation metric of the best epoch."""
        return self.run.validation if self.run is not None and self.run.valid else math.nan

    def _last(self, name: str) -> float:
        if self.run is None or not self.run.valid:
            return math.nan
        return float(self.run.epochs[-1].get(name, math.nan))


def searches(plan: Plan, workload: Workload) -> list[Trial]:
    """The trials of a workload's search: point by point, so that at any time all arms have had as many.

    Raises:
        ValueError: If the task refuses something.
    """
    points = halton(workload.space.names, plan.trials, plan.search_seed)
    return [
        Trial(workload, SEARCH, arm.name, slot, values, config_of(workload, arm, values, plan.search_seed))
        for slot, point in enumerate(points)
        for arm in workload.space.arms
        for values in [arm.values(point)]
    ]


def finals(plan: Plan, workload: Workload, winners: Mapping[str, Done]) -> list[Trial]:
    """The trials of a workload's finals, seed by seed; an arm without a winner has none."""
    return [
        Trial(
            *(workload, FINALS, name, won.trial.slot, won.trial.values),
            replace(won.trial.config, seed=seed),
        )
        for seed in plan.seeds
        for name, won in winners.items()
    ]


def winners(done: Sequence[Done]) -> dict[str, Done]:
    """What validation picks of each arm after the last epoch; among equals the lower validation loss, then the first.

    An arm of which every trial is lost has none.
    """

    def rank(one: Done) -> tuple[float, float]:
        sign, loss = 1.0 if one.trial.metric.higher_is_better else -1.0, one.validation_loss
        return sign * one.validation, -loss if math.isfinite(loss) else -math.inf

    best: dict[str, Done] = {}
    for one in done:
        if one.finished and not one.lost:
            name = one.trial.arm
            best[name] = max(best.get(name, one), one, key=rank)
    return best


def read(out: Path, trials: Sequence[Trial]) -> list[Done]:
    """What came of trials so far.

    Raises:
        ValueError: If a file of one is damaged.
    """
    return [_done(trial, out / trial.folder) for trial in trials]


def _done(trial: Trial, folder: Path) -> Done:
    run = load([folder])[0] if (folder / "config.json").exists() else None
    failure = folder / FAILURE
    return Done(trial, run, failure.read_text().strip() if failure.exists() else "")


def config_of(workload: Workload, arm: Arm, values: Mapping[str, Any], seed: int) -> Config:
    """The run of an arm with these values.

    Raises:
        ValueError: If the task or the optimizer refuses something.
    """
    common = Conditions(workload.task, workload.model, workload.scale, workload.changes, workload.epochs)
    settings = arm.settings(values, common.usual(arm))
    try:
        for clash in common.clashes(arm, settings):
            raise ValueError(f"set has {clash}, which its space decides; leave one of them away")
        return common.config(arm, settings, seed)
    except ValueError as error:
        raise ValueError(f"[workloads.{workload.name}], arm {arm.name}: {error}") from None
