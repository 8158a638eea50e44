"""Searches: what comes of trials, of workers that die, and of what cannot be."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("optuna", reason="there is no optuna here: pip install 'adabelief[tune]'")

import optuna

from adabelief.lab import tasks, tune
from adabelief.lab.analysis.runs import load
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.commands import app
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.search.conditions import Conditions
from adabelief.lab.search.search import FAILED, FINISHED, PRUNED, Search
from adabelief.lab.search.space import space
from adabelief.lab.search.storage import JOURNAL, StoreGone
from adabelief.lab.search.store import Store
from adabelief.lab.search.trial import search_of
from adabelief.lab.search.tune import conduct
from adabelief.lab.search.work import work
from tests.lab.running import numbers
from tests.lab.search.objectives import distance
from tests.lab.tiny import linear

LR = {"low": 1e-4, "high": 1e-1}
ARMS = {"common": {"lr": LR}, "AdaBelief": {"floor": 1e-4}, "AdamW": {"floor": 1e-4}}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, color_system=None)


def said(console):
    return console.file.getvalue()


def search(objective=distance, tables=ARMS, **options):
    options = {"name": "test", "direction": "minimize", "trials": 3, "out": Path.cwd(), "grace": 0.5, **options}
    return Search(space=space(tables), objective=objective, **options)


def raw(one: Search) -> list[optuna.trial.FrozenTrial]:
    """Every trial as optuna has it."""
    return [trial for study in Store(one).studies.values() for trial in study.trials]


def test_every_arm_has_the_same_points_and_trials_are_found_best_first(console):
    found = tune(distance, ARMS, trials=4, out="out", console=console)
    for one in found.values():
        assert [x.state for x in one] == [FINISHED] * 4
        assert [x.value for x in one] == sorted(abs(x.settings["lr"] - 0.01) for x in one)
    assert [x.values for x in found["AdaBelief"]] == [x.values for x in found["AdamW"]]
    rows = list(csv.DictReader(Path("out/trials.csv").read_text().splitlines()))
    assert sorted(float(row["value"]) for row in rows if row["arm"] == "AdamW") == [x.value for x in found["AdamW"]]
    assert all(json.loads(row["settings"])["eps"] == 1e-4 for row in rows if row["arm"] == "AdamW")


def test_a_search_that_is_over_goes_on_with_more_trials_and_none_is_run_again(console):
    first = tune(distance, ARMS, trials=2, out="out", console=console)
    calls = []
    more = tune(lambda trial: calls.append(trial.slot) or distance(trial), ARMS, trials=3, out="out", console=console)
    assert calls == [2, 2]
    assert set(map(repr, first["AdamW"])) <= set(map(repr, more["AdamW"]))


@pytest.mark.parametrize("sampler", ["tpe", "grid", "random"])
def test_samplers(sampler, console):
    found = tune(distance, ARMS, trials=12, sampler=sampler, out="out", console=console)
    lrs = [{x.settings["lr"] for x in one} for one in found.values()]
    assert [len(one) for one in found.values()] == [12, 12]
    assert all(1e-4 <= lr <= 1e-1 for one in lrs for lr in one)
    assert len(lrs[0] & lrs[1]) >= (10 if sampler == "tpe" else 12)


def test_losses_are_counted_and_shown(console):
    def objective(trial):
        if trial.arm.name == "AdamW":
            return float("nan")
        if trial.slot == 1:
            raise RuntimeError("too small\nand so on")
        return distance(trial)

    found = tune(objective, ARMS, trials=3, out="out", console=console)
    assert [x.state for x in found["AdaBelief"]] == [FINISHED, FINISHED, FAILED]
    assert found["AdaBelief"][-1].reason == "RuntimeError: too small"
    (one,) = [line for line in said(console).splitlines() if line.startswith("AdaBelief: ")]
    assert one == "AdaBelief: 1 failed of 3 trials (RuntimeError: too small); they count as losses."
    (one,) = [line for line in said(console).splitlines() if line.startswith("AdamW: ")]
    assert one.startswith("AdamW: no trial came to a number, 3 diverged of 3; give its table in the space smaller")


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (lambda trial: None, "TypeError: the objective returned None, which is no number"),
        (lambda trial: "a", "TypeError: the objective returned 'a', which is no number"),
        (lambda trial: {}["lr"], "KeyError: 'lr'"),
    ],
)
def test_the_reason_of_a_failure_names_it(objective, reason, console):
    found = tune(objective, ARMS, trials=1, out="out", console=console)
    assert found["AdamW"][0].reason == reason
    assert f"1 failed of 1 ({reason}); mend the objective or its space" in said(console)


def test_trials_behind_the_median_end_early(console):
    def objective(trial):
        for step in (1, 2):
            trial.report(trial.slot, step)
        return trial.slot

    found = tune(objective, {"AdamW": {"lr": LR}}, trials=8, prune=True, out="out", console=console)["AdamW"]
    assert [x.state for x in found] == [FINISHED] * 5 + [PRUNED] * 3
    assert [x.value for x in found] == list(range(8))


def test_a_trial_is_an_ordinary_run(console, monkeypatch):
    monkeypatch.setattr(tasks, "task", lambda name: linear())
    monkeypatch.setattr("adabelief.lab.search.conditions.CATALOGUE", {"linear": CATALOGUE["digits"]})
    conditions = Conditions("linear", scale="smoke", epochs=2)
    one = search_of(conditions, space(ARMS), cpu=True, trials=2, out=Path("out").absolute())
    found = conduct(one, console=console)
    for outcomes in found.values():
        for x in outcomes:
            folder = RunFolder(one.out / x.folder)
            epochs = [line for line in numbers(folder) if "train_loss" in line]
            assert x.value == epochs[-1]["validation_accuracy"]
            assert json.loads(folder.config.read_text())["settings"]["eps"] == x.settings["eps"]


def test_an_interrupted_trial_is_put_back_and_costs_nothing(console):
    def interrupted(trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(interrupted, ARMS, trials=1, out="out", console=console)
    found = tune(distance, ARMS, trials=1, out="out", console=console)
    assert [(x.state, x.tries) for one in found.values() for x in one] == [(FINISHED, 0)] * 2


def test_a_worker_elsewhere_that_gives_no_sign_of_life_is_dead_and_one_that_does_is_not(monkeypatch):
    here = search(trials=1, tables={"AdamW": {"lr": LR}})
    monkeypatch.setattr("adabelief.lab.search.ledger._place", lambda: "elsewhere")
    there = Store(here)
    there.replenish()
    _, trial = there.claim()
    monkeypatch.undo()
    store = Store(here)
    assert store.claim() is None
    end = time.monotonic() + 1.5 * here.grace
    while time.monotonic() < end:
        there.beat(trial, int(time.monotonic() * 1e9))
        assert not store.bury()
    time.sleep(1.5 * here.grace)
    assert [x.arm for x in store.bury()] == ["AdamW"]
    there.tell(trial, optuna.trial.TrialState.COMPLETE, 1.0)  # too late
    work(here)
    assert [(x.state, x.tries) for x in store.outcomes()] == [(FINISHED, 1)]


def test_a_trial_that_workers_die_of_has_failed(monkeypatch):
    one = search(trials=1, tables={"AdamW": {"lr": LR}})
    store = Store(one)
    store.replenish()
    for _ in range(3):
        assert store.claim()
        store._at_work.clear()  # as if another process had been at it
        store.bury()
    work(one)
    (outcome,) = store.outcomes()
    assert (outcome.state, outcome.reason, outcome.tries) == (FAILED, "3 workers died of it", 3)


def test_two_machines_that_plan_at_the_same_moment_do_nothing_twice():
    one = search()
    first, second = Store(one), Store(one)
    second.by_slot = lambda study: {slot: [] for slot in range(one.trials)}  # it looked before the first had planned
    first.replenish()
    second.replenish()
    del second.by_slot
    assert len(raw(one)) == 12
    calls = []
    work(replace(one, objective=lambda trial: calls.append((trial.arm.name, trial.slot)) or 0.0))
    assert sorted(calls) == [(name, slot) for name in ("AdaBelief", "AdamW") for slot in range(3)]
    assert [x.state for x in first.outcomes()] == [FINISHED] * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"sampler": "random"}, "another sampler ('qmc', now 'random')"),
        ({"tables": {**ARMS, "common": {"lr": {**LR, "high": 1.0}}}}, "another space"),
        ({"conditions": {"scale": "paper"}}, "another scale (None, now 'paper')"),
    ],
)
def test_another_search_of_the_same_name_is_refused(change, words):
    Store(search())
    with pytest.raises(ValueError, match=r"name='test': .* has a search of that name with") as error:
        Store(search(**change))
    assert words in str(error.value)
    assert "another --name and --out" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials must be a whole number, at least 1, got 0"),
        ({"trials": "3"}, "trials must be a whole number, at least 1, got '3'"),
        ({"trials": math.nan}, "trials must be a whole number, at least 1, got nan"),
        ({"workers": None}, "workers must be a whole number, at least 1, got None"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"seed": "a"}, "seed must be a whole number, at least 0, got 'a'"),
        ({"objective": 3}, "objective must be a function of a Trial, got 3"),
        ({"workers": 0}, "workers must be a whole number, at least 1, got 0"),
        ({"sampler": "halton"}, "sampler: there is no 'halton' here; there are qmc, tpe, grid, random"),
        ({"direction": "up"}, "direction: there is no 'up' here; there are maximize, minimize"),
        ({"engine": "spark"}, "engine: there is no 'spark' here; there are processes, ray"),
        ({"engine": 3}, "engine: there is no 3 here; there are processes, ray"),
        ({"out": 3}, "out must be a path, text or pathlib.Path, got 3"),
        ({"storage": None}, "storage must be a path, text or pathlib.Path, got None"),
        ({"name": 3}, "name must be text that is not empty, got 3"),
        ({"prune": "no"}, "prune must be True or False, got 'no'"),
    ],
)
def test_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        tune(**{"objective": distance, "space": ARMS, **change})


def test_a_store_that_goes_away(console):
    def objective(trial):
        if trial.slot:
            Path("out", JOURNAL).unlink()
        return distance(trial)

    with pytest.raises(StoreGone, match=r"storage='trials.journal' does not answer .*give the same command again"):
        tune(objective, ARMS, trials=2, out="out", console=console)


def test_a_damaged_journal_is_told():
    store = Store(search())
    Path(JOURNAL).write_bytes(b"no journal\n" + Path(JOURNAL).read_bytes())
    del store
    with pytest.raises(ValueError, match=rf"{JOURNAL} is damaged .*remove it: trials are planned anew"):
        Store(search())


def test_an_objective_that_workers_cannot_import_is_refused():
    with pytest.raises(ValueError, match=r"objective=<function .* cannot be sent to 2 workers .* or give workers=1"):
        tune(lambda trial: 0.0, ARMS, workers=2)


def command(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer", "AdamWW"], ["--optimizer: there is no 'AdamWW' here; ", "did you mean AdamW?"]),
        (["--space", "none.toml"], ["No such file or directory: 'none.toml'"]),
        (["--space", "typo.toml"], ["typo.toml: [AdamW] lr: there is no 'hihg' in a range", "did you mean high?"]),
        (["--set", "lr=1"], ["--set lr: [AdaBelief] of the space has it; leave one of them away"]),
        (["--set", "eps=1e-8"], ["--set eps: [AdaBelief] of the space has it; leave one of them away"]),
        (["--set", "batch_size=1", "--set", "batch_size=2"], ["--set batch_size is given twice"]),
        (["--set", "width=1"], ["no argument width"]),
        (["--scale", "huge"], ["scale: there is no 'huge' here"]),
        (["--data", "."], ["--data .: digits reads no folder; leave it away"]),
        (["--storage", "sqlite3://x"], ["storage='sqlite3://x': ", "give, say, postgresql://USER@HOST/NAME"]),
        (["--storage", "grpc://host"], ["storage='grpc://host': give host and port"]),
        (["--storage", "no/such/folder"], ["storage='no/such/folder': there is no folder no/such; make it"]),
    ],
)
def test_commands_are_refused_in_one_message(arguments, words):
    Path("typo.toml").write_text("[AdamW]\nlr = { low = 1e-4, hihg = 1 }\n")
    result = command("digits", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert result.stderr.startswith("Error: ")
    for word in words:
        assert word in result.stderr


def test_the_command_prints_its_space_and_takes_it():
    result = command("digits", "--optimizer", "sgd,adabelief", "--example")
    Path("space.toml").write_text(result.stdout.replace("0.0001", "0.001"))
    common = ["digits", "--scale", "smoke", "--epochs", 1, "--cpu", "--space", "space.toml", "--trials", 1]
    result = command(*common, "--optimizer", "SGD", "--out", "found")
    assert result.exit_code == 0, result.output
    assert "1/1 SGD, trial 1" in result.stdout
    assert [run.config.optimizer for run in load([Path("found")])] == ["SGD"]


def test_a_terminal_shows_a_table():
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    tune(distance, ARMS, trials=1, out="out", console=terminal)
    lines = [" ".join(line.split()) for line in said(terminal).splitlines()]
    assert any(re.search("tune: trial [012] of 2", line) for line in lines)
    assert any(line.startswith("AdamW 1/1 ") and "lr=" in line for line in lines)
    assert not any("finished" in line for line in lines)
