"""One command's runs, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from adabelief.lab.console import plain_console
from adabelief.lab.engine import run as engine
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.folder import Busy, OtherData, RunFolder
from adabelief.lab.engine.observers import Checkpoints, tracker, tracking
from adabelief.lab.engine.probed import Probed
from adabelief.lab.engine.progress import Line, Shown, shown, title
from adabelief.lab.engine.summary import outcome
from adabelief.lab.task import Task

FINISHED_BEFORE = "already finished, not run again"


def run(
    task: Task,
    configs: Sequence[Config],
    out: Path,
    *,
    data: Path | None = None,
    cpu: bool = False,
    log_with: str | None = None,
    checkpoint_seconds: float = 60.0,
    probe: bool = False,
    observers: Sequence[engine.Observer] = (),
    console: Console | None = None,
) -> list[tuple[Config, dict[str, Any]]]:
    """Runs what is not finished yet.

    Args:
        task: What to run.
        configs: The runs of it, of one precision, from `config.plan`.
        out: Folder of the runs.
        data: Where the task's data is.
        cpu: Do not use an accelerator.
        log_with: A tracker of accelerate, such as "tensorboard", which gets the numbers too.
        checkpoint_seconds: At least this long between two checkpoints within an epoch.
        probe: Let a probe look at the optimizers, and write what it sees into the runs' folders.
        observers: Who else watches every run.
        console: Where progress and messages go.

    Returns:
        The results of the runs that are finished now; none but in the main process.

    Raises:
        ValueError: If a run's folder has another run or a damaged file, data or options are refused, or processes would
            be left unused.
        OSError: If data or a folder cannot be read or written.
    """
    console = console or plain_console()
    log_with = log_with and tracker(log_with)
    check_data(task, data)
    results = []
    with ExitStack() as all_runs:
        all_runs.enter_context(_own_precision())
        cpu = cpu or not torch.accelerator.is_available()  # accelerate would leave processes alone with one another
        line = Line(task.name)
        if _processes(cpu).is_main_process:
            all_runs.enter_context(shown(line, console))
        for i, config in enumerate(configs, 1):
            folder = RunFolder(out / config.folder)
            accelerator = Accelerator(
                cpu=cpu, mixed_precision=config.precision, log_with=log_with, project_dir=folder.path
            )
            with ExitStack() as this_run:
                if busy := _claim(this_run, folder, accelerator):
                    console.print(f"{busy}: left to it.", soft_wrap=True)
                    continue
                watching = [Checkpoints(checkpoint_seconds), *observers]
                if accelerator.is_main_process:
                    watching.append(Shown(line, console, config, f"run {i}/{len(configs)}"))
                before = folder.result.exists()
                if not before:
                    watching += this_run.enter_context(tracking(accelerator, folder, log_with))
                    if probe and accelerator.is_main_process:  # before checkpoints, which say what has been written
                        watching.insert(0, this_run.enter_context(Probed(console)))
                try:
                    result = engine.train(task, config, folder, accelerator, data=data, observers=watching)
                except OtherData as error:
                    if not before:
                        raise
                    console.print(f"{title(config)}: {FINISHED_BEFORE}, and left out here: {error}", soft_wrap=True)
                    continue
            if result is None:
                continue
            if accelerator.is_main_process:
                again = f"; {FINISHED_BEFORE}" if before else ""
                console.print(f"{title(config)}: {outcome(task, config, result)}{again}", soft_wrap=True)
            results.append((config, result))
    return results if PartialState().is_main_process else []


def check_data(task: Task, data: Path | None) -> None:
    """Refuses a folder that a task does not read, or that is not there."""
    if data is not None and not task.data:
        raise ValueError(f"--data {data}: {task.name} reads no folder; leave it away")
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"data={str(data)!r} is no folder; name one that is there, with --data FOLDER")


def _processes(cpu: bool) -> PartialState:
    """The processes that were started together.

    Raises:
        ValueError: If there are more than run together, or than there are accelerators.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if not cpu and here > torch.accelerator.device_count():
        raise ValueError(
            f"{here} processes were started for {torch.accelerator.device_count()} accelerators: give as many, "
            "with --nproc-per-node, or --cpu"
        )
    state, started = PartialState(cpu=cpu), int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != started:
        raise ValueError(
            f"{started} processes were started, of which {state.num_processes} would be used: give --cpu, or start one"
        )
    return state


@contextmanager
def _own_precision() -> Iterator[None]:
    """Accelerate keeps the precision that a process asked for first: neither into here nor out of it."""
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state()


def _claim(stack: ExitStack, folder: RunFolder, accelerator: Accelerator) -> str:
    """Keeps other commands out of a run; returns the message where one is in, to every process of this one."""
    message = ""
    if accelerator.is_main_process:
        try:
            stack.enter_context(folder.locked())
        except Busy as error:
            message = str(error)
    (message,) = broadcast_object_list([message])
    return str(message)
