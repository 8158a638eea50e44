"""Runs read back from their folders."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adabelief.lab import tasks
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.engine import recorded
from adabelief.lab.engine.config import Config, short
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.recorded import Line
from adabelief.lab.optimizers import FORMS, METHODS
from adabelief.lab.task import Metric


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        path: Its folder.
        config: What was asked for.
        environment: Where it was run; empty before it has begun.
        metric: What its task is judged by.
        epochs: What was measured after each epoch.
        steps: The loss and the learning rate's factor every few steps.
        result: What came of it; None while it is unfinished.
        probe: What a probe saw of its optimizers, now and then; empty where there was none.
    """

    path: Path
    config: Config
    environment: Mapping[str, Any]
    metric: Metric
    epochs: tuple[Line, ...]
    steps: tuple[Line, ...]
    result: Mapping[str, Any] | None
    probe: tuple[Line, ...] = ()

    @property
    def label(self) -> str:
        """The optimizer and what was changed of its settings: `AdaBelief (lr=0.01)`."""
        config = self.config
        own = config.changes.keys() & config.settings.keys() - config.options.keys()
        changed = ", ".join(f"{name}={short(config.changes[name])}" for name in sorted(own))
        return f"{config.optimizer} ({changed})" if changed else config.optimizer

    @property
    def arguments(self) -> str:
        """The arguments of its optimizer, as in `lr=0.001, betas=(0.9, 0.999)`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.settings.items())

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to run; a diverged run is finished too."""
        return self.result is not None

    @property
    def started(self) -> bool:
        """Whether anything was run of it; of one that was refused, for lack of data say, there is a plan at most."""
        return bool(self.finished or self.epochs or self.steps)

    @property
    def diverged(self) -> bool:
        """Whether its training loss became infinite or no number."""
        return self.result is not None and bool(self.result["diverged"])

    @property
    def valid(self) -> bool:
        """Whether it came to its planned end: only such runs are averaged."""
        return self.finished and not self.diverged

    @property
    def outcome(self) -> Mapping[str, Any]:
        """The result of a run that has one."""
        if self.result is None:
            raise ValueError(f"{self.path} is unfinished and has no result")
        return self.result

    @property
    def test(self) -> float:
        """The test metric at the epoch that validation picked."""
        return float(self.outcome["test"])

    @property
    def tested(self) -> bool:
        """Whether the test set was read at the picked epoch and at the last one: a search leaves it alone."""
        return self.valid and math.isfinite(self.test) and math.isfinite(self.last_test)

    @property
    def last_test(self) -> float:
        """The test metric after the last epoch."""
        return float(self.outcome["last_test"])

    @property
    def validation(self) -> float:
        """The validation metric at its best."""
        return float(self.outcome["validation"])

    @property
    def test_examples(self) -> int | None:
        """How many examples the test metric is of, where the task says so."""
        count = self.epochs[-1].get("test_examples") if self.epochs else None
        return None if count is None else int(count)

    def curve(self, name: str) -> list[Any]:
        """What was measured, epoch by epoch; empty where it was not."""
        return [line[name] for line in self.epochs if name in line]

    @property
    def form(self) -> str:
        """How its optimizer steps: `fused` (one compiled call), `foreach` (a call per operation) or `loop`.

        What AdaBelief chooses by itself is noted with the environment; in runs of before that it is `default`.
        """
        if "keras" in CATALOGUE[self.config.task].extra:
            return "Keras's"
        settings = self.config.settings
        form = next((name for name in FORMS if settings.get(name)), None)
        form = form or ("loop" if settings.get("foreach") is False else METHODS[self.config.optimizer].usual_form)
        return str(self.environment.get("default_form", form)) if form == "default" else form

    def schedule(self) -> str:
        """What became of the learning rate, in words: `constant`, say; empty where nothing was recorded."""
        factors = [float(line["lr_factor"]) for line in self.steps]
        if not factors:
            return ""
        if drops := self.drops():
            divided = [f"by {factor:g} after epoch {epoch}" for epoch, factor in drops]
            return f"divided {', '.join(divided)}"
        peak = max(factors)
        top, last = factors.index(peak), factors[-1]
        rises = f"rises until step {int(self.steps[top]['step']):,}" if factors[0] < 0.9 * peak else ""
        falls = f"falls to {last / peak:.2g} of its height" if last < 0.99 * peak else ""
        return ", then ".join(filter(None, (rises, falls))) or "constant"

    def reached(self, target: float) -> tuple[int, float] | None:
        """The first epoch after which validation is as good as the target, and the seconds until then."""
        sign, seconds = 1.0 if self.metric.higher_is_better else -1.0, 0.0
        for line in self.epochs:
            seconds += line["epoch_seconds"]
            if sign * line[f"validation_{self.metric.name}"] >= sign * target:
                return int(line["epoch"]), seconds
        return None

    def drops(self) -> list[tuple[int, float]]:
        """After which epochs the learning rate was divided, and by what; empty where it changes all the time."""
        factors: dict[int, set[float]] = defaultdict(set)
        for line in self.steps:
            factors[int(line["epoch"])].add(line["lr_factor"])
        if any(len(values) > 1 for values in factors.values()):
            return []
        level = {epoch: next(iter(values)) for epoch, values in sorted(factors.items())}
        drops = [(e, level[e] / level[e + 1]) for e in level if level.get(e + 1, level[e]) != level[e]]
        return drops if len(drops) <= max(3, len(level) // 10) else []


def load(paths: Iterable[Path], skip: Callable[[str], object] | None = None) -> list[Run]:
    """Reads every run in or below some folders; what is there twice is read once.

    Args:
        paths: Folders of runs, such as `adabelief train --out` writes, or of one run.
        skip: Called with what is wrong with each run that cannot be read, so that it does not cost the others; without
            it, that is an error.

    Raises:
        ValueError: If a path has no run, a file is damaged and `skip` is None, or no run at all can be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        folders = [file.parent.resolve() for file in sorted(path.rglob("config.json"))]
        if not folders:
            raise ValueError(
                f"{path} has no run: there is no config.json in it or below; name a folder that `adabelief train` wrote"
            )
        found.update(dict.fromkeys(folders))
    runs, damaged = [], []
    for folder in found:
        try:
            runs.append(_read(RunFolder(folder)))
        except ValueError as error:
            if skip is None:
                raise
            damaged.append(str(error))
    if damaged and not runs:
        raise ValueError("; ".join(damaged))
    for message in damaged:
        if skip:
            skip(message)
    return runs


def _read(folder: RunFolder) -> Run:
    config = recorded.config(folder.config)
    task = tasks.task(config.task)
    metric = task.metric.of(config.options)
    epochs, steps = recorded.lines(folder.metrics, metric.name)
    return Run(
        path=folder.path,
        config=config,
        environment=recorded.environment(folder.environment),
        metric=metric,
        epochs=epochs,
        steps=steps,
        result=recorded.result(folder.result, folder.metrics, epochs),
        probe=recorded.probe(folder.probe),
    )
