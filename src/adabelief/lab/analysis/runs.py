"""Runs read back from their folders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from adabelief.lab import tasks
from adabelief.lab.engine.config import Config, short
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.optimizers import METHODS
from adabelief.lab.task import Metric

Line = Mapping[str, Any]


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
    """

    path: Path
    config: Config
    environment: Mapping[str, Any]
    metric: Metric
    epochs: tuple[Line, ...]
    steps: tuple[Line, ...]
    result: Mapping[str, Any] | None

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


def load(paths: Iterable[Path]) -> list[Run]:
    """Reads every run in or below some folders; what is there twice is read once.

    Args:
        paths: Folders of runs, such as `adabelief train --out` writes, or of one run.

    Raises:
        ValueError: If a path has no run, or a file is damaged.
    """
    found: dict[Path, None] = {}
    for path in paths:
        folders = [file.parent.resolve() for file in sorted(path.rglob("config.json"))]
        if not folders:
            raise ValueError(
                f"{path} has no run: there is no config.json in it or below; name a folder that `adabelief train` wrote"
            )
        found.update(dict.fromkeys(folders))
    return [_read(RunFolder(folder)) for folder in found]


def _read(folder: RunFolder) -> Run:
    config = _config(folder.config)
    lines = _lines(folder.metrics)
    epochs = tuple(line for line in lines if "train_loss" in line)
    result = _json(folder.result) if folder.result.exists() else None
    if result is not None and len(epochs) < int(result["best_epoch"]):
        raise ValueError(f"{folder.metrics} is damaged: it has no epoch {result['best_epoch']}, which is the best one")
    return Run(
        path=folder.path,
        config=config,
        environment=_json(folder.environment) if folder.environment.exists() else {},
        metric=tasks.task(config.task).metric.of(config.options),
        epochs=epochs,
        steps=tuple(line for line in lines if "train_loss" not in line),
        result=result,
    )


def _config(path: Path) -> Config:
    content = _json(path)
    missing = [field.name for field in fields(Config) if field.name not in content]
    if missing:
        raise ValueError(f"{path} is no configuration of a run: it has no {missing[0]!r}")
    config = Config(**{field.name: content[field.name] for field in fields(Config)})
    if config.task not in tasks.FILES or config.optimizer not in METHODS:
        unknown = config.optimizer if config.task in tasks.FILES else config.task
        raise ValueError(f"{path} names {unknown!r}, which this version of the lab does not have")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in config.settings.items()}
    return Config(**{**vars(config), "settings": settings})


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object")
    return content


def _lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")  # after the last line feed there is nothing, or a line being written
    lines: list[Line] = []
    for number, text in enumerate(whole, 1):
        try:
            lines.append({name: _number(value) for name, value in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from None
    return lines


def _number(value: Any) -> Any:
    """Nan and inf are written as strings; lists, such as the path of a walk, stay as they are."""
    return value if isinstance(value, list) else float(value)
