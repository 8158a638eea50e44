"""The tasks, a family in each file, and which file has which."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.task import Task
from adabelief.names import one_of

FILES = {name: entry.file for name, entry in CATALOGUE.items()}
"""Which file of this folder has a task."""


def task(name: str) -> Task:
    """The task of a name, in whatever case.

    Raises:
        ValueError: If there is none.
    """
    name = one_of("TASK", name, FILES)
    tasks: Mapping[str, Task] = importlib.import_module(f"{__name__}.{FILES[name]}").TASKS
    return tasks[name]
