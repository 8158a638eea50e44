"""Experiments: the runs that can be compared with each other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adabelief.lab import tasks
from adabelief.lab.analysis.runs import Run
from adabelief.lab.engine.config import Config, short
from adabelief.lab.optimizers import METHODS
from adabelief.lab.task import Metric, Scale, Task

CONDITIONS = ("task", "model", "scale", "epochs", "batch_size", "precision", "accumulate", "options")
"""Fields of a configuration that runs have in common which can be compared."""


DATA = ("images", "text", "corpus", "environment")
"""The options that say what a task learns from."""


PLACE = ("processor", "cores", "threads", "device", "processes", "system")
"""Fields of an environment that its times depend on."""


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
            label if labels.count(label) == 1 else f"{runs[0].config.optimizer} ({runs[0].arguments})": tuple(runs)
            for (label, _), runs in grouped.items()
        }

    @cached_property
    def valid(self) -> Mapping[str, tuple[Run, ...]]:
        """The runs that came to their planned end, by label; a label without one is left out."""
        valid = {label: tuple(run for run in runs if run.valid) for label, runs in self.groups.items()}
        return {label: runs for label, runs in valid.items() if runs}

    @cached_property
    def samples(self) -> Mapping[str, list[list[str]]]:
        """What was generated after each epoch, as PNG files in base64, in the first valid run of each label.

        Empty where the task generates nothing.
        """
        generated = {label: runs[0].curve("samples") for label, runs in self.valid.items()}
        return {label: epochs for label, epochs in generated.items() if epochs}

    @property
    def scale(self) -> Scale:
        """The scale that it was run at."""
        config = self.config
        return self.task.scales(config.model).get(config.scale) or Scale(config.epochs, config.batch_size)

    @property
    def smoke(self) -> bool:
        """Whether it was run only to show that everything runs."""
        return self.config.scale == "smoke"

    @property
    def plays(self) -> bool:
        """Whether each run learns from what its own agent plays, instead of from examples that all runs share."""
        return "environment" in self.config.options

    def asked_for(self) -> list[str]:
        """What the runs have otherwise than their scale: it was asked for."""
        config, scale = self.config, self.scale
        own = {"epochs": config.epochs, "batch_size": config.batch_size, **config.options}
        usual = {"epochs": scale.epochs, "batch_size": scale.batch_size, **scale.options}
        return [
            f"{name.replace('_', ' ')} {without_folders(value)} instead of this scale's {usual.get(name)}"
            for name, value in own.items()
            if value != usual.get(name)
        ]

    @property
    def repeated(self) -> bool:
        """Whether there are several seeds of some label."""
        return any(len(runs) > 1 for runs in self.valid.values())

    @property
    def same_place(self) -> bool:
        """Whether all runs were made on the same kind of machine, so that their times can be compared."""
        return len({tuple(str(run.environment.get(name)) for name in PLACE) for run in self.runs}) == 1


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


def other_data(task: Task, config: Config) -> Mapping[str, tuple[Any, Any]]:
    """What a run learns from where the published ones learn from something else: by option, its own and theirs."""
    paper = task.scales(config.model).get("paper")
    return {
        name: (config.options[name], paper.options[name])
        for name in DATA
        if paper and name in config.options and config.options[name] != paper.options[name]
    }


def what_ran(task: Task, config: Config) -> list[str]:
    """The model of a run and, where it is not that of the published experiment, what it learns from.

    An environment is the model of its task: a smoke run of HalfCheetah plays Pendulum, and is called that.

    Example:
        >>> from adabelief.lab.engine.config import plan
        >>> task = tasks.task("rl-sac")
        >>> [what_ran(task, config) for scale in ("smoke", "small") for config in plan(task, scale=scale)]
        [['Pendulum-v1'], ['HalfCheetah-v5']]
    """
    other = other_data(task, config)
    if "environment" in other:
        return [other["environment"][0]]
    return [*filter(None, [config.model]), *(str(own) for own, _ in other.values())]


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


def _names(configs: Sequence[Config]) -> list[str]:
    """A name for each; where task, model and scale are the same, with what differs."""
    names = []
    for config in configs:
        ran = what_ran(tasks.task(config.task), config)
        rivals = [_flat(other) for other in configs if other.experiment == config.experiment]
        own = _flat(config)
        differing = [
            f"{name}={short(own[name])}" for name in own if len({str(rival.get(name)) for rival in rivals}) > 1
        ]
        names.append(", ".join(filter(None, (config.task, *ran, config.scale, *differing))))
    return names


def _flat(config: Config) -> dict[str, Any]:
    return {**{name: getattr(config, name) for name in CONDITIONS if name != "options"}, **config.options}
