"""Runs read back from their folders, the experiments that they belong to, and `results.csv`."""

from __future__ import annotations

import base64
import csv as _csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adabelief.lab import tasks
from adabelief.lab.optimizers import METHODS
from adabelief.lab.runs import PACKAGES, Config, Folder
from adabelief.lab.tasks import Metric, Task
from adabelief.lab.tasks.toy import Walk

Line = Mapping[str, Any]

CONDITIONS = ("task", "model", "scale", "epochs", "batch_size", "precision", "accumulate", "options")
"""Of a configuration: what runs have in common that can be compared."""

PLACE = ("processor", "cores", "threads", "device", "processes", "system")
"""Of an environment: what its times depend on."""


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
        changed = ", ".join(f"{name}={_short(config.changes[name])}" for name in sorted(own))
        return f"{config.optimizer} ({changed})" if changed else config.optimizer

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to run; a diverged run is finished too."""
        return self.result is not None

    @property
    def diverged(self) -> bool:
        """Whether its training loss became infinite or no number."""
        return self.result is not None and bool(self.result["diverged"])

    @property
    def sound(self) -> bool:
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


@dataclass(frozen=True)
class Experiment:
    """Runs that can be compared: they differ in the optimizer, its settings and the seed alone.

    Attributes:
        name: Task, model and scale, and what else sets it apart from the others: `cifar10, resnet34, small`.
        task: What was run.
        runs: In the order of optimizers and seeds.
    """

    name: str
    task: Task
    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        """What its runs have in common, and whatever else its first one has."""
        return self.runs[0].config

    @property
    def metric(self) -> Metric:
        """What the task is judged by."""
        return self.task.metric.of(self.config.options)

    @property
    def measured(self) -> str:
        """The metric with its unit: `accuracy, %`."""
        return ", ".join(filter(None, (self.metric.called, self.metric.unit)))

    @cached_property
    def groups(self) -> Mapping[str, tuple[Run, ...]]:
        """All runs of each optimizer with the same settings, by a label that no two share."""
        grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in self.runs:
            grouped[run.label, json.dumps(run.config.settings, sort_keys=True)].append(run)
        labels = [label for label, _ in grouped]
        return {
            label if labels.count(label) == 1 else f"{runs[0].config.optimizer} ({settings_text(runs[0])})": tuple(runs)
            for (label, _), runs in grouped.items()
        }

    @cached_property
    def sound(self) -> Mapping[str, tuple[Run, ...]]:
        """The runs that came to their planned end, by label; a label without one is left out."""
        sound = {label: tuple(run for run in runs if run.sound) for label, runs in self.groups.items()}
        return {label: runs for label, runs in sound.items() if runs}

    @cached_property
    def samples(self) -> Mapping[str, list[list[str]]]:
        """What was generated after each epoch, as PNG files in base64, in the first sound run of each label.

        Empty where the task generates nothing.
        """
        generated = {label: runs[0].curve("samples") for label, runs in self.sound.items()}
        return {label: epochs for label, epochs in generated.items() if epochs}

    @property
    def repeated(self) -> bool:
        """Whether there are several seeds of some label."""
        return any(len(runs) > 1 for runs in self.sound.values())

    @property
    def same_place(self) -> bool:
        """Whether all runs were made on the same kind of machine, so that their times can be compared."""
        return len({tuple(str(run.environment.get(name)) for name in PLACE) for run in self.runs}) == 1


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
    return [_read(Folder(folder)) for folder in found]


def experiments(runs: Iterable[Run]) -> list[Experiment]:
    """Sorts runs into experiments.

    Raises:
        ValueError: If two runs are of the same configuration: the second is no second seed.
    """
    order = list(METHODS)
    ordered = sorted(runs, key=lambda run: (order.index(run.config.optimizer), run.label, run.config.seed))
    by_conditions: dict[str, list[Run]] = defaultdict(list)
    seen: dict[str, Run] = {}
    for run in ordered:
        twin = seen.setdefault(json.dumps({**vars(run.config), "changes": None}, sort_keys=True), run)
        if twin is not run:
            raise ValueError(f"{twin.path} and {run.path} have the same run; leave one of them out")
        conditions = [getattr(run.config, name) for name in CONDITIONS]
        by_conditions[json.dumps(conditions, sort_keys=True)].append(run)
    groups = sorted(by_conditions.values(), key=lambda group: group[0].config.experiment)
    names = _names([group[0].config for group in groups])
    return [
        Experiment(name, tasks.task(group[0].config.task), tuple(group))
        for name, group in zip(names, groups, strict=True)
    ]


def settings_text(run: Run) -> str:
    """The arguments of a run's optimizer, as in `lr=0.001, betas=(0.9, 0.999)`."""
    return ", ".join(f"{name}={value!r}" for name, value in run.config.settings.items())


