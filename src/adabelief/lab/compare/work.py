"""The work of a comparison: workers that take runs from the plan until none is left.

There is no list of who does what. Every worker goes through the runs in the plan's order, and takes the first that is
not finished and that nobody is at: a run's folder has a lock, which the system frees when its process dies, and a
checkpoint, from which the next worker goes on. So workers can be started, stopped and killed at any time, on all
machines that share the folder, and the numbers stay the same.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from adabelief.lab import files
from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.trials import FAILURE, FINALS, Trial, finals, read, searches, winners
from adabelief.lab.console import silent_console
from adabelief.lab.engine import session
from adabelief.lab.engine.machine import keep_memory
from adabelief.lab.engine.observers import HoldingBack

POLL = 0.3
"""Seconds between two looks at what others are at."""

REPLACED = 10
"""So many workers that were killed are replaced, for each that there is."""


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


def hire(plan: Plan, place: Place, workers: int, tick: Callable[[], None]) -> None:
    """Has several processes work; one that is killed is replaced.

    Raises:
        ValueError: If a run is refused.
        OSError: If data cannot be read or a file cannot be written.
        ChildProcessError: If too many are killed.
    """
    context = _context()
    running: dict[int, tuple[BaseProcess, Connection]] = {}
    killed = 0

    def start(i: int) -> None:
        errors, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_worker, args=(plan, place, max(1, torch.get_num_threads() // workers), theirs)
        )
        process.start()
        theirs.close()
        running[i] = process, errors

    with _ended(running):
        for i in range(workers):
            start(i)
        while running:
            time.sleep(POLL)
            tick()
            for i, (process, errors) in [(i, found) for i, found in running.items() if not found[0].is_alive()]:
                process.join()
                del running[i]
                if process.exitcode == 0:
                    continue
                if errors.poll():
                    with suppress(EOFError):  # of one that was killed
                        raise errors.recv()
                killed += 1
                if killed > REPLACED * workers:
                    raise ChildProcessError(
                        f"--workers {workers}: {killed} of them were ended from outside, the last by exit code "
                        f"{process.exitcode}; is there memory for as many? The same command goes on"
                    )
                start(i)


def _worker(plan: Plan, place: Place, threads: int, errors: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    torch.set_num_threads(threads)
    keep_memory()
    parent = multiprocessing.parent_process()

    def tick() -> None:
        if parent is not None and not parent.is_alive():
            raise SystemExit

    try:
        work(plan, place, tick=tick)
    except (ValueError, OSError, ImportError) as error:
        errors.send(type(error)(*error.args))
        raise SystemExit(1) from None


def _context() -> Any:
    """How processes are started: from one that has imported everything, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _ended(running: dict[int, tuple[BaseProcess, Connection]]) -> Iterator[None]:
    """Ends the workers that still run: what they are at goes on from its checkpoint."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
