"""What the command lists without any framework: tasks, published settings, names and values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.table import Table

from adabelief.lab.catalogue import CATALOGUE, Entry
from adabelief.settings import FrontEnd, Setting

FEW = 3
"""Models that the table of all tasks has room for."""


def tasks() -> Table:
    """All tasks, a row each."""
    listed = table("task", "what it is", "models", "data")
    for name, entry in CATALOGUE.items():
        data = "" if not entry.folder else "download" if entry.downloads else "--data"
        what, *_ = re.split("[,:;] ", entry.summary, maxsplit=1)
        listed.add_row(name, what, _few(entry.models), data)
    return listed


def entry(name: str, entry: Entry) -> Table:
    """What is known of a task before it is loaded."""
    extra = "" if entry.extra == "lab" else f"pip install 'adabelief[{entry.extra}]'"
    rows = {"--model": ", ".join(entry.models), "--data": entry.data, "needs": extra}
    return pairs({name: entry.summary, **rows}.items())


def settings(rows: list[Setting]) -> Table:
    """Rows of published settings."""
    names = list(rows[0].as_arguments())
    listed = table("task", *(name.replace("_", "_\n") for name in names))
    for row in rows:
        listed.add_row(row.task, *(str(value) for value in row.as_arguments().values()))
    return listed


def python_lines(setting: Setting) -> Iterator[str]:
    """A setting as Python, an import and a call, for each front-end."""
    in_jax = "adabeliefw" if setting.weight_decouple else "adabelief"  # where it is no option
    front_ends: dict[FrontEnd, tuple[str, str, str]] = {
        "torch": ("adabelief", "AdaBelief", "model.parameters(), "),
        "keras": ("adabelief.keras", "AdaBelief", ""),
        "optax": ("adabelief.optax", in_jax, ""),
    }
    for front_end, (module, name, first) in front_ends.items():
        arguments = setting.as_arguments(front_end)
        if front_end == "optax":
            del arguments["weight_decouple"]
        yield f"from {module} import {name}"
        yield f"{name}({first}{', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what they stand for; empty ones are left out."""
    listed = Table(box=None, show_header=False, pad_edge=False)
    listed.add_column(style="bold", no_wrap=True)
    listed.add_column()
    for name, value in rows:
        if value:
            listed.add_row(name, value)
    return listed


def table(*header: str, title: str | None = None) -> Table:
    """An empty table, whose first column is never cut."""
    listed = Table(*header, box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    listed.columns[0].no_wrap = True
    listed.title, listed.title_justify, listed.title_style = title, "left", ""
    return listed


def _few(models: tuple[str, ...]) -> str:
    more = f" and {len(models) - FEW} more" if len(models) > 2 * FEW else ""
    return ", ".join(models[:FEW] if more else models) + more
