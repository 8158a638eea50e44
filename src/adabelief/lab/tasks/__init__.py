"""The tasks, a family in each file, and which file has which."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from adabelief.lab.task import Task

FILES = {
    "toy": "toy",
    "digits": "digits",
    "cifar10": "images",
    "cifar100": "images",
    "imagenet": "images",
    "ptb-lstm": "language",
    "charlm": "language",
    "wgan": "gans",
    "wgan-gp": "gans",
    "sngan": "gans",
    "dcgan": "gans",
    "translation": "translation",
    "vit": "vit",
    "keras-cnn": "keras_cnn",
    "rl-sac": "rl",
    "rl-atari": "rl",
}
"""Which file of this folder has a task."""


def task(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in FILES:
        raise ValueError(f"TASK: there is no {name!r}; there are {', '.join(FILES)}")
    tasks: Mapping[str, Task] = importlib.import_module(f"{__name__}.{FILES[name]}").TASKS
    return tasks[name]
