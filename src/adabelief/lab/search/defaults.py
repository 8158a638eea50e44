"""The space of a task where none is given, and how a space is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adabelief.lab.optimizers import METHODS
from adabelief.lab.search.space import COMMON, Space, known_names, over, read, read_tables, space
from adabelief.names import one_of

SPACES = Path(__file__).with_name("spaces.toml")

HEAD = """\
# A space of `adabelief tune {task} --space FILE`: a table for each arm.
# A plain value is fixed. {{ low, high }} varies on a log scale, with log = false on a linear one; {{ choices = [...] }}
# floor: of the denominator, the same for every arm (eps follows); beta1 and beta2 make betas, their scale is that of
# 1 - beta; independent_decay instead of weight_decay: what a step shrinks the weights by, whatever the learning rate.
# [common] would hold for every arm; optimizer = "NAME" lets an arm have another name than its optimizer's.
"""


ARMS = ("AdaBelief", "AdamW")
"""Where nobody says which."""


def arms(task: str, names: Sequence[str] = (), path: Path | None = None) -> tuple[Space, str]:
    """The arms of a search, and their space as TOML.

    Args:
        task: The task.
        names: Arms of a file, or optimizers; by default all of a file, or `ARMS`.
        path: A file; without one it is the default space of the task.

    Raises:
        ValueError: If there is no such arm, or the file is no space.
        OSError: If the file cannot be read.
    """
    if path is None:
        tables = default(task, [one_of("--optimizer", name, METHODS) for name in names or ARMS])
        return space(tables), text(task, tables)
    found = read(path)
    return (found.only(names) if names else found), path.read_text()


def default(task: str, optimizers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The default space of a task: a table for each of some optimizers."""
    written = read_tables(SPACES)
    here = written["tasks"].get(task, {})
    found = {}
    for name in optimizers:
        known = known_names(name)
        table: dict[str, Any] = {}
        for more in (written[COMMON], written["optimizers"].get(name, {}), here.get(COMMON, {}), here.get(name, {})):
            table = over(table, {key: value for key, value in more.items() if key in known})
        found[name] = table
    return found


def text(task: str, arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A space as TOML."""
    lines = [HEAD.format(task=task)]
    for name, table in arms.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    return json.dumps(value)
