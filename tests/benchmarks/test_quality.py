"""The judgement of 8 bits: on runs of digits, against the numbers that the runs' own files hold."""

import csv
import math
import sys

import numpy as np
from benchmarks import quality
from scipy import stats

PLAN = """
title = "Bits"
arms = ["32-bit", "8-bit"]
trials = 1
search_seed = 0
seeds = [1, 2, 3]
contrasts = [["8-bit", "32-bit"]]
reference = "32-bit"
workloads.digits = { task = "digits", scale = "smoke", margin = 0.5 }
space.common = { lr = 1e-3 }
space.32-bit = { optimizer = "AdaBelief" }
space.8-bit = { optimizer = "AdaBelief", state_bits = [16, 8] }
"""


def test_it_holds_where_the_interval_of_the_differences_is_within_half_of_the_seeds_deviation(
    tmp_path, monkeypatch, capsys
):
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN)
    monkeypatch.setattr(sys, "argv", ["quality.py", str(plan), "--out", str(out)])
    quality.main()
    rows = list(csv.DictReader((out / "quality.csv").read_text().splitlines()))
    loss = {arm: [float(row["validation_loss"]) for row in rows if row["arm"] == arm] for arm in ("32-bit", "8-bit")}
    assert len(rows) == 6
    assert loss["32-bit"] != loss["8-bit"], "the bits came as far as the optimizer"
    interval = stats.ttest_rel(loss["8-bit"], loss["32-bit"]).confidence_interval(0.9)
    reach = max(-interval.low, interval.high) / np.std(loss["32-bit"], ddof=1)
    *_, row = (out / "quality.md").read_text().splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["digits", "8-bit", "3"]
    assert math.isclose(float(cells[-2]), reach, abs_tol=0.006)
    assert cells[-1] == ("yes" if reach <= 0.5 else "no")
    assert row in capsys.readouterr().out


def test_before_the_runs_are_finished_it_says_so(tmp_path, monkeypatch, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(sys, "argv", ["quality.py", str(plan), "--out", str(tmp_path / "out"), "--report"])
    quality.main()
    assert "No workload is finished." in capsys.readouterr().out
