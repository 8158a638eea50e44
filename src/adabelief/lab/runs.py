"""The demonstration: what is run, in which order, and what is on disk after each run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adabelief.lab import files, report
from adabelief.lab.optimizers import METHODS
from adabelief.lab.results import Results
from adabelief.lab.tasks import digits, toy
from adabelief.lab.train import Epoch, one_thread, train

# Of the progress bar; the unit is an epoch on the digits.
WALK_UNITS = 8
REPORT_UNITS = 60


def demo(
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    epochs: int | None = None,
    steps: int = toy.STEPS,
    command: str = "adabelief demo",
    console: Console | None = None,
) -> Results:
    """Trains on the digits and walks over the toy functions with every optimizer, and writes the report.

    `results.csv` is rewritten after every run. Ctrl-C ends the runs; the report is then written from those that have
    finished, and says so.

    Args:
        out: A folder; it is made where there is none. Files of an earlier demonstration in it are replaced.
        seeds: One training run of each optimizer for each.
        epochs: Of each training run, instead of the task's own number.
        steps: Of each walk, at most.
        command: What the report says it was made with.
        console: Where the progress bar goes; none where this is not a terminal.

    Returns:
        All that has finished.
    """
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    for name in report.FILES:
        (out / name).unlink(missing_ok=True)
    epochs = epochs or digits.EPOCHS
    walks = [(function, optimizer) for function in toy.FUNCTIONS.values() for optimizer in function.settings()]
    results = Results(planned_runs=len(seeds) * len(METHODS), planned_walks=len(walks), walk_limit=steps)
    with one_thread(), _progress(console) as progress:
        units = results.planned_runs * epochs + len(walks) * WALK_UNITS + REPORT_UNITS
        bar = progress.add_task("loading the digits", total=units, note="")

        def after_epoch(epoch: Epoch) -> None:
            progress.update(bar, advance=1, note=f"validation {epoch.validation_accuracy:.1%}")

        try:
            task = digits.task()
            for seed in seeds:
                for name in METHODS:
                    progress.update(bar, description=f"{task.name}: {name}, seed {seed}")
                    results.runs.append(train(task, name, seed, epochs=epochs, after_epoch=after_epoch))
                    files.write(out / "results.csv", results.csv())
            for function, name in walks:
                progress.update(bar, description=f"{function.name}: {name}", note="")
                results.walks.append(toy.walk(function, name, steps=steps))
                files.write(out / "results.csv", results.csv())
                progress.advance(bar, WALK_UNITS)
        except KeyboardInterrupt:
            pass
        progress.update(bar, description="figures and report", note="")
        files.write(out / "results.csv", results.csv())
        report.write(out, results, command=command, seconds=lambda: time.perf_counter() - start)
        if results.complete:
            progress.update(bar, completed=units, description="done")
        else:
            progress.update(bar, description="interrupted")
    return results


def _progress(console: Console | None) -> Progress:
    console = console or Console()
    return Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]:<17}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
