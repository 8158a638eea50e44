"""A comparison from its budget to its last run, shown while it goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from adabelief.lab.compare import work
from adabelief.lab.compare.plan import Plan, Workload
from adabelief.lab.compare.trials import FINALS, Trial, finals, read, searches, winners
from adabelief.lab.compare.work import Place
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.progress import Line, shown


class Budget(NamedTuple):
    """What a workload costs.

    Attributes:
        workload: Which.
        search: Runs of its search.
        finals: Runs of its finals.
        left: How many of both are not finished.
        seconds: Of its first run.
    """

    workload: Workload
    search: int
    finals: int
    left: int
    seconds: float


def conduct(plan: Plan, place: Place, *, workers: int, console: Console) -> None:
    """Runs what is left of a comparison.

    Args:
        plan: What to compare.
        place: Where.
        workers: Processes; a single one is this very process.
        console: Where the budget and the progress go.

    Raises:
        ValueError: If a run is refused.
        OSError: If data cannot be read or a file cannot be written.
        ChildProcessError: If too many workers are killed.
    """
    listed = [searches(plan, workload) for workload in plan.workloads]  # refused here, if at all
    runs = sum(len(trials) + len(plan.seeds) * len(trials[0].workload.arms) for trials in listed)
    console.print(f"{plan.title}: {runs:,} runs. The first one of each workload is timed.", soft_wrap=True)
    console.print(table([_budget(plan, trials, place) for trials in listed], workers))
    progress = Progress(plan, place, runs, console)
    with shown(progress.line, console):
        if workers == 1:
            work.work(plan, place, tick=progress.tick)
        else:
            work.hire(plan, place, workers, progress.tick)
    progress.tick()


def _budget(plan: Plan, trials: Sequence[Trial], place: Place) -> Budget:
    """The budget of a workload, whose first trial is run for it unless it has been."""
    first, start = trials[0], time.perf_counter()
    work.run(first, place)
    seconds = time.perf_counter() - start
    result = RunFolder(place.out / first.folder).read_result()
    if result:
        seconds = max(seconds, float(result["run_seconds"]))
    waiting = planned(plan, trials, place)
    finals = len(plan.seeds) * len(first.workload.arms)
    left = sum(not work.is_finished(trial, place.out) for trial in waiting) + max(
        0, len(trials) + finals - len(waiting)
    )
    return Budget(first.workload, len(trials), finals, left, seconds)


def planned(plan: Plan, search: Sequence[Trial], place: Place) -> list[Trial]:
    """All runs of a workload that are known so far: its finals are, once its search is over."""
    if any(not work.is_finished(trial, place.out) for trial in search):
        return list(search)
    return [*search, *finals(plan, search[0].workload, winners(read(place.out, search)))]


def table(budgets: Sequence[Budget], workers: int) -> Table:
    """A row for each workload, and one for all: runs, seconds of one, hours that are left."""
    listed = Table(box=None, header_style="bold", title="Budget", title_justify="left", title_style="")
    listed.add_column("workload", overflow="fold")
    for name in ("arms", "search", "finals", "left", "a run, s", "hours left"):
        listed.add_column(name, justify="right")
    needed = [budget.left * budget.seconds / 3600 / workers for budget in budgets]
    for budget, left in zip(budgets, needed, strict=True):
        counts = (len(budget.workload.arms), budget.search, budget.finals, budget.left)
        listed.add_row(budget.workload.name, *(f"{n:,}" for n in counts), f"{budget.seconds:.1f}", hours(left))
    if len(budgets) > 1:
        sums = (sum(b.search for b in budgets), sum(b.finals for b in budgets), sum(b.left for b in budgets))
        listed.add_row("all", "", *(f"{n:,}" for n in sums), "", hours(sum(needed)))
    listed.caption = (
        f"with {workers} worker{'s' if workers > 1 else ''}, as long as other runs take what the first took"
    )
    listed.caption_justify, listed.caption_style = "left", ""
    return listed


def hours(number: float) -> str:
    """Hours, with two decimals, or one digit of what is less than a tenth: `12.50`, `0.003`."""
    return f"{number:.2f}" if number >= 0.1 or not number else f"{number:.1g}"


class Progress:
    """Says how far a comparison is: a line that somebody shows, and without a terminal a line for every run."""

    def __init__(self, plan: Plan, place: Place, runs: int, console: Console) -> None:
        self._plan, self._place, self._runs, self._console = plan, place, runs, console
        self.line = Line(plan.title)
        self._trials = [searches(plan, workload) for workload in plan.workloads]
        self._start, self._told = time.perf_counter(), {trial.folder for trial in self._finished()}
        self._before = len(self._told)
        self._update(self._before)

    def tick(self) -> None:
        """Tells what is new."""
        finished = self._finished()
        self._update(len(finished))
        for trial in finished:
            if trial.folder not in self._told and not self._console.is_terminal:
                self._console.print(f"{len(self._told) + 1}/{self._runs} {trial.folder}", soft_wrap=True)
            self._told.add(trial.folder)

    def _finished(self) -> list[Trial]:
        for i, trials in enumerate(self._trials):
            if trials[-1].stage != FINALS:  # those of the finals are known as soon as the search is over
                self._trials[i] = planned(self._plan, trials, self._place)
        return [trial for trials in self._trials for trial in trials if work.is_finished(trial, self._place.out)]

    def _update(self, done: int) -> None:
        self.line.share = done / max(1, self._runs)
        self.line.facts = [f"run {done:,} of {self._runs:,}"]
        if done > self._before:
            self.line.left = (time.perf_counter() - self._start) / (done - self._before) * (self._runs - done)
