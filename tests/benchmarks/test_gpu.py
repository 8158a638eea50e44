"""`make gpu` without a GPU: the dry run of all its parts, and how it holds targets and keeps to its time."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
def test_the_dry_run_goes_through_every_part(script, tmp_path):
    pytest.importorskip("triton", "3.3")
    command = [sys.executable, str(SCRIPT), "--interpret", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["interpreted"]
    assert results["passed"]
    assert [(part["part"], part["status"]) for part in results["parts"]] == [(name, "done") for name in script.PARTS]
    assert {row["table"] for row in results["rows"]} >= {"libraries", "machine", "tests", "steps", "graphs", "gpt"}
    assert {row["step"] for row in results["rows"] if row["table"] == "steps"} >= {"limit", "AdamW fused", *script.HELD}
    assert len(results["checks"]) >= 8
    assert {target["status"] for target in results["targets"]} == {script.NOT_MEASURED}
    text = (tmp_path / "gpu.md").read_text()
    assert script.NOT_MEASURED.capitalize() in text
    assert text in done.stdout


def step_rows(script, **changes):
    """What a GPU that meets every target would give, but for the changes."""
    good = {"share of a copy's bandwidth": 0.9, "host ms": 0.2, "x AdamW fused": 0.95} | changes
    shapes = [("one-32M", 1, 2**25), ("1000x16", 1000, 16000)]
    return [
        {"table": "steps", "case": case, "tensors": n, "elements": elements, "dtype": "float32", "step": step} | good
        for case, n, elements in shapes
        for step in ("AdamW fused", *script.HELD)
    ]


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({}, ["met", "met", "met"]),
        ({"share of a copy's bandwidth": 0.849}, ["missed", "met", "met"]),
        ({"host ms": 0.301}, ["met", "missed", "met"]),
        ({"x AdamW fused": 1.01}, ["met", "met", "missed"]),
    ],
)
def test_targets_are_held_against_the_worst_that_was_measured(script, tmp_path, changes, statuses):
    run = script.Run(tmp_path, 6.0, interpret=False)
    run.parts = [{"part": name, "status": "done"} for name in script.PARTS]
    run.rows = step_rows(script)[1:] + step_rows(script, **changes)[-1:] + step_rows(script, **changes)[1:2]
    assert [target["status"] for target in run.results()["targets"]] == statuses
    assert run.results()["passed"] is (not changes)
    run.rows.append({"table": "graphs", "check": "x", "found": "y", "met": False})
    assert not run.results()["passed"]
    run.rows = []
    assert {target["status"] for target in run.results()["targets"]} == {"not measured"}
    assert not run.results()["passed"]


def hang(run, limit):
    """Finds one thing, then works until it is stopped."""
    yield {"table": "machine", "device": "none"}
    if run.process(["-c", "import time; time.sleep(600)"], run.out / "log", limit, interpreted=False) is None:
        raise TimeoutError("stopped")


def fail(run, limit):
    yield {"table": "gpt", "training": "none"}
    raise ValueError("no luck")


def test_a_part_that_fails_or_hangs_costs_no_other(script, tmp_path):
    run, start = script.Run(tmp_path, 1.0, interpret=False), time.monotonic()
    run.part("graphs", script.Part(12.0, hang))
    run.part("gpt", script.Part(60.0, fail))
    run.part("machine", script.Part(60.0, fail))
    run.part("step times", script.Part(60.0, hang))
    assert time.monotonic() - start < 300  # what hangs was stopped
    assert [part["status"] for part in run.parts] == ["stopped", "failed", "failed", "skipped"]
    assert [part["why"] for part in run.parts] == ["stopped", *["ValueError: no luck"] * 2, "it needs machine"]
    assert [row["table"] for row in run.rows] == ["machine", "gpt", "gpt"]
    run.parts.clear()
    run.start -= 60
    run.part("gpt", script.Part(60.0, fail))
    assert run.parts[0]["why"] == "no time was left"
    assert not run.write()["passed"]
    assert "no time was left" in (tmp_path / "gpu.md").read_text()
