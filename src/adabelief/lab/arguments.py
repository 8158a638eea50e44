"""What the command is told: read from text, refused by name where it is wrong, completed by the shell."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import typer

from adabelief.names import one_of


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes to one of these names."""
    known = list(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def meant(option: str, name: str, names: Iterable[str]) -> str:
    """The one of these names that was meant; raises typer.BadParameter where there is none."""
    try:
        return one_of(option, name, names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_change(text: str) -> tuple[str, Any]:
    """`name=value` as a name and a Python value; what is no Python literal is a string.

    Raises:
        typer.BadParameter: If there is no name or no `=`.
    """
    name, equals, value = text.partition("=")
    if not (equals and name.strip().replace("-", "_").isidentifier()):
        raise typer.BadParameter(f"{text!r} is no name=value; write, say, lr=3e-4", param_hint="--set")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # what Python's parser says of all sorts of text
        return name.strip(), value.strip()


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """The values of each name, from `name=value` of which a name may have several.

    Raises:
        typer.BadParameter: If a text has no name or no `=`.
    """
    grid: dict[str, list[Any]] = {}
    for name, value in map(parse_change, texts):
        grid.setdefault(name.lower().replace("-", "_"), []).append(value)
    return grid


@contextmanager
def named(option: str) -> Iterator[None]:
    """Puts the option before the message of what its value is refused for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option} {error}") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `0,1,2`.

    Raises:
        typer.BadParameter: Unless they are different whole numbers, at least 0.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(set(numbers)) < len(parts) or max(numbers) >= 2**63:
        raise typer.BadParameter(
            f"{text!r} is no list of different whole numbers, at least 0, with commas between; write, say, 0,1,2",
            param_hint="--seeds",
        )
    return tuple(numbers)


def parse_epochs(text: str) -> int:
    """A number of epochs.

    Raises:
        typer.BadParameter: Unless it is a whole number, at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is no whole number from 1 upwards; write, say, 20", param_hint="--epochs")
    return int(text)


def prepare(out: Path) -> None:
    """Makes the folder.

    Raises:
        typer.BadParameter: If that is not possible.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):  # of no lasting name: others may prepare the same folder now
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{str(out)!r} is no folder that can be written to ({error.strerror}); name another one",
            param_hint="--out",
        ) from None