def pixels(png: str) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) of a generated image, which is kept as a PNG file in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def without_folders(argument: Any) -> Any:
    """An argument of a command, or an option, as others may see it: of an absolute path the last part alone.

    Example:
        >>> without_folders("features=/home/ada/networks/a.pt2"), without_folders("/data/cifar10"), without_folders(3)
        ('features=a.pt2', 'cifar10', 3)
    """
    if not isinstance(argument, str):
        return argument
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def csv(runs: Sequence[Run]) -> str:
    """`results.csv`: a row for each run, in order of experiments; what a run does not have yet is empty."""
    grouped = experiments(runs)
    return _table([_row(experiment, run) for experiment in grouped for run in experiment.runs])


def walks_csv(walks: Sequence[Walk]) -> str:
    """`walks.csv`: a row for each walk over a toy function."""
    return _table(
        [
            {
                "function": walk.function,
                "optimizer": walk.optimizer,
                "settings": json.dumps(walk.settings),
                "steps": walk.steps,
                "arrival_step": walk.arrival,
                "last_distance": walk.distance[-1],
                "last_value": walk.value[-1],
            }
            for walk in walks
        ]
    )


def _row(experiment: Experiment, run: Run) -> dict[str, Any]:
    config, result, environment = run.config, run.result or {}, run.environment
    return {
        "experiment": experiment.name,
        "optimizer": config.optimizer,
        "settings": json.dumps(config.settings),
        "seed": config.seed,
        **{name: getattr(config, name) for name in CONDITIONS if name != "options"},
        "options": json.dumps({name: without_folders(value) for name, value in config.options.items()}),
        "finished": run.finished,
        "diverged": run.diverged,
        "epochs_run": len(run.epochs),
        "metric": " ".join(filter(None, (run.metric.name, run.metric.unit))),
        "best_epoch": result.get("best_epoch"),
        "validation": result.get("validation"),
        "test": result.get("test"),
        "last_test": result.get("last_test"),
        "last_train_loss": run.epochs[-1]["train_loss"] if run.epochs else None,
        "validation_examples": run.epochs[-1].get("validation_examples") if run.epochs else None,
        "test_examples": run.test_examples,
        "parameters": result.get("parameters"),
        "optimizer_seconds_per_step": result.get("optimizer_seconds"),
        "seconds_per_step": result.get("step_seconds"),
        "run_seconds": result.get("run_seconds"),
        "python": environment.get("python"),
        **{name: environment.get("packages", {}).get(name) for name in PACKAGES},
        "commit": environment.get("commit"),
        **{name: environment.get(name) for name in PLACE},
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = _csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _read(folder: Folder) -> Run:
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


def _names(configs: Sequence[Config]) -> list[str]:
    """A name for each; where task, model and scale are the same, with what differs."""
    names = []
    for config in configs:
        rivals = [_flat(other) for other in configs if other.experiment == config.experiment]
        own = _flat(config)
        differing = [
            f"{name}={_short(own[name])}" for name in own if len({str(rival.get(name)) for rival in rivals}) > 1
        ]
        names.append(", ".join(filter(None, (config.task, config.model, config.scale, *differing))))
    return names


def _flat(config: Config) -> dict[str, Any]:
    return {**{name: getattr(config, name) for name in CONDITIONS if name != "options"}, **config.options}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value).replace(" ", "")


def _number(value: Any) -> Any:
    """Nan and inf are written as strings; lists, such as the path of a walk, stay as they are."""
    return value if isinstance(value, list) else float(value)
