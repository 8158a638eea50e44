"""The store of a search: which trials there are, who is at which, and what came of them.

A slot is a place in the plan, trial k of an arm. Every slot has one waiting trial from the start; a worker takes it by
a step that only one can win. A trial whose worker died is put aside (it is optuna's FAIL, and nothing else is), and the
slot gets another one with the same values. Of two trials of a slot, which two machines may have planned at the same
moment, the earlier one counts: so none is lost and none is done twice.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from adabelief.lab.search import points
from adabelief.lab.search.search import DIVERGED, FAILED, FINISHED, PRUNED, RUNNING, WAITING, Outcome, Search
from adabelief.lab.search.space import Arm, Dimension
from adabelief.lab.search.storage import answering, connect, difference, shown, unwarned

DEATHS = 3
"""So many workers may die of a trial; then it has failed."""

STATES = {
    TrialState.WAITING: WAITING,
    TrialState.RUNNING: RUNNING,
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: PRUNED,
}


class Store:
    """A search's trials, seen from one process.

    Raises:
        ValueError: If the store has a search of this name that is another one.
        StoreGone: If it does not answer; so does every method.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.storage = connect(search.storage, search.out)
        self._at_work: set[int] = set()
        self._seen: dict[int, tuple[Any, float]] = {}
        with answering(search.storage), unwarned():
            self.studies = {arm.name: self._study(arm) for arm in search.space.arms}
        self._points = {
            arm.name: points.planned(search.space, arm, search.sampler, search.trials, search.seed)
            for arm in search.space.arms
        }

    def replenish(self) -> None:
        """Gives every slot a trial that has none: at the start all, later those whose worker died."""
        with answering(self.search.storage):
            for arm in self.search.space.arms:
                tried = self._by_slot(arm)
                for slot, point in enumerate(self._points[arm.name]):
                    trials = tried[slot]
                    if any(trial.state != TrialState.FAIL for trial in trials):
                        continue
                    values = {} if point is None else _stored(arm, point)
                    values = next((t.params for t in reversed(trials) if len(t.params) == len(arm.dimensions)), values)
                    tries = sum(not trial.user_attrs.get("released") for trial in trials)
                    self.studies[arm.name].enqueue_trial(values, user_attrs={"slot": slot, "tries": tries})

    def claim(self) -> tuple[Arm, optuna.Trial] | None:
        """Takes a waiting trial, those of the first slots first; None where none waits."""
        with answering(self.search.storage), unwarned():
            found = [
                (trial.user_attrs["slot"], i, trial)
                for i, arm in enumerate(self.search.space.arms)
                for trial in self._trials(arm)
                if trial.state == TrialState.WAITING and trial.user_attrs["slot"] < len(self._points[arm.name])
            ]
            for slot, i, waiting in sorted(found, key=lambda one: one[:2]):
                arm = self.search.space.arms[i]
                try:
                    if not self.storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                        continue
                except UpdateFinishedTrialError:
                    continue
                study = self.studies[arm.name]
                study.sampler = _sampler(self.search, slot)
                trial = optuna.Trial(study, waiting._trial_id)
                trial.set_user_attr("owner", [_place(), os.getpid(), psutil.Process().create_time()])
                first = min(t.number for t in self._by_slot(arm)[slot] if t.state != TrialState.FAIL)
                if first == trial.number:
                    self._at_work.add(trial._trial_id)
                    return arm, trial
                self.release(trial)
        return None

    def release(self, trial: optuna.Trial) -> None:
        """Puts a trial aside that its worker gives up, for no fault of the trial's."""
        with answering(self.search.storage):
            trial.set_user_attr("released", True)
            self.tell(trial, TrialState.FAIL)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        """Says what came of a trial, unless somebody who thought its worker dead was quicker."""
        values = None if value is None else [value]
        with answering(self.search.storage):
            try:
                self.storage.set_trial_state_values(trial._trial_id, state=state, values=values)
            except UpdateFinishedTrialError:
                return

    def suggest(self, arm: Arm, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial: those of its point, or the sampler's."""
        with answering(self.search.storage), unwarned():
            return {dimension.name: _suggested(trial, dimension) for dimension in arm.dimensions}

    def note(self, trial: optuna.Trial, name: str, value: Any) -> None:
        """Keeps something with a trial."""
        with answering(self.search.storage):
            trial.set_user_attr(name, value)

    def report(self, trial: optuna.Trial, value: float, step: int) -> bool:
        """Keeps what a trial reports; returns whether it is so far behind that it is to end."""
        with answering(self.search.storage):
            if step not in self.reported(trial):
                trial.report(value, step)
            return self.search.prune and trial.should_prune()

    def reported(self, trial: optuna.Trial) -> dict[int, float]:
        """What a trial has reported so far, by step."""
        with answering(self.search.storage):
            return self.storage.get_trial(trial._trial_id).intermediate_values

    def running(self) -> bool:
        """Whether somebody is at a trial, or one waits."""
        open_states = (TrialState.RUNNING, TrialState.WAITING)
        with answering(self.search.storage):
            return any(
                trial.state in open_states and trial.user_attrs.get("slot", 0) < len(self._points[arm.name])
                for arm in self.search.space.arms
                for trial in self._trials(arm)
            )

    def bury(self) -> list[Outcome]:
        """Puts the trials aside whose worker is dead, and fills their slots; returns them."""
        buried = []
        with answering(self.search.storage):
            for arm in self.search.space.arms:
                for trial in self._trials(arm):
                    if trial.state == TrialState.RUNNING and self._is_dead(trial):
                        try:
                            self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                        except UpdateFinishedTrialError:
                            continue
                        buried.append(_outcome(arm, trial))
        self.replenish()
        return buried

    def outcomes(self) -> list[Outcome]:
        """What came of every slot so far, arm by arm."""
        with answering(self.search.storage):
            found = []
            for arm in self.search.space.arms:
                tried = self._by_slot(arm)
                for slot in range(len(self._points[arm.name])):
                    counted = [trial for trial in tried[slot] if trial.state != TrialState.FAIL]
                    found.append(_outcome(arm, counted[0]) if counted else Outcome(arm.name, slot, WAITING))
            return found

    def beat(self, trial: optuna.Trial, count: int) -> None:
        """A sign of life of the worker that is at a trial."""
        with answering(self.search.storage):
            self.storage.set_trial_user_attr(trial._trial_id, "beat", count)

    def _study(self, arm: Arm) -> Study:
        pruner: BasePruner = MedianPruner() if self.search.prune else NopPruner()
        study = optuna.create_study(
            storage=self.storage,
            study_name=f"{self.search.name}/{arm.name}",
            direction=StudyDirection[self.search.direction.upper()],
            sampler=RandomSampler(),
            pruner=pruner,
            load_if_exists=True,
        )
        now = self.search.plan(arm)
        then = study.user_attrs.get("plan")
        if then is None:
            study.set_user_attr("plan", now)
            then = study.user_attrs["plan"]
        if differs := difference(then, now):
            raise ValueError(
                f"name={self.search.name!r}: {shown(self.search.storage) or str(self.search.out)} has a search of that "
                f"name with {differs}; give it as it was, or another --name and --out"
            )
        return study

    def _trials(self, arm: Arm) -> list[FrozenTrial]:
        return self.studies[arm.name].get_trials(deepcopy=False)

    def _by_slot(self, arm: Arm) -> dict[int, list[FrozenTrial]]:
        found: dict[int, list[FrozenTrial]] = defaultdict(list)
        for trial in sorted(self._trials(arm), key=lambda trial: trial.number):
            found[trial.user_attrs.get("slot", -1)].append(trial)
        return found

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
        return now - since > self.search.grace  # by this machine's clock alone: others may go wrong


def _suggested(trial: optuna.Trial, dimension: Dimension) -> Any:
    if dimension.choices:
        chosen = trial.suggest_categorical(dimension.name, [str(choice) for choice in dimension.choices])
        return next(choice for choice in dimension.choices if str(choice) == chosen)
    low, high = dimension.scale
    return dimension.read(trial.suggest_float(_called(dimension), low, high, log=dimension.log))


def _stored(arm: Arm, point: Mapping[str, float]) -> dict[str, Any]:
    """The parameters of a point, as `suggest` asks for them."""
    found = {}
    for dimension in arm.dimensions:
        value = dimension.value(point[dimension.name])
        if dimension.choices:
            found[dimension.name] = str(value)
        else:
            low, high = dimension.scale
            found[_called(dimension)] = min(max(1.0 - value if dimension.of_rest else value, low), high)
    return found


def _called(dimension: Dimension) -> str:
    return f"1-{dimension.name}" if dimension.of_rest else dimension.name


def _sampler(search: Search, slot: int) -> BaseSampler:
    """The sampler of a trial: seeded by its slot, since workers with the same seed would all draw the same."""
    seed = int(np.random.SeedSequence((search.seed, slot)).generate_state(1)[0])
    if search.sampler == "tpe":
        return TPESampler(n_startup_trials=points.FIRST, constant_liar=True, seed=seed)
    return RandomSampler(seed)


def _outcome(arm: Arm, trial: FrozenTrial) -> Outcome:
    noted = trial.user_attrs
    state = FAILED if "failed" in noted else DIVERGED if noted.get("diverged") else STATES.get(trial.state, RUNNING)
    state = state if trial.state.is_finished() else STATES[trial.state]
    end = trial.datetime_complete or datetime.now(trial.datetime_start.tzinfo if trial.datetime_start else None)
    return Outcome(
        arm=arm.name,
        slot=noted.get("slot", -1),
        state=state,
        value=trial.value if state in (FINISHED, PRUNED) else None,
        values=noted.get("values", {}),
        settings=noted.get("settings", {}),
        reason=noted.get("failed", ""),
        folder=noted.get("folder", ""),
        seconds=(end - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0,
        tries=noted.get("tries", 0),
    )


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
