"""One command's runs, one after the other, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adabelief.lab.console import plain_console
from adabelief.lab.engine import run as engine
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.folder import Busy, RunFolder
from adabelief.lab.task import Task

UNITS = 1000
"""Progress units per run."""


def run(
    task: Task,
    configs: Sequence[Config],
    out: Path,
    *,
    data: Path | None = None,
    cpu: bool = False,
    tensorboard: bool = False,
    checkpoint_seconds: float = 60.0,
    console: Console | None = None,
) -> list[tuple[Config, dict[str, Any]]]:
    """Runs what is not finished yet.

    Args:
        task: What to run.
        configs: The runs of it, of one precision, from `config.plan`.
        out: Folder of the runs.
        data: Where the task's data is.
        cpu: Do not use an accelerator.
        tensorboard: Write logs for TensorBoard beside the metrics.
        checkpoint_seconds: At least this long between two checkpoints within an epoch.
        console: Where progress and messages go.

    Returns:
        The results of the runs that are finished now; none but in the main process.

    Raises:
        ValueError: If a run's folder has another run, or data or options are refused.
        OSError: If data or a folder cannot be read or written.
    """
    console = console or plain_console()
    results = []
    with _own_precision(), progress(console, PartialState(cpu=cpu).is_main_process) as bar:
        row = bar.add_task(task.name, total=UNITS * len(configs), note="")
        for i, config in enumerate(configs):
            accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
            folder = RunFolder(out / config.folder)
            label = f"{config.folder.parts[-2]}, seed {config.seed}"
            bar.update(row, description=label, completed=UNITS * i, note="")

            def watch(now: engine.Progress, i: int = i, config: Config = config) -> None:
                share = (now.epoch - 1 + now.step / now.steps) / config.epochs
                bar.update(row, completed=UNITS * (i + share), note=_note(task, now, config))

            with _locked(folder, accelerator) as busy:
                if busy:
                    console.print(f"{busy}: left to it.", soft_wrap=True, highlight=False)
                    continue
                board = _board(folder) if tensorboard and accelerator.is_main_process else None
                result = engine.train(
                    *(task, config, folder, accelerator),
                    data=data,
                    watch=watch,
                    checkpoint_seconds=checkpoint_seconds,
                    board=board,
                )
                if board:
                    board.close()
            if accelerator.is_main_process:
                console.print(f"{label}: {_outcome(task, config, result)}", soft_wrap=True, highlight=False)
            results.append((config, result))
        bar.update(row, completed=UNITS * len(configs), description="done")
    return results if PartialState().is_main_process else []


@contextmanager
def _own_precision() -> Iterator[None]:
    """Accelerate keeps the precision that a process asked for first: neither into here nor out of it."""
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state()


def summary(task: Task, results: list[tuple[Config, dict[str, Any]]]) -> Table:
    """A row for each run."""
    metric = task.metric.of(results[0][0].options)
    unit = f" ({metric.unit})" if metric.unit else ""
    title = metric.called[0].upper() + metric.called[1:] + unit
    table = Table(title=title, title_justify="left", title_style="", box=None, header_style="bold")
    table.add_column("optimizer", overflow="fold")  # its end is what tells the runs of a search apart
    for name in ("seed", "test", "best\nepoch", "last\ntest", "step(),\nms", "step,\nms"):
        table.add_column(name, justify="right")
    for config, result in results:
        table.add_row(
            config.folder.parts[-2].replace(",", ", "),
            *(str(config.seed), f"{result['test']:.2f}", str(result["best_epoch"])),
            *(f"{result['last_test']:.2f}", f"{1e3 * result['optimizer_seconds']:.2f}"),
            f"{1e3 * result['step_seconds']:.1f}",
        )
    return table


def progress(console: Console, shown: bool = True) -> Progress:
    """The bar of long work: nothing where the console is no terminal."""
    return Progress(
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )


def _outcome(task: Task, config: Config, result: dict[str, Any]) -> str:
    if result["diverged"]:
        return f"diverged in epoch {result['epochs']}"
    metric = task.metric.of(config.options)
    return f"test {metric.called} {result['test']:.2f}{metric.suffix} (epoch {result['best_epoch']})"


def _note(task: Task, now: engine.Progress, config: Config) -> str:
    latest = now.latest.get(f"validation_{task.metric.name}")
    measured = "" if latest is None else f", validation {latest:.4g}{task.metric.suffix}"
    return f"epoch {now.epoch}/{config.epochs}, loss {now.loss:.3g}, {1e3 * now.step_seconds:.0f} ms{measured}"


@contextmanager
def _locked(folder: RunFolder, accelerator: Accelerator) -> Iterator[str]:
    """Keeps other commands out of a run; gives the message where one is in, to every process of this one."""
    lock = folder.locked() if accelerator.is_main_process else None
    message = ""
    if lock:
        try:
            lock.__enter__()
        except Busy as error:
            message, lock = str(error), None
    try:
        (message,) = broadcast_object_list([message])
        yield message
    finally:
        if lock:
            lock.__exit__(None, None, None)


def _board(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(folder.path / "tensorboard")
