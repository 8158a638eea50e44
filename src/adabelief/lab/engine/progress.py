"""How a run is shown while it is made: one line that fits where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adabelief.lab.engine.config import Config
from adabelief.lab.engine.run import Observer, Run

SHORTEST, LONGEST = 6, 24
"""Columns of a bar."""

BETWEEN = 60.0
"""Seconds from one plain line to the next within an epoch."""


class Line:
    """What is going on, in one line of a terminal.

    Attributes:
        title: What is at work.
        share: How much of it is done, from 0 to 1.
        facts: What else there is to say, the least important last: that goes first where it does not fit, and
            the bar before the first of them.
        left: The seconds that are left; None where nobody knows.
    """

    def __init__(self, title: str = "") -> None:
        self.title, self.share = title, 0.0
        self.facts: list[str] = []
        self.left: float | None = None

    def text(self) -> str:
        """All of it, for those who have no terminal."""
        return ", ".join([self.title, *self.facts, *self._time()])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The parts that fit, side by side; the bar takes what is left of the width."""
        facts, time_left = list(self.facts), self._time()

        def room() -> int:
            return options.max_width - 1 - len("  ".join([self.title, *facts, *time_left, ""]))

        while facts[1:] and room() < SHORTEST:
            facts.pop()
        if room() < 0:
            facts = []
        if room() < 0:
            time_left = []
        cells: list[Text | ProgressBar] = [Text(self.title, overflow="ellipsis", no_wrap=True)]
        if room() >= SHORTEST:
            cells.append(ProgressBar(total=1.0, completed=self.share, width=min(LONGEST, room())))
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_row(*cells, *(Text(text, no_wrap=True) for text in (*facts, *time_left)))
        yield grid

    def _time(self) -> list[str]:
        return [] if self.left is None else [f"{timedelta(seconds=round(self.left))} left"]


@contextmanager
def shown(line: Line, console: Console) -> Iterator[None]:
    """Keeps a line on the console while something is going on, where it is a terminal."""
    if console.is_terminal:
        with Live(line, console=console, refresh_per_second=4, transient=True):
            yield
    else:
        yield


class Shown(Observer):
    """Says where a run is: in a line that somebody shows, and where there is no terminal in a line an epoch or minute.

    Args:
        line: What is shown.
        console: Where.
        config: The run.
        place: Which run of how many it is: `run 3/8`.
    """

    def __init__(self, line: Line, console: Console, config: Config, place: str) -> None:
        self._line, self._console, self._place = line, console, place
        self._start = self._said = time.perf_counter()
        self._resumed_at: float | None = None
        line.title, line.share, line.left, line.facts = title(config), 0.0, None, [place]

    def after_step(self, run: Run) -> None:
        """Brings the line up to date."""
        state, line, now = run.state, self._line, time.perf_counter()
        step = 1 / (run.workload.steps_per_epoch * run.config.epochs)
        line.share = state.epoch / run.config.epochs + state.done * step
        if self._resumed_at is None:
            self._resumed_at = line.share - step
        line.left = (now - self._start) * (1 - line.share) / (line.share - self._resumed_at)
        line.facts = self._facts(run, state.epoch + 1)
        if now - self._said > BETWEEN:
            self._say()

    def after_epoch(self, run: Run) -> None:
        """Says what was measured."""
        self._line.facts = self._facts(run, run.state.epoch)
        self._say()

    def _facts(self, run: Run, epoch: int) -> list[str]:
        metric = run.task.metric.of(run.config.options)
        value = run.state.history[-1].get(f"validation_{metric.name}") if run.state.history else None
        measured = [] if value is None else [f"{metric.called} {value:.4g}{metric.suffix}"]
        return [f"epoch {epoch}/{run.config.epochs}", self._place, *measured, f"loss {run.loss:.3g}"]

    def _say(self) -> None:
        self._said = time.perf_counter()
        if not self._console.is_terminal:
            self._console.print(self._line.text(), soft_wrap=True)


def title(config: Config) -> str:
    """What a run is called among those of its task: `AdaBelief,lr=0.01, seed 0`."""
    return f"{config.folder.parts[-2]}, seed {config.seed}"
