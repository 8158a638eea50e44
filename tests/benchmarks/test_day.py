"""A run that is killed and resumed, in tiny: a minute, so only with the whole table of `make distributed`."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/day.py"


@pytest.mark.skipif(not os.environ.get("ADABELIEF_DISTRIBUTED"), reason="part of make distributed")
def test_a_killed_run_resumes_and_ends(tmp_path):
    command = [sys.executable, str(SCRIPT), *f"--steps 40 --seeds 2 --kills 1 --out {tmp_path}".split()]
    told = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert told.returncode in (0, 1), told.stderr  # 40 steps say nothing about noise
    with (tmp_path / "losses.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "disturbed"]
    steps = [int(row["step"]) for row in rows]
    assert sorted(set(steps)) == list(range(40))
    assert {row["processes"] for row in rows} == {"1", "2"}
    assert {row["bits"] for row in rows} == {"8", "[16, 8]", "32"}
    assert all((tmp_path / name).exists() for name in ("README.md", "losses.png"))


def test_what_makes_no_run_is_refused():
    told = subprocess.run([sys.executable, str(SCRIPT), "--seeds", "1"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "--seeds 1: give at least 2" in told.stderr
