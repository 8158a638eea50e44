"""One run of a comparison, in its folder: where that is, how it is run, and whether it is over."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from adabelief.lab import files
from adabelief.lab.compare.trials import FAILURE, FINALS, Trial
from adabelief.lab.console import silent_console
from adabelief.lab.engine import session
from adabelief.lab.engine.observers import HoldingBack


class Place(NamedTuple):
    """Where a comparison is made.

    Attributes:
        out: Its folder.
        cpu: Do not use an accelerator.
        checkpoint_seconds: At least this long between two checkpoints within an epoch.
        storage: A store that says who is at which run; without one the folder does.
        name: What the comparison is called there.
    """

    out: Path
    cpu: bool = False
    checkpoint_seconds: float = 60.0
    storage: str = ""
    name: str = ""


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
        fail(trial, place.out, f"{type(error).__name__}: {error}")
        return True
    return bool(done)


def fail(trial: Trial, out: Path, reason: str) -> None:
    """Keeps that a trial has failed for good, and why."""
    (out / trial.folder).mkdir(parents=True, exist_ok=True)
    files.write(out / trial.folder / FAILURE, f"{reason}\n")


def is_finished(trial: Trial, out: Path) -> bool:
    """Whether a trial has its result, or has failed for good."""
    return any((out / trial.folder / name).exists() for name in ("result.json", FAILURE))
