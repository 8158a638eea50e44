"""The workers of one machine, or those of a Ray cluster, and the end of all of them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from adabelief.lab.engine.machine import keep_memory
from adabelief.lab.search.search import Search
from adabelief.lab.search.work import POLL, work

REPLACED = 10
"""So many workers that were killed are replaced, for each that there is."""


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


def threads(workers: int) -> int:
    """What each of some workers has of this machine's threads."""
    return max(1, torch.get_num_threads() // workers)


def _processes(search: Search, workers: int, tick: Callable[[], None]) -> None:
    try:
        pickle.dumps(search)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"objective={search.objective!r} cannot be sent to {workers} workers ({error}); make it a function at the "
            "top of a module, or give workers=1"
        ) from None
    context = _context()
    running: dict[int, tuple[BaseProcess, Connection]] = {}
    replaced = 0
    with _ended(running):
        for i in range(workers):
            running[i] = _start(context, search, i, workers)
        while running:
            time.sleep(POLL)
            tick()
            for i, (process, errors) in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                if errors.poll():
                    with suppress(EOFError):  # of one that was killed
                        raise errors.recv()
                del running[i]
                if not process.exitcode:
                    continue
                if process.exitcode > 0:
                    raise ChildProcessError(
                        f"workers={workers}: one ended with exit code {process.exitcode} before it could work; in a "
                        'script of your own the call has to stand under `if __name__ == "__main__":`'
                    )
                if replaced >= REPLACED * workers:
                    by = signal.Signals(-process.exitcode).name
                    raise ChildProcessError(
                        f"workers={workers}: one was ended by {by}, {replaced} before it; is there memory for as many? "
                        "The same command goes on from the checkpoints"
                    )
                replaced += 1
                running[i] = _start(context, search, i, workers)


def _start(context: Any, search: Search, i: int, workers: int) -> tuple[BaseProcess, Connection]:
    errors, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(search, i, threads(workers), theirs))
    process.start()
    theirs.close()
    return process, errors


def _worker(search: Search, i: int, threads: int, errors: Connection) -> None:
    """The whole of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    torch.set_num_threads(threads)
    _own_device(i)
    keep_memory()
    try:
        work(search, parent=multiprocessing.parent_process())
    except (ValueError, OSError, ImportError) as error:
        errors.send(_plain(error))
    except Exception as error:
        errors.send(ChildProcessError(f"worker {i + 1} was ended by {type(error).__name__}: {error}"))


def _plain(error: Exception) -> Exception:
    """An error that can be sent, whatever its class takes."""
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(str(error), name=error.name)
    kind = next(kind for kind in (ValueError, OSError, ImportError) if isinstance(error, kind))
    plain = kind(str(error))
    if isinstance(error, OSError) and isinstance(plain, OSError):
        plain.errno = error.errno
    return plain


def _own_device(i: int) -> None:
    """Where a machine has several GPUs, each worker gets one."""
    shown = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    devices = shown or [str(j) for j in range(torch.cuda.device_count())]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]


def _context() -> Any:
    """How processes are started: from one that has imported everything, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adabelief.lab.search.work", "adabelief.lab.search.trial"])
    return context


@contextmanager
def _ended(running: dict[int, tuple[BaseProcess, Connection]]) -> Iterator[None]:
    """Ends the workers that still run, each of which puts its trial back."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join(timeout=30)
            if process.is_alive():
                process.kill()


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
        return _plain(error)
    return None
