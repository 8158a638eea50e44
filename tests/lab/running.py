"""Runs by the engine, whole and interrupted, and what is left of them."""

import json

import pytest
import torch
from accelerate import Accelerator

from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.observers import Checkpoints
from adabelief.lab.engine.run import Observer, train


class Watching(Observer):
    """Calls a function after every step."""

    def __init__(self, after_step):
        self.after_step = after_step


def go(path, config, task, *, watch=lambda run: None, checkpoint_seconds=60.0, **options):
    """A run, or what is missing of it: its result and its folder."""
    folder, observers = RunFolder(path / config.folder), [Watching(watch), Checkpoints(checkpoint_seconds)]
    with folder.locked():
        return train(task, config, folder, Accelerator(cpu=True), observers=observers, **options), folder


def numbers(folder: RunFolder) -> list[dict]:
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(("_seconds", "_time"))} for line in lines]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Of all modules, as they were in the end."""
    modules = torch.load(folder.checkpoint, weights_only=True)["modules"]
    return {f"{name}.{key}": x for name, state in modules.items() for key, x in state.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    """In place of whatever ends a process."""


def cut(path, config, task, when, **options) -> None:
    """A run that stops at the first step of which `when(steps, run)` holds; steps count from 1."""
    steps = 0

    def watch(run):
        nonlocal steps
        steps += 1
        if when(steps, run):
            raise Stop

    with pytest.raises(Stop):
        go(path, config, task, watch=watch, **options)


def goes_on(path, config, task, at, *, whole: RunFolder, checkpoint_seconds=0.0):
    """Asserts that a run which stops at a step, and is started again, ends as the whole one; returns its result.

    With 0 seconds between checkpoints there is one of that very step, otherwise of the epoch before or none.
    """
    cut(path, config, task, lambda steps, run: steps == at, checkpoint_seconds=checkpoint_seconds)
    torch.manual_seed(12345)  # whatever happens in between
    result, folder = go(path, config, task)
    assert numbers(folder) == numbers(whole)
    assert equal(weights(folder), weights(whole))
    return result
