"""A comparison that several machines make together without a folder in common, by a store.

Every run of the plan is a slot of the store's ledger, in a study of its workload: one worker takes it, and what the
report needs of the finished run goes into the store with it. Every machine lays the runs of the others into its own
folder, so that it goes on, picks the winners and reports as if it had made them all.
"""

from __future__ import annotations

import base64
import io
import json
import math
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adabelief.lab import files
from adabelief.lab.compare.plan import Plan, Workload
from adabelief.lab.compare.running import Place, fail, is_finished, run
from adabelief.lab.compare.trials import FAILURE, Trial, read
from adabelief.lab.engine.folder import Busy, RunFolder
from adabelief.lab.search.ledger import DEATHS, Alive, Ledger, counted
from adabelief.lab.search.storage import StoreGone, answering, unwarned

KEPT = ("config.json", "environment.json", "metrics.jsonl", "probe.jsonl", "hits.npz", FAILURE, "result.json")
"""What the store has of a finished run; the last one says that the others are there."""

CHUNK = 60_000
"""Characters in a value of the store: MySQL takes 65,535 bytes."""

RETRY = 1.0
"""Seconds until a run is asked for again that another process is at in the same folder."""


class Shared(Ledger):
    """The runs of a comparison in a store, seen from one process.

    Args:
        plan: What to do.
        place: Where, with the store's address.
        parent: The process to end with, where another one started this one.

    Raises:
        ValueError: If the store has another comparison of this name.
        StoreGone: If it does not answer; so does every method.
    """

    def __init__(self, plan: Plan, place: Place, parent: Alive | None = None) -> None:
        super().__init__(place.storage, place.out)
        self._place, self._parent = place, parent
        self._waiting: dict[str, FrozenTrial] = {}
        self._laid: set[int] = set()
        with answering(self.address), unwarned():
            self._studies = {workload.name: self._study(plan, workload) for workload in plan.workloads}

    def open(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those runs of a workload that are not over yet; what others finished of them is laid into the folder.

        Raises:
            ValueError: If something in the store is damaged.
        """
        if not trials:  # no arm has a winner
            return []
        study = self._studies[trials[0].workload.name]
        with answering(self.address), unwarned():
            self.put_aside(study)
            there = self._filled(study, trials)
        self._waiting = {slot: found for slot, found in there.items() if found.state == TrialState.WAITING}
        return [trial for trial in trials if not self._lay(trial, there[slot_of(trial)])]

    def attempt(self, trial: Trial) -> bool:
        """Runs what is left of a run and puts it into the store; returns whether it was this worker that did.

        Raises:
            ValueError: If the run is refused.
            OSError: If the store does not answer, data cannot be read or a file cannot be written. The run is put back.
        """
        waiting = self._waiting.pop(slot_of(trial), None)
        if waiting is None:
            return False
        with answering(self.address), unwarned():
            taken = self.take(self._studies[trial.workload.name], waiting)
        if taken is None:
            return False
        try:
            with self.beating(taken, self._parent):
                self._run(trial, taken.user_attrs.get("tries", 0))
                self._put(taken, packed(self.out / trial.folder))
        except UpdateFinishedTrialError:  # somebody took this worker for dead, and the run up
            return False
        except StoreGone:
            raise
        except BaseException:
            self.release(taken)
            raise
        (done,) = read(self.out, [trial])
        worst = -math.inf if trial.metric.higher_is_better else math.inf
        self.tell(taken, TrialState.COMPLETE, worst if done.lost else done.validation)
        return True

    def _run(self, trial: Trial, deaths: int) -> None:
        if deaths >= DEATHS and not is_finished(trial, self.out):
            fail(trial, self.out, f"{deaths} workers died of it")
        while not run(trial, self._place):
            time.sleep(RETRY)

    def _put(self, taken: optuna.Trial, text: str) -> None:
        chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
        for i, chunk in enumerate(chunks):
            self.note(taken, f"files {i}", chunk)
        self.note(taken, "chunks", len(chunks))

    def _lay(self, trial: Trial, found: FrozenTrial) -> bool:
        """Lays a run that is over into the folder; returns whether it is there, which waits for who else is at it."""
        if found.state != TrialState.COMPLETE:
            return False
        if found._trial_id not in self._laid:
            noted, folder = found.user_attrs, self.out / trial.folder
            try:
                with RunFolder(folder).locked():
                    lay(folder, "".join(noted[f"files {i}"] for i in range(noted["chunks"])))
            except Busy:
                return False
            except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(
                    f"name={self._place.name!r}: {trial.folder} is damaged in the store ({error!r}); give another "
                    "--name: runs that are finished in --out are not run again"
                ) from None
            self._laid.add(found._trial_id)
        return True

    def _filled(self, study: Study, trials: Sequence[Trial]) -> dict[str, FrozenTrial]:
        """What the store has in the slots of these runs: a waiting trial at least."""
        slots, tried = [slot_of(trial) for trial in trials], self.by_slot(study)
        if empty := [slot for slot in slots if not counted(tried[slot])]:
            for slot in empty:
                self.fill(study, slot, tried[slot], {})
            tried = self.by_slot(study)
        return {slot: counted(tried[slot])[0] for slot in slots}

    def _study(self, plan: Plan, workload: Workload) -> Study:
        return self.study(
            *(self._place.name, workload.name, dict(agreed(plan, workload))),
            kind="comparison",
            remedy="another --name: runs that are finished in --out are not run again",
            direction="maximize" if workload.about.metric.higher_is_better else "minimize",
            pruner=NopPruner(),
        )


def slot_of(trial: Trial) -> str:
    """The place of a run in the plan of its workload."""
    return f"{trial.stage}, {trial.arm}, point {trial.slot}, seed {trial.config.seed}"


def agreed(plan: Plan, workload: Workload) -> Iterator[tuple[str, Any]]:
    """What all machines have to agree on of a workload, as JSON has it: what decides which runs there are."""
    of = f"[workloads.{workload.name}]"
    named: dict[str, Any] = {
        **{name: getattr(plan, name) for name in ("trials", "search_seed", "seeds")},
        **{f"{of} {name}": getattr(workload, name) for name in ("task", "model", "scale", "epochs")},
        f"{of} set": workload.changes,
        f"{of} arms": list(workload.arms),
    }
    for arm in workload.space.arms:
        named[f"{of} optimizer of {arm.name}"] = arm.optimizer
        named[f"{of} fixed settings of {arm.name}"] = arm.fixed
        named |= {f"{of} {dimension.name} of {arm.name}": asdict(dimension) for dimension in arm.dimensions}
    named[f"{of} order of what varies"] = workload.space.names
    for name, value in named.items():
        yield name, json.loads(json.dumps(value))


def packed(folder: Path) -> str:
    """What is kept of a run, as text."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in KEPT:
            if (folder / name).exists():
                archive.writestr(name, (folder / name).read_bytes())
    return base64.b64encode(content.getvalue()).decode()


def lay(folder: Path, text: str) -> None:
    """Makes a run's folder what is packed in a text.

    Raises:
        ValueError: If that is damaged.
        zipfile.BadZipFile, zlib.error: So too.
    """
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(text, validate=True))) as archive:
        contents: Mapping[str, bytes] = {name: archive.read(name) for name in KEPT if name in archive.namelist()}
    for name in KEPT:
        path = folder / name
        if name not in contents:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != contents[name]:
            files.write(path, contents[name])
