"""Who watches runs: checkpoints by time, and trackers of experiments."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, broadcast_object_list

from adabelief.lab import files
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.run import Observer, Run
from adabelief.lab.trainer import HELD_OUT
from adabelief.names import one_of


class Checkpoints(Observer):
    """Checkpoints within an epoch.

    Args:
        seconds: At least this long between two of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._saved = seconds, time.perf_counter()

    def after_step(self, run: Run) -> None:
        """Makes one where it is due; the last step's is that of the epoch."""
        state = run.state
        if self._is_due(run) and state.done < run.workload.steps_per_epoch:
            run.checkpoint()
            self._saved = time.perf_counter()

    def after_epoch(self, run: Run) -> None:
        """There is one of the epoch."""
        self._saved = time.perf_counter()

    def _is_due(self, run: Run) -> bool:
        due = time.perf_counter() - self._saved > self._seconds and math.isfinite(run.loss)
        if run.accelerator.num_processes > 1:  # the main process decides for all, now and then
            (due,) = broadcast_object_list([due]) if run.state.done % run.every == 0 else (False,)
        return due


class HoldingBack(Observer):
    """Lets a run read the test set after its last epoch alone, or never.

    Args:
        final: Whether it is read at all.
    """

    def __init__(self, *, final: bool) -> None:
        self._final = final

    def after_step(self, run: Run) -> None:
        """Says what the evaluation of this epoch may read."""
        last = run.state.epoch + 1 == run.config.epochs
        run.trainer.held_out = HELD_OUT if self._final and last else ("validation",)


class Tracked(Observer):
    """Hands the numbers of every epoch to the accelerator's tracker."""

    def after_epoch(self, run: Run) -> None:
        """Hands over what was measured."""
        line = run.state.history[-1]
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        run.accelerator.log(numbers, step=run.state.epoch)


def tracker(name: str) -> str:
    """The tracker of accelerate that a name means.

    Raises:
        ValueError: If there is none, or its package is missing.
    """
    found = one_of("--log-with", name, [kind for kind in LoggerType.list() if kind != "all"])
    if found not in [str(kind) for kind in get_available_trackers()]:
        raise ValueError(f"--log-with {found} needs the package {found}: pip install {found}")
    return found


@contextmanager
def tracking(accelerator: Accelerator, folder: RunFolder, name: str | None) -> Iterator[list[Observer]]:
    """The observer of a tracker, which is closed at the end; none where there is no name."""
    if name is None:
        yield []
        return
    with files.full_disk_told(folder.path), ExitStack() as stack:
        accelerator.init_trackers(name)
        for started in accelerator.trackers:  # end_training would end the processes' group too
            stack.callback(started.finish)
        yield [Tracked()]
