"""What came of a comparison so far, and its raw numbers as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adabelief.lab.analysis.experiments import PLACE
from adabelief.lab.compare.plan import Plan, Workload
from adabelief.lab.compare.trials import FINALS, SEARCH, Done, finals, read, searches, winners
from adabelief.lab.task import Metric


@dataclass(frozen=True)
class Results:
    """What came of a workload.

    Attributes:
        workload: Which.
        search: Its search, point by point.
        winners: What validation picks of each arm, from the trials that are finished; final once all are.
        finals: Its finals, seed by seed; empty before the search is over.
    """

    workload: Workload
    search: Sequence[Done]
    winners: Mapping[str, Done]
    finals: Sequence[Done]

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        return self.search[0].trial.metric

    @property
    def sign(self) -> float:
        """1 where higher is better, −1 where lower is."""
        return 1.0 if self.metric.higher_is_better else -1.0

    @property
    def searched(self) -> bool:
        """Whether the search is over."""
        return all(one.finished for one in self.search)

    @property
    def finished(self) -> bool:
        """Whether all is over: every arm's finals, but for arms that have no winner."""
        return self.searched and all(one.finished for one in self.finals)

    def trials(self, arm: str) -> list[Done]:
        """The search of an arm, in the order of the points, as far as every arm has come: equal budgets."""
        rounds = [one.trial.slot for one in self.search if not one.finished]
        complete = min(rounds, default=len(self.search))
        return [one for one in self.search if one.trial.arm == arm and one.trial.slot < complete]

    def final(self, arm: str) -> list[Done]:
        """The finals of an arm, in the order of the seeds."""
        return [one for one in self.finals if one.trial.arm == arm]

    @property
    def same_place(self) -> bool:
        """Whether all finals were run on the same kind of machine, so that seconds can be compared."""
        places = [one.run.environment for one in self.finals if one.run]
        return len({tuple(str(place.get(name)) for name in PLACE) for place in places}) <= 1


def results(plan: Plan, out: Path) -> list[Results]:
    """What came of each workload so far.

    Raises:
        ValueError: If a file of a run is damaged.
    """
    found = []
    for workload in plan.workloads:
        search = read(out, searches(plan, workload))
        picked = winners(search)
        over = all(one.finished for one in search)
        found.append(Results(workload, search, picked, read(out, finals(plan, workload, picked)) if over else ()))
    return found


def unplanned(plan: Plan, out: Path, found: Sequence[Results]) -> int:
    """How many runs are in the folder that the plan does not name (any more): they are in no number."""
    named = {out / one.trial.folder for each in found for one in (*each.search, *each.finals)}
    there = {path.parent for stage in (SEARCH, FINALS) for path in (out / stage).rglob("config.json")}
    return len(there - named)


def trials_csv(found: Sequence[Results]) -> str:
    """A row for every run of the plan, lost and unfinished ones too."""
    done = [one for each in found for one in (*each.search, *each.finals)]
    names = list(dict.fromkeys(name for one in done for name in one.trial.values))
    file = io.StringIO()
    rows = [_row(one, names) for one in done]
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(one: Done, names: Sequence[str]) -> dict[str, Any]:
    trial, run = one.trial, one.run
    result = run.result or {} if run else {}
    epochs = run.epochs if run else ()
    return {
        "workload": trial.workload.name,
        "stage": trial.stage,
        "arm": trial.arm,
        "optimizer": trial.config.optimizer,
        "point": trial.slot + 1,
        "seed": trial.config.seed,
        **{name: trial.values.get(name) for name in names},
        "settings": json.dumps(trial.config.settings),
        "state": state(one),
        "failure": one.failure,
        "metric": " ".join(filter(None, (trial.metric.name, trial.metric.unit))),
        "validation": _cell(one.validation),
        "validation_loss": _cell(one.validation_loss),
        "validation_picked": _cell(one.picked),
        "picked_epoch": result.get("best_epoch"),
        "test": _cell(one.test),
        "train_loss": epochs[-1]["train_loss"] if epochs else None,
        "epochs": len(epochs),
        "steps": int(epochs[-1]["step"]) if epochs else 0,
        "seconds": result.get("run_seconds"),
        "folder": trial.folder,
    }


def state(one: Done) -> str:
    """How far a run is, in a word."""
    if one.finished:
        return "lost" if one.lost else "finished"
    return "unfinished" if one.run is not None and one.run.started else "waiting"


def _cell(value: float) -> float | None:
    """Nothing for what is no number."""
    return value if value == value else None
