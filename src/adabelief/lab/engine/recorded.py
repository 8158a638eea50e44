"""The files of a run, read and checked: what is wrong with one is said with its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from adabelief.lab import tasks
from adabelief.lab.engine.config import Config
from adabelief.lab.optimizers import METHODS

Line = Mapping[str, Any]

KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Mapping": (dict,),
}
"""What JSON has for a type."""

RECORDS: Mapping[str, Mapping[str, str]] = {
    "configuration": {field.name: str(field.type).partition("[")[0] for field in fields(Config)},
    "result": {
        **{"epochs": "int", "diverged": "bool", "parameters": "int", "best_epoch": "int"},
        **dict.fromkeys(("validation", "test", "last_test"), "float"),
        **dict.fromkeys(("optimizer_seconds", "step_seconds", "run_seconds"), "float"),
    },
    "environment": {
        **{"python": "str", "packages": "Mapping", "processor": "str", "system": "str", "device": "str"},
        **{"cores": "int", "threads": "int", "processes": "int"},
    },
}
"""What a run's files have to have, by what they are."""

PROBE = ("run_step", "module", "verdict", "notes", "all", "groups", "layers")
"""What a line of a probe has to have."""


def read(path: Path, what: str, remedy: str = "") -> dict[str, Any]:
    """One of a run's JSON files.

    Args:
        path: The file.
        what: Which of `RECORDS` it is.
        remedy: What to do where it is damaged, for the message.

    Raises:
        ValueError: If it cannot be read, is damaged, or has not what it has to have.
    """
    try:
        content = _json(path)
        kinds = RECORDS[what]
        content |= {name: _float(content[name]) for name, kind in kinds.items() if kind == "float" and name in content}
        _check(path, content, kinds, what)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None if remedy else error
    return content


def config(path: Path) -> Config:
    """A run's configuration.

    Raises:
        ValueError: If there is none in the file, or it names what this version of the lab does not have.
    """
    content = read(path, "configuration")
    found = Config(**{field.name: content[field.name] for field in fields(Config)})
    if found.task not in tasks.FILES or found.optimizer not in METHODS:
        unknown = found.optimizer if found.task in tasks.FILES else found.task
        raise ValueError(f"{path} names {unknown!r}, which this version of the lab does not have")
    models = tasks.task(found.task).models or ("",)
    if found.model not in models:
        raise ValueError(f"{path} names {found.model!r}, which this version of the lab does not have")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in found.settings.items()}
    return Config(**{**vars(found), "settings": settings})


def environment(path: Path) -> dict[str, Any]:
    """Where a run was made; empty where it has not begun."""
    if not path.exists():
        return {}
    content = read(path, "environment")
    command = content.get("command")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise ValueError(f"{path} is damaged: its 'command' is no list of words")
    return content


def result(path: Path, metrics: Path, epochs: Sequence[Line]) -> dict[str, Any] | None:
    """What came of a run whose epochs are these; None while it is unfinished."""
    if not path.exists():
        return None
    content = read(path, "result")
    if len(epochs) < content["best_epoch"]:
        raise ValueError(f"{metrics} is damaged: it has no epoch {content['best_epoch']}, which is the best one")
    return content


def lines(path: Path, metric: str) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """What was measured after each epoch, the metric of that name for one, and every few steps."""
    if not path.exists():
        return (), ()
    measured = ("epoch", "epoch_seconds", f"validation_{metric}", f"test_{metric}")
    *whole, _ = _text(path).split("\n")  # after the last line feed there is nothing, or a line being written
    found: list[Line] = []
    for number, text in enumerate(whole, 1):
        try:
            found.append({name: _number(value) for name, value in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from None
    for number, line in enumerate(found, 1):
        missing = [
            name for name in (measured if _of_epoch(line) else ("step", "epoch", "lr_factor")) if name not in line
        ]
        if missing:
            raise ValueError(f"{path} is damaged in line {number}: it has no {missing[0]!r}")
    return tuple(filter(_of_epoch, found)), tuple(line for line in found if not _of_epoch(line))


def probe(path: Path) -> tuple[Line, ...]:
    """What a probe saw in a run; empty where there was none.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.exists():
        return ()
    *whole, _ = _text(path).split("\n")  # after the last line feed there is nothing, or a line being written
    found: list[Line] = []
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
            missing = [name for name in PROBE if name not in line]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from None
        if missing:
            raise ValueError(f"{path} is damaged in line {number}: it has no {missing[0]!r}")
        found.append(line)
    return tuple(found)


def _of_epoch(line: Line) -> bool:
    return "train_loss" in line


def _check(path: Path, content: Mapping[str, Any], kinds: Mapping[str, str], what: str) -> None:
    for name, kind in kinds.items():
        if name not in content:
            raise ValueError(f"{path} is no {what} of a run: it has no {name!r}")
        value, bools = content[name], kind == "bool"
        if not isinstance(value, KINDS[kind]) or isinstance(value, bool) != bools:
            raise ValueError(f"{path} is no {what} of a run: its {name!r} is {value!r}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of bytes that are no text
        raise ValueError(f"{path} is damaged: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object")
    return content


def _float(value: Any) -> Any:
    """A number, also one that is written as a string; what is none stays, and is told as what it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _number(value: Any) -> Any:
    """Nan and inf are written as strings; lists, such as the path of a walk, stay as they are."""
    return value if isinstance(value, list) else float(value)
