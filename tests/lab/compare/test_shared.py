"""Machines that make a comparison together by a store alone: here each is a folder of its own."""

import csv
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("optuna", reason="there is no optuna here: pip install 'adabelief[tune]'")

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from adabelief.lab import tasks
from adabelief.lab.commands import app
from adabelief.lab.compare import shared
from adabelief.lab.compare.conduct import conduct, gather
from adabelief.lab.compare.plan import plan, read
from adabelief.lab.compare.results import results, trials_csv
from adabelief.lab.compare.running import Place
from adabelief.lab.compare.shared import Shared
from adabelief.lab.compare.trials import FAILURE, searches
from adabelief.lab.compare.work import work
from adabelief.lab.console import silent_console
from adabelief.lab.engine.observers import HoldingBack
from adabelief.lab.engine.workers import process_context
from adabelief.lab.search import storage
from tests.lab.compare.test_workers import DIGITS
from tests.lab.search import servers
from tests.lab.tiny import reading

pytestmark = pytest.mark.xdist_group("workers")  # they share the process that has imported everything

PLAN = {
    "arms": ["AdaBelief", "SGD"],
    "trials": 2,
    "seeds": [1, 2],
    "workloads": {"one": {"task": "digits", "scale": "smoke", "margin": 5.0}},
    "space": {"common": {"lr": {"low": 1e-3, "high": 1e-1}}},
}


@pytest.fixture
def tiny(monkeypatch):
    """The task is one of milliseconds."""
    monkeypatch.setattr(tasks, "task", lambda name: replace(reading(), name="digits"))


def place(folder, url, machine):
    return Place(folder / machine, cpu=True, storage=str(url), name="tiny")


def table(asked, at):
    return trials_csv(results(asked, at.out))


def counts(store, name="tiny/one"):
    """How many trials of each state there are, and how many slots are done."""
    trials = optuna.load_study(study_name=name, storage=store).trials
    done = [trial.user_attrs["slot"] for trial in trials if trial.state == TrialState.COMPLETE]
    return len(done), len(set(done)), sum(trial.state == TrialState.FAIL for trial in trials)


@contextmanager
def journal(folder):
    yield folder / "shared.journal"


@contextmanager
def sqlite(folder):
    yield f"sqlite:///{folder}/store.db"


@contextmanager
def postgres(_):
    with servers.postgres() as (url, _process):
        yield url


@contextmanager
def proxy(_):
    with servers.proxy() as (url, _process):
        yield url


@pytest.mark.parametrize("store", [journal, sqlite, postgres, proxy])
def test_what_one_machine_has_run_another_one_has_too(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "CHUNK", 500)  # so that there are several
    monkeypatch.chdir(tmp_path)
    asked = plan(PLAN)
    with store(tmp_path) as url:
        here, there = place(tmp_path, url, "here"), place(tmp_path, url, "there")
        work(asked, here)
        monkeypatch.setattr(shared, "run", None)  # nothing is left to run
        work(asked, there)
    assert table(asked, here) == table(asked, there)
    for mine, theirs in zip(results(asked, here.out)[0].finals, results(asked, there.out)[0].finals, strict=True):
        assert np.array_equal(mine.hits, theirs.hits)
        assert mine.run.environment == theirs.run.environment


def conducted(asked, at):
    conduct(asked, at, workers=1, console=silent_console())


def test_two_machines_at_a_time_run_everything_once_and_write_the_same_report(tmp_path):
    (tmp_path / "plan.toml").write_text(DIGITS)
    asked, url = read(tmp_path / "plan.toml"), f"sqlite:///{tmp_path}/store.db"
    machines = [place(tmp_path, url, name)._replace(name=asked.title) for name in ("here", "there")]
    context = process_context([shared.__name__])
    processes = [context.Process(target=conducted, args=(asked, at)) for at in machines]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=400)
        assert process.exitcode == 0
    assert table(asked, machines[0]) == table(asked, machines[1])
    assert counts(url, f"{asked.title}/digits") == (8, 8, 0)
    options = ["--out", str(tmp_path / "report"), "--storage", url, "--report"]  # a third one only looks
    command = CliRunner().invoke(app, ["compare", str(tmp_path / "plan.toml"), *options])
    assert command.exit_code == 0, command.output
    text = (tmp_path / "report" / "report" / "trials.csv").read_text()
    assert text == table(asked, machines[0])
    assert [row["state"] for row in csv.DictReader(text.splitlines())] == ["finished"] * 8


