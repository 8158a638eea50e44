import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from adabelief.lab import demo as module
from adabelief.lab import tasks
from adabelief.lab.demo import demo
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report import race

pytestmark = pytest.mark.xdist_group("demo")  # so that one process makes the demonstration, for all of them
WALKS = [(name, label) for name, function in FUNCTIONS.items() for label in function.settings()]
NAMES = list(tasks.task("digits").settings(""))


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "race", lambda walks: {"gif": b"", "dark.gif": b""})  # test_report.py has a real one
        assert demo(folder, (0,), epochs=1, steps=300, command="adabelief demo --epochs 1", console=quiet())
    return folder


def test_one_row_a_run(out):
    found = rows(out / "results.csv")
    assert {row["optimizer"] for row in found} == set(NAMES)
    assert {(row["seed"], row["epochs"], row["finished"]) for row in found} == {("0", "1", "True")}
    assert json.loads(found[0]["settings"])["eps"] == 1e-8
    assert [(row["function"], row["optimizer"]) for row in rows(out / "walks.csv")] == WALKS


def test_report(out):
    text = (out / "report.md").read_text()
    assert "incomplete" not in text
    assert "## digits, paper" in text
    assert "epochs 1 instead of this scale's 20" in text
    assert "## Functions of two variables" in text
    assert "adabelief demo --epochs 1" in text


def test_nothing_is_trained_twice(out, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("metrics.jsonl")}
    (out / "report.md").unlink()
    monkeypatch.setattr(module.toy, "walk", interrupt)
    assert not demo(out, (0,), epochs=1, console=quiet())
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("metrics.jsonl")}
    text = (out / "report.md").read_text()
    assert (
        f"**This report is incomplete.** It has {len(NAMES)} of {len(NAMES)} training runs and 0 of 24 walks." in text
    )
    assert "Six functions" not in text
    assert not (out / "walks.csv").exists()


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_interrupted_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(module.session, "run", interrupt)
    assert not demo(tmp_path, epochs=1, console=quiet())
    text = (tmp_path / "report.md").read_text()
    assert f"It has 0 of {3 * len(NAMES)} training runs and 0 of 24 walks." in text
    assert "incomplete" in (tmp_path / "report.html").read_text()


def test_runs_of_other_epochs_are_not_in_the_report(tmp_path, monkeypatch):
    shown = []

    def sgd_only(task, configs, out, **more):
        session_run(task, [config for config in configs if config.optimizer == "SGD"], out, **more)
        raise KeyboardInterrupt

    session_run = module.session.run
    monkeypatch.setattr(module.session, "run", sgd_only)
    monkeypatch.setattr(module.report, "write", lambda out, runs, **more: shown.append(runs))
    for epochs in (1, 2):
        demo(tmp_path, (0,), epochs=epochs, console=quiet())
    assert [[(run.label, run.config.epochs) for run in runs] for runs in shown] == [[("SGD", 1)], [("SGD", 2)]]


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as POSIX does")
def test_ctrl_c(tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from adabelief.cli import main; main()"
    )
    arguments = ["demo", "--out", str(tmp_path), "--seeds", "0", "--epochs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("result.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    last = stdout.splitlines()[-1]
    assert last.startswith("Not all of it has finished")
    assert str(tmp_path / "report.html") in last
    finished = [row for row in rows(tmp_path / "results.csv") if row["finished"] == "True"]
    assert 1 <= len(finished) < len(NAMES)
    assert f"It has {len(finished)} of {len(NAMES)} training runs" in (tmp_path / "report.md").read_text()


def test_progress_bar_is_for_terminals(tmp_path, monkeypatch):
    monkeypatch.setattr(module.session, "run", lambda *_, **__: [])
    monkeypatch.setattr(module.toy, "walk", interrupt)
    for terminal in (True, False):
        file = io.StringIO()
        demo(tmp_path, epochs=1, console=Console(file=file, force_terminal=terminal, width=100))
        assert ("cone" in file.getvalue()) == terminal
