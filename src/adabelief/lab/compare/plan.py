"""The plan of a comparison: a TOML file, read and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from adabelief.lab import optimizers, tasks, values
from adabelief.lab.search import defaults
from adabelief.lab.search.space import COMMON, Arm, Space, known_names, over, read_tables, space
from adabelief.lab.task import Task
from adabelief.names import one_of, there_are
from adabelief.options import is_number

KEYS = ("title", "arms", "trials", "search_seed", "seeds", "contrasts", "reference", "workloads", "space")
WORKLOAD_KEYS = ("task", "model", "scale", "epochs", "set", "data", "margin", "arms", "space")


@dataclass(frozen=True)
class Workload:
    """What the arms are compared on.

    Attributes:
        name: What it is called.
        task: A task of the lab.
        margin: The largest difference of the metric that does not matter.
        space: The arms that are compared on it, and what of each varies.
        model: One of the task's models; None for its first.
        scale: One of the task's scales.
        epochs: Instead of the scale's.
        changes: What else is changed of the scale.
        data: Where the task's data is.
    """

    name: str
    task: str
    margin: float
    space: Space
    model: str | None = None
    scale: str = "small"
    epochs: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The arms by name."""
        return {arm.name: arm for arm in self.space.arms}

    @property
    def about(self) -> Task:
        """The task itself."""
        return tasks.task(self.task)


@dataclass(frozen=True)
class Plan:
    """All of a comparison.

    Attributes:
        title: Of its report.
        arms: All arms, in order.
        workloads: What they are compared on.
        trials: Of every arm on every workload, in the search.
        search_seed: Of the points, and of weights and batches in the search.
        seeds: Of the finals.
        contrasts: Pairs of arms: the first minus the second is judged.
        reference: The arm whose finals set the target of the time to target.
    """

    title: str
    arms: tuple[str, ...]
    workloads: tuple[Workload, ...]
    trials: int
    search_seed: int
    seeds: tuple[int, ...]
    contrasts: tuple[tuple[str, str], ...]
    reference: str

    def pairs(self, workload: Workload) -> list[tuple[str, str]]:
        """The contrasts of which a workload has both arms."""
        return [pair for pair in self.contrasts if set(pair) <= workload.arms.keys()]


def example() -> str:
    """A plan with comments on all that it can have."""
    return (resources.files("adabelief.lab.compare") / "example.toml").read_text()


def read(path: Path) -> Plan:
    """The plan of a TOML file.

    Raises:
        ValueError: If it is not there, no TOML or no plan; the message names file, place, value and remedy.
        OSError: If it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"PLAN.toml: there is no file {path}; `adabelief compare --example > {path}` writes one")
    return plan(read_tables(path, "adabelief compare --example"), str(path))


def plan(table: Mapping[str, Any], source: str = "plan") -> Plan:
    """The plan of a table as TOML has it.

    Raises:
        ValueError: If something in it is missing, unknown or refused.
    """
    _known(table, KEYS, source)
    arms = _names(table.get("arms"), f"{source}: arms")
    seeds = _seeds(table, source)
    spaces = _table(table.get("space", {}), f"{source}: space")
    for name in spaces:
        one_of(f"{source}: [space.{name}]", name, (*arms, COMMON))
    given = _table(table.get("workloads", {}), f"{source}: workloads")
    if not given:
        raise ValueError(f"{source}: there is no workload; add a table such as [workloads.digits]")
    workloads = tuple(_workload(name, own, arms, spaces, source) for name, own in given.items())
    _check_common(spaces.get(COMMON, {}), [arm for x in workloads for arm in x.space.arms], f"{source}: [space.common]")
    reference = table.get("reference", "AdamW" if "AdamW" in arms else arms[0])
    return Plan(
        title=str(table.get("title", "A comparison")),
        arms=arms,
        workloads=workloads,
        trials=_positive(table, "trials", source),
        search_seed=seeds[0],
        seeds=seeds[1:],
        contrasts=_contrasts(table.get("contrasts"), arms, source),
        reference=one_of(f"{source}: reference", str(reference), arms),
    )


def _workload(
    name: str, table: Any, arms: Sequence[str], spaces: Mapping[str, Mapping[str, Any]], source: str
) -> Workload:
    where = f"{source}: [workloads.{name}]"
    _folder(name, where)
    _known(_table(table, where), WORKLOAD_KEYS, where)
    if "task" not in table:
        raise ValueError(f'{where}: task is missing; write, say, task = "digits"')
    task = tasks.task(one_of(f"{where} task", str(table["task"]), tasks.FILES))
    model = one_of(f"{where} model", str(table.get("model", (task.models or ("",))[0])), task.models or ("",))
    scale = one_of(f"{where} scale", str(table.get("scale", "small")), task.scales(model))
    margin = table.get("margin")
    if not is_number(margin) or not margin > 0:
        raise ValueError(
            f"{where}: margin must be a number above 0, got {margin!r}; give the largest difference of the "
            f"{task.metric.called} that does not matter"
        )
    own = [one_of(f"{where} arms", arm, arms) for arm in _names(table.get("arms", list(arms)), f"{where} arms")]
    if len(own) < 2:
        raise ValueError(f"{where}: there is one arm, {own[0]}, and nothing to compare it with; give it another")
    own_spaces = _table(table.get("space", {}), f"{where} space")
    for arm in own_spaces:
        one_of(f"{where} space", arm, (*own, COMMON))
    made = Workload(
        name=name,
        task=task.name,
        margin=float(margin),
        space=_space(task.name, own, [spaces, own_spaces], where),
        model=model or None,
        scale=scale,
        epochs=_positive(table, "epochs", where) if "epochs" in table else None,
        changes=_table(table.get("set", {}), f"{where} set"),
        data=_data(table["data"], where) if "data" in table else None,
    )
    _check_common(own_spaces.get(COMMON, {}), made.space.arms, f"{where} space.common")
    return made


def _space(task: str, arms: Sequence[str], spaces: Sequence[Mapping[str, Any]], where: str) -> Space:
    """The task's own space, under what the plan says for all arms, under what it says for each."""
    tables: dict[str, dict[str, Any]] = {}
    for arm in arms:
        own = [_table(each.get(arm, {}), f"{where} space of {arm}") for each in spaces]
        named = [table["optimizer"] for table in own if "optimizer" in table]
        optimizer = one_of(f"{where}: the arm", str(named[-1] if named else arm), optimizers.METHODS)
        known = known_names(optimizer)
        table: dict[str, Any] = defaults.default(task, [optimizer])[optimizer]
        for each in spaces:
            table = over(table, {name: x for name, x in each.get(COMMON, {}).items() if name in known})
        for each in own:
            table = over(table, each)
        tables[arm] = {**table, "optimizer": optimizer}
    return space(tables, where)


