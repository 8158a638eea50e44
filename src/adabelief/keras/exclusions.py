"""Variables that are excluded from weight decay, as a saved optimizer remembers them: by their paths.

A path is not the same for ever: a loaded model drops its own name from it ("sequential/dense/bias" is "dense/bias"),
and a model that is made anew may number its layers otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple


class Exclusions(NamedTuple):
    """What a saved optimizer knows of its exclusions."""

    variables: tuple[tuple[int, str], ...] = ()
    """Index and short name of each excluded variable."""
    paths: tuple[str, ...] = ()
    """Paths of all variables; older versions saved none."""


def path(variable: Any) -> str:
    """The path that names a variable in its model; the name of a variable that has none."""
    return str(getattr(variable, "path", variable.name))


def located(saved: Exclusions, variables: list[Any]) -> tuple[set[int], list[str]]:
    """The indices of what was saved as excluded among the variables of a rebuilt optimizer, and what is gone of it."""
    now = [path(v) for v in variables]
    ends = defaultdict(list)
    for i, each in enumerate(now):
        for end in _ends(each):
            ends[end].append(i)

    def candidates(name: str) -> list[int]:
        same = [i for i in ends.get(name, ()) if now[i] == name]
        return same or ends.get(name) or [i for end in _ends(name) for i in ends.get(end, ()) if now[i] == end]

    renamed = not any(map(candidates, saved.paths))
    found, gone = set(), []
    for index, name in saved.variables:
        if renamed:  # what is left is the order
            alike = len(saved.paths) in (0, len(now)) and index < len(now) and variables[index].name == name
            at = [index] if alike else []
        else:
            at = candidates(saved.paths[index])
            at = at if len(at) == 1 else [i for i in at if i == index]
        found.update(at)
        if not at:
            gone.append(saved.paths[index] if saved.paths else name)
    return found, gone


def _ends(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns is found in a variable's short name."""
    return any(re.search(pattern, name) for pattern in patterns)
