"""A comparison from its budget to its last run, shown while it goes on."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from adabelief.lab.compare import work
from adabelief.lab.compare.plan import Plan, Workload
from adabelief.lab.compare.running import Place, is_finished
from adabelief.lab.compare.trials import FINALS, Trial, finals, read, searches, winners
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.progress import Line, shown


class Budget(NamedTuple):
    """What a workload costs.

    Attributes:
        workload: Which.
        search: Runs of its search.
        finals: Runs of its finals.
        left: How many of both are not finished.
        run: Seconds of a run, as the arms' means have it.
        seconds: Of all runs that are left, one after another.
    """

    workload: Workload
    search: int
    finals: int
    left: int
    run: float
    seconds: float


class Costs:
    """The seconds that runs take, by workload and arm, as far as some are finished: a rival may cost twice as much."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def note(self, trial: Trial, seconds: float = 0.0) -> None:
        """Reads what a finished run took, or at least so many `seconds`."""
        result = RunFolder(self._out / trial.folder).read_result()
        seconds = max(seconds, float(result["run_seconds"]) if result else 0.0)
        if seconds:
            self._seconds[trial.workload.name][trial.arm].append(seconds)

    def of(self, workload: Workload, arm: str | None = None) -> float | None:
        """The mean of an arm's runs; where it has none, or none is named, that of the others; None where nobody has."""
        known = {name: mean(seconds) for name, seconds in self._seconds[workload.name].items()}
        return known[arm] if arm in known else mean(known.values()) if known else None

    def left(self, workload: Workload, runs: Mapping[str, int]) -> float | None:
        """The seconds of so many runs of each arm, one after another; None where nothing is known of them."""
        seconds = [(n, self.of(workload, arm)) for arm, n in runs.items() if n]
        return None if any(each is None for _, each in seconds) else sum(n * each for n, each in seconds if each)


def conduct(plan: Plan, place: Place, *, workers: int, console: Console) -> None:
    """Runs what is left of a comparison.

    Args:
        plan: What to compare.
        place: Where.
        workers: Processes; a single one is this very process.
        console: Where the budget and the progress go.

    Raises:
        ValueError: If a run is refused, or the store has another comparison of this name.
        OSError: If the store does not answer, data cannot be read or a file cannot be written.
        ChildProcessError: If too many workers are killed.
    """
    listed = [searches(plan, workload) for workload in plan.workloads]  # refused here, if at all
    runs = sum(len(trials) + len(plan.seeds) * len(trials[0].workload.arms) for trials in listed)
    console.print(f"{plan.title}: {runs:,} runs. The first one of each workload is timed.", soft_wrap=True)
    with work.opened(plan, place) as begun:
        console.print(table([_budget(plan, trials, place, begun) for trials in listed], workers))
    progress = Progress(plan, place, runs, workers, console)
    with shown(progress.line, console):
        if workers == 1:
            work.work(plan, place, tick=progress.tick)
        else:
            work.share(plan, place, workers, progress.tick)
    progress.tick()


def gather(plan: Plan, place: Place) -> None:
    """Has the folder of a comparison have what others finished who share its store.

    Raises:
        ValueError: If the store has another comparison of this name.
        OSError: If it does not answer, or a file cannot be written.
    """
    with work.opened(plan, place) as begun:
        for workload in plan.workloads:
            search = searches(plan, workload)
            begun.open(search)
            begun.open(planned(plan, search, place))


def _budget(plan: Plan, trials: Sequence[Trial], place: Place, begun: work.Runs) -> Budget:
    """The budget of a workload, whose first trial is run for it unless it has been."""
    first, costs, waiting = trials[0], Costs(place.out), begun.open(trials)
    start = time.perf_counter()
    begins = first in waiting and begun.attempt(first)
    costs.note(first, time.perf_counter() - start if begins else 0.0)
    waiting = planned(plan, trials, place)
    done = {trial.folder for trial in waiting} - {trial.folder for trial in begun.open(waiting)}
    for trial in waiting:
        if trial is not first and trial.folder in done:
            costs.note(trial)
    runs, workload = left(plan, waiting, done), first.workload
    counts = (len(trials), len(plan.seeds) * len(workload.arms), sum(runs.values()))
    return Budget(workload, *counts, costs.of(workload) or 0.0, costs.left(workload, runs) or 0.0)


