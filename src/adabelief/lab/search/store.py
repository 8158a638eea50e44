"""The store of a search: trial k of an arm is a slot of its ledger, a study for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from adabelief.lab.search import points
from adabelief.lab.search.ledger import Ledger, counted
from adabelief.lab.search.search import DIVERGED, FAILED, FINISHED, PRUNED, RUNNING, WAITING, Outcome, Search
from adabelief.lab.search.space import Arm, Dimension
from adabelief.lab.search.storage import answering, unwarned

STATES = {
    TrialState.WAITING: WAITING,
    TrialState.RUNNING: RUNNING,
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: PRUNED,
}


class Store(Ledger):
    """A search's trials, seen from one process.

    Raises:
        ValueError: If the store has a search of this name that is another one.
        StoreGone: If it does not answer; so does every method.
    """

    def __init__(self, search: Search) -> None:
        super().__init__(search.storage, search.out, beat=search.beat, grace=search.grace)
        self.search = search
        with answering(self.address), unwarned():
            self.studies = {
                arm.name: self.study(
                    *(search.name, arm.name, search.plan(arm)),
                    kind="search",
                    remedy="another --name and --out",
                    direction=search.direction,
                    pruner=MedianPruner() if search.prune else NopPruner(),
                )
                for arm in search.space.arms
            }
        self._points = {
            arm.name: points.planned(search.space, arm, search.sampler, search.trials, search.seed)
            for arm in search.space.arms
        }

    def replenish(self) -> None:
        """Gives every slot a trial that has none: at the start all, later those whose worker died."""
        with answering(self.address):
            for arm in self.search.space.arms:
                study = self.studies[arm.name]
                tried = self.by_slot(study)
                for slot, point in enumerate(self._points[arm.name]):
                    trials = tried[slot]
                    if counted(trials):
                        continue
                    values = {} if point is None else _stored(arm, point)
                    values = next((t.params for t in reversed(trials) if len(t.params) == len(arm.dimensions)), values)
                    self.fill(study, slot, trials, values)

    def claim(self) -> tuple[Arm, optuna.Trial] | None:
        """Takes a waiting trial, those of the first slots first; None where none waits."""
        with answering(self.address), unwarned():
            found = [
                (trial.user_attrs["slot"], i, trial)
                for i, arm in enumerate(self.search.space.arms)
                for trial in self._trials(arm)
                if trial.state == TrialState.WAITING and trial.user_attrs["slot"] < len(self._points[arm.name])
            ]
            for slot, i, waiting in sorted(found, key=lambda one: one[:2]):
                arm = self.search.space.arms[i]
                study = self.studies[arm.name]
                study.sampler = _sampler(self.search, slot)
                if trial := self.take(study, waiting):
                    return arm, trial
        return None

    def suggest(self, arm: Arm, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial: those of its point, or the sampler's."""
        with answering(self.address), unwarned():
            return {dimension.name: _suggested(trial, dimension) for dimension in arm.dimensions}

    def report(self, trial: optuna.Trial, value: float, step: int) -> bool:
        """Keeps what a trial reports; returns whether it is so far behind that it is to end."""
        with answering(self.address):
            if step not in self.reported(trial):
                trial.report(value, step)
            return self.search.prune and trial.should_prune()

    def reported(self, trial: optuna.Trial) -> dict[int, float]:
        """What a trial has reported so far, by step."""
        with answering(self.address):
            return self.storage.get_trial(trial._trial_id).intermediate_values

    def running(self) -> bool:
        """Whether somebody is at a trial, or one waits."""
        open_states = (TrialState.RUNNING, TrialState.WAITING)
        with answering(self.address):
            return any(
                trial.state in open_states and trial.user_attrs.get("slot", 0) < len(self._points[arm.name])
                for arm in self.search.space.arms
                for trial in self._trials(arm)
            )

    def bury(self) -> list[Outcome]:
        """Puts the trials aside whose worker is dead, and fills their slots; returns them."""
        with answering(self.address):
            buried = [
                _outcome(arm, trial)
                for arm in self.search.space.arms
                for trial in self.put_aside(self.studies[arm.name])
            ]
        self.replenish()
        return buried

    def outcomes(self) -> list[Outcome]:
        """What came of every slot so far, arm by arm."""
        with answering(self.address):
            found = []
            for arm in self.search.space.arms:
                tried = self.by_slot(self.studies[arm.name])
                for slot in range(len(self._points[arm.name])):
                    there = counted(tried[slot])
                    found.append(_outcome(arm, there[0]) if there else Outcome(arm.name, slot, WAITING))
            return found

    def _trials(self, arm: Arm) -> list[FrozenTrial]:
        return self.studies[arm.name].get_trials(deepcopy=False)


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
        settings={name: tuple(x) if isinstance(x, list) else x for name, x in noted.get("settings", {}).items()},
        reason=noted.get("failed", ""),
        folder=noted.get("folder", ""),
        seconds=(end - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0,
        tries=noted.get("tries", 0),
    )
