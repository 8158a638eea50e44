"""The workers of a search: processes of one machine, or tasks of a Ray cluster."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from adabelief.lab.engine.workers import REPLACED, hire, plain, threads
from adabelief.lab.search.ledger import Alive
from adabelief.lab.search.search import Search
from adabelief.lab.search.work import POLL, work

PRELOAD = ("adabelief.lab.search.work", "adabelief.lab.search.trial")
"""Modules that every worker needs."""


def run(search: Search, workers: int, *, engine: str = "processes", tick: Callable[[], None] = lambda: None) -> None:
    """Has some workers do a search.

    Args:
        search: What to do.
        workers: How many; a single one of `processes` is this very process.
        engine: One of `search.ENGINES`.
        tick: Called again and again.

    Raises:
        ValueError: If a worker refuses the search, or the objective cannot be sent to several.
        OSError: If the store, data or a file fail a worker.
        ChildProcessError: If a worker ends by anything else, or too many are killed.
    """
    if engine == "ray":
        _ray(search, workers, tick)
    elif workers == 1:
        work(search, after=tick)
    else:
        _processes(search, workers, tick)


def _processes(search: Search, workers: int, tick: Callable[[], None]) -> None:
    try:
        pickle.dumps(search)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"objective={search.objective!r} cannot be sent to {workers} workers ({error}); make it a function at the "
            "top of a module, or give workers=1"
        ) from None
    hire(partial(_work, search), workers, preload=PRELOAD, tick=tick)


def _work(search: Search, parent: Alive | None) -> None:
    work(search, parent=parent)


def _ray(search: Search, workers: int, tick: Callable[[], None]) -> None:
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("--engine ray needs ray: pip install ray") from None
    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    if search.storage and "://" not in search.storage:  # Ray's processes are in folders of their own
        search = replace(search, storage=str(Path(search.storage).absolute()))
    share = threads(workers)
    remote = ray.remote(num_cpus=share, max_retries=REPLACED)(_on_ray)
    try:
        waiting = [remote.remote(search, share) for _ in range(workers)]
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL)
            tick()
            for error in ray.get(done):
                if error is not None:
                    raise error
    finally:
        if begun:
            ray.shutdown()


def _on_ray(search: Search, threads: int) -> Exception | None:
    """A worker of Ray: errors come back, since Ray would wrap them, and put a traceback before them."""
    torch.set_num_threads(threads)
    try:
        work(search)
    except (ValueError, OSError, ImportError) as error:
        return plain(error)
    return None