def left(plan: Plan, waiting: Sequence[Trial], done: Container[Path]) -> Counter[str]:
    """How many runs of each arm a workload has left; before its finals are known, they count as all of them."""
    runs = Counter(trial.arm for trial in waiting if trial.folder not in done)
    if waiting[-1].stage != FINALS:
        runs.update({trial.arm: len(plan.seeds) for trial in waiting})
    return runs


def planned(plan: Plan, search: Sequence[Trial], place: Place) -> list[Trial]:
    """All runs of a workload that are known so far: its finals are, once its search is over."""
    if any(not is_finished(trial, place.out) for trial in search):
        return list(search)
    return [*search, *finals(plan, search[0].workload, winners(read(place.out, search)))]


def table(budgets: Sequence[Budget], workers: int) -> Table:
    """A row for each workload, and one for all: runs, seconds of one, hours that are left."""
    listed = Table(box=None, header_style="bold", title="Budget", title_justify="left", title_style="")
    listed.add_column("workload", overflow="fold")
    for name in ("arms", "search", "finals", "left", "a run, s", "hours left"):
        listed.add_column(name, justify="right")
    needed = [budget.seconds / 3600 / workers for budget in budgets]
    for budget, time_left in zip(budgets, needed, strict=True):
        counts = (len(budget.workload.arms), budget.search, budget.finals, budget.left)
        listed.add_row(budget.workload.name, *(f"{n:,}" for n in counts), f"{budget.run:.1f}", hours(time_left))
    if len(budgets) > 1:
        sums = (sum(b.search for b in budgets), sum(b.finals for b in budgets), sum(b.left for b in budgets))
        listed.add_row("all", "", *(f"{n:,}" for n in sums), "", hours(sum(needed)))
    listed.caption = (
        f"with {workers} worker{'s' if workers > 1 else ''}, as long as arms without a finished run cost what others do"
    )
    listed.caption_justify, listed.caption_style = "left", ""
    return listed


def hours(number: float) -> str:
    """Hours, with two decimals, or one digit of what is less than a tenth: `12.50`, `0.003`."""
    return f"{number:.2f}" if number >= 0.1 or not number else f"{number:.1g}"


class Progress:
    """Says how far a comparison is: a line that somebody shows, and without a terminal a line for every run."""

    def __init__(self, plan: Plan, place: Place, runs: int, workers: int, console: Console) -> None:
        self._plan, self._place, self._runs, self._workers, self._console = plan, place, runs, workers, console
        self.line = Line(plan.title)
        self._trials = [searches(plan, workload) for workload in plan.workloads]
        self._costs = Costs(place.out)
        self._told: set[Path] = set()
        for trial in self._finished():
            self._note(trial)
        self._update()

    def tick(self) -> None:
        """Tells what is new."""
        for trial in self._finished():
            if trial.folder not in self._told:
                self._note(trial)
                if not self._console.is_terminal:
                    self._console.print(f"{len(self._told)}/{self._runs} {trial.folder}", soft_wrap=True)
        self._update()

    def _finished(self) -> list[Trial]:
        for i, trials in enumerate(self._trials):
            if trials[-1].stage != FINALS:  # those of the finals are known as soon as the search is over
                self._trials[i] = planned(self._plan, trials, self._place)
        return [trial for trials in self._trials for trial in trials if is_finished(trial, self._place.out)]

    def _note(self, trial: Trial) -> None:
        self._told.add(trial.folder)
        self._costs.note(trial)

    def _update(self) -> None:
        self.line.share = len(self._told) / max(1, self._runs)
        self.line.facts = [f"run {len(self._told):,} of {self._runs:,}"]
        seconds = [
            self._costs.left(trials[0].workload, left(self._plan, trials, self._told)) for trials in self._trials
        ]
        self.line.left = None if None in seconds else sum(each for each in seconds if each) / self._workers
