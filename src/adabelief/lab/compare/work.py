"""The work of a comparison: workers that take runs from the plan until none is left.

There is no list of who does what. Every worker goes through the runs in the plan's order, and takes the first that is
not finished and that nobody is at: a run's folder has a lock, which the system frees when its process dies, and a
checkpoint, from which the next worker goes on. So workers can be started, stopped and killed at any time, on all
machines that share the folder, and the numbers stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from adabelief.lab import files
from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.trials import FAILURE, FINALS, Trial, finals, read, searches, winners
from adabelief.lab.console import silent_console
from adabelief.lab.engine import session
from adabelief.lab.engine.observers import HoldingBack
from adabelief.lab.engine.workers import hire

POLL = 0.3
"""Seconds between two looks at what others are at."""


class Place(NamedTuple):
    """Where a comparison is made: its folder, without an accelerator or with one, and how often it is saved."""

    out: Path
    cpu: bool = False
    checkpoint_seconds: float = 60.0


def run(trial: Trial, place: Place) -> bool:
    """Runs what is left of a trial; says whether it is finished, which it is not where another process is at it.

    Raises:
        ValueError: If a file of the run is damaged, or the task refuses its data.
        OSError: If data cannot be read or a file cannot be written.
    """
    if is_finished(trial, place.out):
        return True
    try:
        done = session.run(
            *(trial.workload.about, [trial.config], place.out / trial.place),
            data=trial.workload.data,
            cpu=place.cpu,
            checkpoint_seconds=place.checkpoint_seconds,
            observers=[HoldingBack(final=trial.stage == FINALS)],
            console=silent_console(),
        )
    except (RuntimeError, ArithmeticError) as error:  # of the training itself: it would fail again
        (place.out / trial.folder).mkdir(parents=True, exist_ok=True)
        files.write(place.out / trial.folder / FAILURE, f"{type(error).__name__}: {error}\n")
        return True
    return bool(done)


def is_finished(trial: Trial, out: Path) -> bool:
    """Whether a trial has its result, or has failed for good."""
    return any((out / trial.folder / name).exists() for name in ("result.json", FAILURE))


def work(plan: Plan, place: Place, *, tick: Callable[[], None] = lambda: None) -> None:
    """Works, workload by workload, until every run of a plan is finished, by this worker or by others.

    Args:
        plan: What to do.
        place: Where.
        tick: Called after every run, and while others are waited for.

    Raises:
        ValueError: If a run is refused.
        OSError: If data cannot be read or a file cannot be written.
    """
    for workload in plan.workloads:
        search = searches(plan, workload)
        _finish(search, place, tick)
        picked = winners(read(place.out, search))
        _finish(finals(plan, workload, picked), place, tick)


def _finish(trials: Sequence[Trial], place: Place, tick: Callable[[], None]) -> None:
    while waiting := [trial for trial in trials if not is_finished(trial, place.out)]:
        progress = False
        for trial in waiting:
            progress |= run(trial, place)
            tick()
        if not progress:
            time.sleep(POLL)


def share(plan: Plan, place: Place, workers: int, tick: Callable[[], None]) -> None:
    """Has several processes work; one that is killed is replaced.

    Raises:
        ValueError: If a run is refused.
        OSError: If data cannot be read or a file cannot be written.
        ChildProcessError: If a worker ends by anything else, or too many are killed.
    """
    hire(partial(_work, plan, place), workers, preload=[__name__], tick=tick)


def _work(plan: Plan, place: Place, parent: BaseProcess | None) -> None:
    def tick() -> None:
        if parent is not None and not parent.is_alive():
            raise SystemExit

    work(plan, place, tick=tick)