def _check_common(common: Mapping[str, Any], arms: Sequence[Arm], where: str) -> None:
    known = {name for arm in arms for name in known_names(arm.optimizer)}
    for name in common:
        if name not in known:
            raise ValueError(f"{where} {name}: no arm has such a setting; {there_are(name, sorted(known))}")


def _data(value: Any, where: str) -> Path:
    if not isinstance(value, str):
        raise ValueError(f'{where}: data must be the path of a folder, got {value!r}; write, say, data = "cifar"')
    return Path(value)


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise ValueError(f"{where}: there is no {key!r} in a plan here; {there_are(key, keys)}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a table, got {value!r}; `adabelief compare --example` prints a plan")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError(f'{where} must be a list of names, got {value!r}; write, say, ["AdaBelief", "AdamW"]')
    for name in value:
        _folder(name, where)
        if value.count(name) > 1:
            raise ValueError(f"{where} has {name} twice; for a second space of an optimizer take a name of your own")
    return tuple(value)


def _folder(name: str, where: str) -> None:
    """Names become folders."""
    if not re.fullmatch(r"[\w][\w.+=-]*", name):
        raise ValueError(f"{where}: {name!r} is no name for a folder; take letters, digits and . + = - _ alone")


def _positive(table: Mapping[str, Any], name: str, where: str) -> int:
    number = values.read(f"{where}: {name}", table.get(name), int)
    if number < 1:
        raise ValueError(f"{where}: {name} must be at least 1, got {number}")
    return int(number)


def _seeds(table: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The search's seed, and then those of the finals."""
    searched, fresh = table.get("search_seed", 0), table.get("seeds")
    if not isinstance(fresh, list) or not fresh:
        raise ValueError(f"{where}: seeds must be a list of whole numbers, got {fresh!r}; write, say, [1, 2, 3]")
    numbers = [
        values.read(f"{where}: {'seeds' if i else 'search_seed'}", x, int) for i, x in enumerate((searched, *fresh))
    ]
    if numbers[0] in numbers[1:]:
        raise ValueError(f"{where}: seeds has {numbers[0]}, the search's own; leave it away, or change search_seed")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{where}: seeds has a number twice, got {fresh}; a second run of a seed is no other run")
    return tuple(numbers)


def _contrasts(value: Any, arms: Sequence[str], where: str) -> tuple[tuple[str, str], ...]:
    if value is None:  # the first arm against each of the others
        return tuple((arms[0], other) for other in arms[1:])
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(
                f'{where}: contrasts must be pairs of arms, got {pair!r}; write, say, [["AdaBelief", "AdamW"]]'
            )
    named = [tuple(one_of(f"{where}: contrasts", str(arm), arms) for arm in pair) for pair in pairs]
    for pair in named:
        if sum(set(pair) == set(other) for other in named) > 1:  # it would widen every interval
            raise ValueError(f"{where}: contrasts has {' and '.join(pair)} twice; leave one of them away")
    return tuple((first, second) for first, second in named)
