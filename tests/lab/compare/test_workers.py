"""The command itself, with workers of which one is killed."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from adabelief.lab.commands import app

DIGITS = """
arms = ["AdaBelief", "AdamW"]
trials = 2
seeds = [1, 2]
[workloads.digits]
task = "digits"
scale = "smoke"
epochs = 1
margin = 1.0
[space.common]
lr = { low = 1e-3, high = 1e-1 }
"""


def test_workers_that_are_killed_are_replaced_and_lose_nothing(tmp_path):
    """The command itself, on the digits: one of two workers gets SIGKILL after the first run."""
    (tmp_path / "plan.toml").write_text(DIGITS)
    command = [sys.executable, "-m", "adabelief", "compare", "plan.toml", "--cpu", "--workers", "2", "--out", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    killed, limit = 0, time.monotonic() + 400
    while process.poll() is None and time.monotonic() < limit:
        working = list((tmp_path / "out" / "search").rglob("metrics.jsonl"))
        if not killed and len(working) > 1 and children.exists():
            for child in workers_of(process.pid):
                os.kill(child, signal.SIGKILL)
                killed += 1
                break
        time.sleep(0.02)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "Budget" in output
    assert "hours left" in output
    found = list(csv.DictReader((tmp_path / "out" / "report" / "trials.csv").read_text().splitlines()))
    assert len(found) == 8
    assert {row["state"] for row in found} == {"finished"}
    if sys.platform == "linux":
        assert killed == 1
    again = CliRunner().invoke(
        app, ["compare", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out"), "--report"]
    )
    assert again.exit_code == 0, again.output
    assert multiprocessing.active_children() == []


def workers_of(pid):
    """The processes that work for a command: those that the forkserver below it made."""
    found, waiting = [], [pid]
    while waiting:
        at = waiting.pop()
        try:
            below = list(map(int, Path(f"/proc/{at}/task/{at}/children").read_text().split()))
        except OSError:
            continue
        waiting += below
        found += below
    names = {
        child: (Path("/proc") / str(child) / "cmdline").read_bytes().decode().replace("\0", " ") for child in found
    }
    return [child for child, name in names.items() if "forkserver" in name and parent(child) in found]


def parent(pid):
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