def test_a_database_whose_tables_another_machine_is_making_is_tried_again(tmp_path, monkeypatch):
    made, calls = storage.RDBStorage, []

    def first_fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise IntegrityError("", {}, Exception("UNIQUE constraint failed: alembic_version.version_num"))
        return made(*args, **kwargs)

    monkeypatch.setattr(storage, "RDBStorage", first_fails)
    monkeypatch.setattr(storage, "RETRY", 0.0)
    assert storage.connect(f"sqlite:///{tmp_path}/store.db", tmp_path).get_all_studies() == []
    assert len(calls) == 2


def stuck(asked, at):
    """A worker that hangs in its first run."""

    def after_step(self, run):
        (at.out / "begun").touch()
        time.sleep(600)

    HoldingBack.after_step = after_step
    work(asked, at)


def test_a_run_whose_worker_was_killed_is_run_by_another_machine(tmp_path):
    asked, store = plan(PLAN), tmp_path / "shared.journal"
    dead, alive, idle = (place(tmp_path, store, name) for name in ("dead", "alive", "idle"))
    process = process_context([shared.__name__]).Process(target=stuck, args=(asked, dead))
    process.start()
    while not (dead.out / "begun").exists():
        assert process.is_alive()
        process.join(timeout=0.05)
    gather(asked, idle)
    assert {one.finished for one in results(asked, idle.out)[0].search} == {False}
    process.kill()
    process.join()
    work(asked, alive)
    gather(asked, idle)
    work(asked, dead)
    assert table(asked, alive) == table(asked, dead) == table(asked, idle)
    assert table(asked, alive).count("finished") == 8
    assert counts(storage.connect(str(store), tmp_path)) == (8, 8, 1)


def test_runs_that_are_finished_without_a_store_are_put_into_one(tiny, tmp_path, monkeypatch):
    asked, at = plan(PLAN), place(tmp_path, tmp_path / "shared.journal", "here")
    work(asked, at._replace(storage=""))
    before = table(asked, at)
    monkeypatch.setattr("adabelief.lab.compare.running.session", None)  # nothing is run again
    work(asked, at)
    there = at._replace(out=tmp_path / "there")
    gather(asked, there)
    assert table(asked, there) == table(asked, at) == before


def test_what_three_workers_died_of_has_failed_everywhere(tiny, tmp_path):
    asked, at = plan(PLAN), place(tmp_path, tmp_path / "shared.journal", "here")
    search = searches(asked, asked.workloads[0])
    runs = Shared(asked, at)
    for _ in range(3):
        runs.open(search)
        study, waiting = runs._studies["one"], runs._waiting[shared.slot_of(search[0])]
        assert runs.take(study, waiting)
        runs._at_work.clear()  # as if another process had been at it
    runs.open(search)
    assert runs.attempt(search[0])
    there = at._replace(out=tmp_path / "there")
    gather(asked, there)
    assert (there.out / search[0].folder / FAILURE).read_text() == "3 workers died of it\n"


def test_what_is_damaged_in_the_store_is_named(tiny, tmp_path):
    asked, at = plan(PLAN), place(tmp_path, tmp_path / "shared.journal", "here")
    search = searches(asked, asked.workloads[0])
    runs = Shared(asked, at)
    runs.open(search)
    trial = runs.take(runs._studies["one"], runs._waiting[shared.slot_of(search[0])])
    runs._put(trial, "bm8gYXJjaGl2ZQ==")
    runs.tell(trial, TrialState.COMPLETE, 1.0)
    with pytest.raises(ValueError, match=r"name='tiny': search.*seed0 is damaged in the store .* give another --name"):
        runs.open(search)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [1, 3]}, r"another seeds \(\[1, 2\], now \[1, 3\]\)"),
        ({"trials": 3}, r"another trials \(2, now 3\)"),
        ({"search_seed": 7}, r"another search_seed \(0, now 7\)"),
        ({"arms": ["AdaBelief", "AdamW"]}, r"another \[workloads.one\] arms \(.*'SGD'\], now .*'AdamW'\]\)"),
        ({"space": {"common": {"lr": {"low": 1e-3, "high": 1.0}}}}, r"another \[workloads.one\] lr of AdaBelief \("),
        ({"space": {"SGD": {"momentum": 0.5}, **PLAN["space"]}}, r"another \[workloads.one\] fixed settings of SGD \("),
        ({"workloads": {"one": {**PLAN["workloads"]["one"], "epochs": 7}}}, r"another \[workloads.one\] epochs \("),
    ],
)
def test_another_plan_of_the_same_name_is_refused(change, words, tmp_path):
    at = place(tmp_path, tmp_path / "shared.journal", "here")
    Shared(plan(PLAN), at)
    Shared(plan({**PLAN, "title": "Another", "contrasts": [["SGD", "AdaBelief"]]}), at)  # decides nothing of the runs
    with pytest.raises(ValueError, match=rf"name='tiny': .* has a comparison of that name with {words}.*--name"):
        Shared(plan({**PLAN, **change}), at)
