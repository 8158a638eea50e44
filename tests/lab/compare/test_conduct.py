"""What a comparison is said to cost, while it goes on: an arm's runs cost what that arm's have cost."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from adabelief.lab import tasks
from adabelief.lab.compare.conduct import Budget, Costs, Progress, left, table
from adabelief.lab.compare.plan import plan
from adabelief.lab.compare.running import Place
from adabelief.lab.compare.trials import searches
from tests.lab.tiny import reading

PLAN = {
    "title": "Tiny",
    "arms": ["AdaBelief", "AdamW", "SGD"],
    "trials": 4,
    "seeds": [1, 2],
    "workloads": {"one": {"task": "digits", "margin": 5.0}, "two": {"task": "digits", "margin": 5.0}},
    "space": {"common": {"lr": {"low": 1e-3, "high": 1e-1}}},
}


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(tasks, "task", lambda name: replace(reading(), name="digits"))
    return plan(PLAN)


def finish(trial, out, seconds):
    numbers = dict.fromkeys(("validation", "test", "last_test", "optimizer_seconds", "step_seconds"), 1.0)
    whole = {"epochs": 1, "diverged": False, "parameters": 1, "best_epoch": 0, "run_seconds": seconds}
    (out / trial.folder).mkdir(parents=True)
    (out / trial.folder / "result.json").write_text(json.dumps(numbers | whole))


def test_runs_that_are_left_cost_what_their_arm_has_cost_so_far(asked, tmp_path):
    one, two = (searches(asked, workload) for workload in asked.workloads)
    console = Console(file=io.StringIO(), width=200)
    finish(one[0], tmp_path, 10.0)  # AdaBelief
    progress = Progress(asked, Place(tmp_path), 36, 2, console)
    assert progress.line.left is None, "nobody knows of the second workload"
    finish(two[0], tmp_path, 1.0)
    progress.tick()
    assert progress.line.left == ((18 - 1) * 10 + (18 - 1) * 1) / 2
    finish(one[1], tmp_path, 40.0)  # AdamW
    finish(one[3], tmp_path, 20.0)  # AdaBelief again: 15 on average
    progress.tick()
    # of AdaBelief 2 + 2 are left, of AdamW 3 + 2, and SGD's 4 + 2 cost what the others do on average
    assert progress.line.left == (4 * 15 + 5 * 40 + 6 * 27.5 + 17 * 1) / 2
    assert progress.line.share == 4 / 36
    assert console.file.getvalue().splitlines()[-1] == f"4/36 {one[3].folder}"


def test_the_budget_counts_finals_before_they_are_known(asked, tmp_path):
    trials, costs = searches(asked, asked.workloads[0]), Costs(tmp_path)
    runs = left(asked, trials, {trials[0].folder})
    assert runs == {"AdaBelief": 3 + 2, "AdamW": 4 + 2, "SGD": 4 + 2}
    assert costs.left(trials[0].workload, runs) is None
    costs.note(trials[0], 7200.0)  # it failed, after two hours
    assert costs.of(trials[0].workload, "SGD") == 7200.0
    console = Console(file=io.StringIO(), width=200)
    console.print(table([Budget(trials[0].workload, 12, 6, 17, 7200.0, 17 * 7200.0)], workers=2))
    assert "one 3 12 6 17 7200.0 17.00" in " ".join(console.file.getvalue().split())
