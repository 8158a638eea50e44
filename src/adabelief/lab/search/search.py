"""What a search is of, what its objective is given, and what comes of its trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

from adabelief.lab import optimizers
from adabelief.lab.search.space import Arm, Space

DIRECTIONS = ("maximize", "minimize")

WAITING, RUNNING, FINISHED, PRUNED = "waiting", "running", "finished", "pruned"
DIVERGED, FAILED = "diverged", "failed"

OVER = (FINISHED, PRUNED, DIVERGED, FAILED)
"""States in which nothing is left to do."""

LOST = (DIVERGED, FAILED)
"""States that count as a loss: worse than every number."""


@dataclass
class Trial:
    """What an objective is given: one setting of one arm.

    Attributes:
        arm: The arm.
        slot: Which trial of the arm it is, from 0: with the samplers `qmc` and `random` all arms have the same point.
        values: Of everything that varies.
        settings: The arguments of the arm's optimizer; where the lab knows none, what varies and what is fixed.
        seed: For weights and batches, the same in all trials.
        folder: Where runs may be recorded, the same one when the trial is taken up again. It need not be there.
    """

    arm: Arm
    slot: int
    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    folder: Path
    _report: Callable[[float, int], None] = field(repr=False, default=lambda value, step: None)
    _note: Callable[[str, Any], None] = field(repr=False, default=lambda name, value: None)

    def build(self, params: Iterable[Parameter]) -> Optimizer:
        """The arm's optimizer, with these settings.

        Raises:
            ValueError: If the arm has none that the lab knows.
        """
        if not self.arm.optimizer:
            raise ValueError(f"optimizer: the arm {self.arm.name} has none; build one from trial.settings yourself")
        return optimizers.build(self.arm.optimizer, params, self.settings)

    def report(self, value: float, step: int) -> None:
        """Says how far the trial is: the value after so many steps or epochs, which count from 1.

        Raises:
            optuna.TrialPruned: If pruning is on and the trial is behind the others: let it pass.
        """
        self._report(value, step)

    def note(self, name: str, value: Any) -> None:
        """Keeps something with the trial, for whoever reads the store: numbers, texts, lists and tables of them."""
        self._note(name, value)


Objective = Callable[[Trial], float]
"""Trains once and returns what it is judged by; nan and infinity are a divergence, an exception is a failure."""


@dataclass(frozen=True)
class Search:
    """All that workers need to know.

    Attributes:
        name: What it is called in the store.
        space: Its arms.
        objective: What a trial is.
        direction: One of `DIRECTIONS`.
        trials: Of each arm.
        out: The folder of its runs; its own store is there too.
        storage: A store that several machines share; empty for its own.
        sampler: One of `search.SAMPLERS`.
        seed: Of the points, and of weights and batches.
        prune: Whether trials that are behind the median end early.
        conditions: What else decides the numbers; a store with others is another search.
        usual: The usual arguments of each arm's optimizer.
        beat: Seconds between two signs of life of a worker.
        grace: Seconds without one after which its trial is taken up by another one.
    """

    name: str
    space: Space
    objective: Objective
    direction: str
    trials: int
    out: Path
    storage: str = ""
    sampler: str = "qmc"
    seed: int = 0
    prune: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beat: float = 10.0
    grace: float = 60.0

    @property
    def worst(self) -> float:
        """What a loss counts as."""
        return float("-inf") if self.direction == "maximize" else float("inf")

    def plan(self, arm: Arm) -> dict[str, Any]:
        """What all machines have to agree on, as JSON has it."""
        conditions = {"sampler": self.sampler, "seed": self.seed, "pruning": self.prune, **self.conditions}
        if self.sampler != "grid":  # its points depend on nothing else
            return dict(json.loads(json.dumps({"space": asdict(arm), "names": self.space.names, **conditions})))
        return dict(json.loads(json.dumps({"space": asdict(arm), "trials": self.trials, **conditions})))


@dataclass(frozen=True)
class Outcome:
    """What came of a trial so far.

    Attributes:
        arm: The arm's name.
        slot: Which of its trials it is.
        state: "waiting", "running", or one of `OVER`.
        value: What it is judged by; of a pruned one the last that it reported; None where there is none yet.
        values: Of everything that varies.
        settings: The optimizer's arguments.
        reason: Why it failed.
        folder: Where its run is, below the folder of the search.
        seconds: How long it took; of a trial that was taken up again, the last part.
        tries: How many workers died of it.
    """

    arm: str
    slot: int
    state: str
    value: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    folder: str = ""
    seconds: float = 0.0
    tries: int = 0


def ranked(outcomes: Iterable[Outcome], direction: str) -> list[Outcome]:
    """The trials that are over, the best first: finished ones, pruned ones, and losses last."""
    sign = -1.0 if direction == "maximize" else 1.0
    ranks = {state: rank for rank, state in enumerate(OVER)}
    return sorted(
        (outcome for outcome in outcomes if outcome.state in OVER),
        key=lambda outcome: (ranks[outcome.state], sign * (outcome.value or 0.0), outcome.slot),
    )
