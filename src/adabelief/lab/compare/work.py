"""The work of a comparison: workers that take runs from the plan until none is left.

There is no list of who does what. Every worker goes through the runs in the plan's order, and takes the first that is
not finished and that nobody is at. On machines that share the folder its locks say who is at what: a run's folder has
one, which the system frees when its process dies, and a checkpoint, from which the next worker goes on. With a store
that says it, and machines need no folder in common (`compare.shared`). So workers can be started, stopped and killed at
any time, and the numbers stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Protocol

from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.running import Place, is_finished, run
from adabelief.lab.compare.trials import Trial, finals, read, searches, winners
from adabelief.lab.engine.workers import hire

POLL = 0.3
"""Seconds between two looks at what others are at."""


class Runs(Protocol):
    """What says which runs are over and who is at which."""

    def open(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those runs of a workload that are not over yet."""

    def attempt(self, trial: Trial) -> bool:
        """Runs what is left of a run; returns whether it is over, which it is not where somebody else is at it."""


class Folder:
    """The locks and results in the folder of a comparison."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def open(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those runs that are not over yet."""
        return [trial for trial in trials if not is_finished(trial, self._place.out)]

    def attempt(self, trial: Trial) -> bool:
        """Runs what is left of a run; returns whether it is over."""
        return run(trial, self._place)


@contextmanager
def opened(plan: Plan, place: Place, parent: BaseProcess | None = None) -> Iterator[Runs]:
    """What says which runs of a comparison are over: its store, or its folder.

    Args:
        plan: What to do.
        place: Where.
        parent: The process to end with, where another one started this one.

    Raises:
        ValueError: If the store has another comparison of this name.
        OSError: If it does not answer.
    """
    if not place.storage:
        yield Folder(place)
        return
    from adabelief.lab.compare.shared import Shared  # optuna takes its time

    with closing(Shared(plan, place, parent)) as shared:
        yield shared


def work(
    plan: Plan, place: Place, *, tick: Callable[[], None] = lambda: None, parent: BaseProcess | None = None
) -> None:
    """Works, workload by workload, until every run of a plan is finished, by this worker or by others.

    Args:
        plan: What to do.
        place: Where.
        tick: Called after every run, and while others are waited for.
        parent: The process to end with, where another one started this one.

    Raises:
        ValueError: If a run is refused, or the store has another comparison of this name.
        OSError: If the store does not answer, data cannot be read or a file cannot be written.
    """
    with opened(plan, place, parent) as runs:
        for workload in plan.workloads:
            search = searches(plan, workload)
            _finish(search, runs, tick)
            picked = winners(read(place.out, search))
            _finish(finals(plan, workload, picked), runs, tick)


def _finish(trials: Sequence[Trial], runs: Runs, tick: Callable[[], None]) -> None:
    while waiting := runs.open(trials):
        progress = False
        for trial in waiting:
            progress |= runs.attempt(trial)
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

    work(plan, place, tick=tick, parent=parent)
