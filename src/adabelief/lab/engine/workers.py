"""Several processes of one machine that do one job together: their start, their replacement, and the end of all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import torch

from adabelief.lab.engine.machine import keep_memory

POLL = 0.3
"""Seconds between two looks at who still works."""

REPLACED = 10
"""So many workers that were killed are replaced, for each that there is."""

PATIENCE = 30.0
"""Seconds that a worker has to leave when it is told to."""

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a worker that left because it was told to: what a shell makes of the signal."""

Job: TypeAlias = Callable[[BaseProcess | None], None]
"""What a worker does, until nothing is left: it is given the process to end with. It has to be sent to the worker."""

_Worker: TypeAlias = tuple[BaseProcess, Connection]
"""A process, and where what it refuses comes from."""


def threads(workers: int) -> int:
    """What each of some workers has of this machine's threads."""
    return max(1, torch.get_num_threads() // workers)


def hire(job: Job, workers: int, *, preload: Sequence[str], tick: Callable[[], None]) -> None:
    """Has several processes do a job; one that is killed is replaced, and in the end none is left.

    Args:
        job: What each of them does.
        workers: How many.
        preload: Modules that the job needs, which are imported once for all of them.
        tick: Called again and again.

    Raises:
        ValueError: If a worker refuses the job.
        OSError: If data or a file fail a worker.
        ImportError: If a worker lacks a package.
        ChildProcessError: If a worker ends by anything else, or too many are killed.
    """
    context, killed = process_context(preload), 0
    with _ended([]) as running:
        for i in range(workers):
            running.append(_start(context, job, i, workers))
        while any(running):
            time.sleep(POLL)
            tick()
            for i, (process, errors) in [(i, one) for i, one in enumerate(running) if one and not one[0].is_alive()]:
                process.join()
                if errors.poll():
                    with suppress(EOFError):  # of one that was killed
                        raise errors.recv()
                running[i] = None
                if process.exitcode == 0:
                    continue
                killed += 1
                _refuse(process.exitcode or 0, workers, killed)
                running[i] = _start(context, job, i, workers)


def process_context(preload: Sequence[str]) -> Any:
    """How processes are started: from one that has imported everything, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    return context


def plain(error: Exception) -> Exception:
    """An error that can be sent, whatever its class takes."""
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(str(error), name=error.name)
    kind = next(kind for kind in (ValueError, OSError, ImportError) if isinstance(error, kind))
    sent = kind(str(error))
    if isinstance(error, OSError) and isinstance(sent, OSError):
        sent.errno = error.errno
    return sent


def _start(context: Any, job: Job, i: int, workers: int) -> _Worker:
    errors, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, i, threads(workers), theirs))
    process.start()
    theirs.close()
    return process, errors


def _refuse(code: int, workers: int, killed: int) -> None:
    """Raises ChildProcessError where a worker that ended with a code is not to be replaced."""
    if 0 < code != TERMINATED:
        raise ChildProcessError(
            f"workers={workers}: one ended with exit code {code} before it could work; in a script of your own the "
            'call has to stand under `if __name__ == "__main__":`'
        )
    if killed > REPLACED * workers:
        by = signal.Signals(signal.SIGTERM if code > 0 else -code).name
        raise ChildProcessError(
            f"workers={workers}: one was ended by {by}, {killed - 1} before it; is there memory for as many? The same "
            "command goes on from the checkpoints"
        )


def _work(job: Job, i: int, threads: int, errors: Connection) -> None:
    """The whole of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    torch.set_num_threads(threads)
    _own_device(i)
    keep_memory()
    try:
        job(multiprocessing.parent_process())
    except (ValueError, OSError, ImportError) as error:
        errors.send(plain(error))
    except Exception as error:
        errors.send(ChildProcessError(f"worker {i + 1} was ended by {type(error).__name__}: {error}"))


def _own_device(i: int) -> None:
    """Where a machine has several GPUs, each worker gets one."""
    shown = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    devices = shown or [str(j) for j in range(torch.cuda.device_count())]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]


@contextmanager
def _ended(running: list[_Worker | None]) -> Iterator[list[_Worker | None]]:
    """Ends the workers that still run: each puts back what it is at, or leaves it to its checkpoint."""
    try:
        yield running
    finally:
        processes = [one[0] for one in running if one]
        for process in processes:
            process.terminate()
        until = time.monotonic() + PATIENCE
        for process in processes:
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
