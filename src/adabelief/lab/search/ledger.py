"""A store's trials: who is at which, and which are to be done again since their worker died.

A slot is a place in a plan. Every slot has one waiting trial from the start; a worker takes it by a step that only one
can win. A trial whose worker died is put aside (it is optuna's FAIL, and nothing else is), and the slot gets another
one. Of two trials of a slot, which two machines may have planned at the same moment, the earlier one counts: so none is
lost and none is done twice.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from adabelief.lab.search.storage import answering, connect, difference, disconnect, shown

DEATHS = 3
"""So many workers may die of a trial; then it has failed."""

GLANCE = 1.0
"""Seconds between two looks at who this worker works for."""

Slot: TypeAlias = int | str
"""A place in the plan."""


class Alive(Protocol):
    """What says whether it is alive: a process."""

    def is_alive(self) -> bool:
        """Whether it is."""


class Ledger:
    """A store's trials, seen from one process.

    Args:
        address: Of the store, as `connect` takes it.
        out: The folder of the work.
        beat: Seconds between two signs of life of a worker.
        grace: Seconds without one after which its trial is taken up by another one.

    Raises:
        StoreGone: If it does not answer; methods that take a study leave saying so to who calls them.
    """

    def __init__(self, address: str, out: Path, *, beat: float = 10.0, grace: float = 60.0) -> None:
        self.address, self.out, self.pause, self.grace = address, out, beat, grace
        self.storage = connect(address, out)
        self._at_work: set[int] = set()
        self._seen: dict[int, tuple[Any, float]] = {}

    def close(self) -> None:
        """Closes what it keeps open."""
        disconnect(self.storage)

    def study(
        self,
        name: str,
        part: str,
        plan: Mapping[str, Any],
        *,
        kind: str,
        remedy: str,
        direction: str,
        pruner: BasePruner,
    ) -> Study:
        """The study of a part of the work, which all machines have to agree on.

        Args:
            name: Of the work.
            part: Of the study.
            plan: What to agree on, as JSON has it.
            kind: Of work, in a word.
            remedy: What else to give where there is another plan.
            direction: One of `search.DIRECTIONS`.
            pruner: Of its trials.

        Raises:
            ValueError: If the store has one of this name with another plan.
        """
        study = optuna.create_study(
            storage=self.storage,
            study_name=f"{name}/{part}",
            direction=StudyDirection[direction.upper()],
            sampler=RandomSampler(),
            pruner=pruner,
            load_if_exists=True,
        )
        then = study.user_attrs.get("plan")
        if then is None:
            study.set_user_attr("plan", plan)
            then = study.user_attrs["plan"]
        if differs := difference(then, plan):
            raise ValueError(
                f"name={name!r}: {shown(self.address) or str(self.out)} has a {kind} of that name with {differs}; give "
                f"it as it was, or {remedy}"
            )
        return study

    def by_slot(self, study: Study) -> dict[Slot, list[FrozenTrial]]:
        """The trials of each slot, the earlier ones first."""
        found: dict[Slot, list[FrozenTrial]] = defaultdict(list)
        for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
            found[trial.user_attrs.get("slot", -1)].append(trial)
        return found

    def fill(self, study: Study, slot: Slot, tried: list[FrozenTrial], values: Mapping[str, Any]) -> None:
        """Gives a slot another trial; `tried` are those that its workers died of or gave up."""
        tries = sum(not trial.user_attrs.get("released") for trial in tried)
        study.enqueue_trial(dict(values), user_attrs={"slot": slot, "tries": tries})

    def take(self, study: Study, waiting: FrozenTrial) -> optuna.Trial | None:
        """Takes a waiting trial; None where somebody was quicker, or its slot has an earlier one."""
        try:
            if not self.storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        trial = optuna.Trial(study, waiting._trial_id)
        trial.set_user_attr("owner", [_place(), os.getpid(), psutil.Process().create_time()])
        if counted(self.by_slot(study)[waiting.user_attrs["slot"]])[0].number == trial.number:
            self._at_work.add(trial._trial_id)
            return trial
        self.release(trial)
        return None

    def release(self, trial: optuna.Trial) -> None:
        """Puts a trial aside that its worker gives up, for no fault of the trial's."""
        with answering(self.address):
            trial.set_user_attr("released", True)
            self.tell(trial, TrialState.FAIL)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        """Says what came of a trial, unless somebody who thought its worker dead was quicker."""
        values = None if value is None else [value]
        with answering(self.address):
            try:
                self.storage.set_trial_state_values(trial._trial_id, state=state, values=values)
            except UpdateFinishedTrialError:
                return

    def note(self, trial: optuna.Trial, name: str, value: Any) -> None:
        """Keeps something with a trial."""
        with answering(self.address):
            trial.set_user_attr(name, value)

    def beat(self, trial: optuna.Trial, count: int) -> None:
        """A sign of life of the worker that is at a trial."""
        with answering(self.address):
            self.storage.set_trial_user_attr(trial._trial_id, "beat", count)

    def put_aside(self, study: Study) -> list[FrozenTrial]:
        """Puts the trials of a study aside whose worker is dead; returns them."""
        buried = []
        for trial in study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and self._is_dead(trial):
                with suppress(UpdateFinishedTrialError):
                    self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                    buried.append(trial)
        return buried

    @contextmanager
    def beating(self, trial: optuna.Trial, parent: Alive | None) -> Iterator[None]:
        """Gives signs of life, as long as there is somebody to work for: the process that started this one, if any."""
        over = threading.Event()

        def beat() -> None:
            last, count = time.monotonic(), 0
            while not over.wait(min(GLANCE, self.pause)):
                if parent is not None and not parent.is_alive():
                    os._exit(1)
                if time.monotonic() - last < self.pause:
                    continue
                last, count = time.monotonic(), count + 1
                with suppress(OSError):  # the store may be back before the trial is over
                    try:
                        self.beat(trial, count)
                    except UpdateFinishedTrialError:
                        return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _is_dead(self, trial: FrozenTrial) -> bool:
        place, pid, started = trial.user_attrs.get("owner", ("", 0, 0.0))
        given_up = pid == os.getpid() and trial._trial_id not in self._at_work  # by an earlier call in this process
        if place == _place() and (given_up or not _lives(pid, started)):
            return True
        now, beat = time.monotonic(), (place, pid, trial.user_attrs.get("beat"))
        before, since = self._seen.get(trial._trial_id, (None, now))
        if before != beat:
            self._seen[trial._trial_id] = (beat, now)
            return False
        return now - since > self.grace  # by this machine's clock alone: others may go wrong


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those of a slot that were not put aside; the first is what the slot has."""
    return [trial for trial in trials if trial.state != TrialState.FAIL]


@cache
def _place() -> str:
    """This machine, since it was started: a process number means something on the same one alone."""
    parts = [platform.node()]
    for path in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):  # containers count on their own
        if path.exists():
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
    return " ".join(parts)


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
