"""The chapter on what a probe saw."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, Probe
from adabelief.lab.analysis.runs import load
from adabelief.lab.report import report
from tests.lab import synthetic


def look(optimizer_class, path, module="model", **options):
    """Writes what a probe sees of a small network in 20 steps, at every fifth of them."""
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    optimizer = optimizer_class(model.parameters(), **options)
    with Probe(optimizer, 5, named_parameters=model.named_parameters()) as probe, path.open("a") as file:
        for step in range(1, 21):
            optimizer.zero_grad()
            (1e-3 * (model(torch.randn(8, 6)) ** 2).mean()).backward()
            optimizer.step()
            if step % 5 == 0:
                file.write(json.dumps({"run_step": step, "module": module, **probe.report()}) + "\n")


@pytest.fixture
def runs(tmp_path):
    first = synthetic.write(tmp_path, synthetic.config("AdaBelief"))
    look(AdaBelief, first / "probe.jsonl", eps=1e-8)
    second = synthetic.write(tmp_path, synthetic.config("AdamW"))
    look(torch.optim.AdamW, second / "probe.jsonl")
    synthetic.write(tmp_path, synthetic.config("SGD"))
    return tmp_path


def test_chapter(runs):
    report.write(runs / "report", load([runs]), command="adabelief report runs")
    text = (runs / "report/report.md").read_text()
    assert "## Probe: digits, small" in text
    before, chapter = text.split("## Probe: digits, small")
    chapter = chapter.partition("\n## ")[0]
    assert "- **AdaBelief**: 100 % of the elements are ruled by eps: this is momentum SGD; eps <= 1e-" in chapter
    assert "- **AdamW**: 0 % of the elements are ruled by eps: this is adaptive" in chapter
    assert "AdaBelief: 100 % of the elements" in before  # in short
    for row in [line for line in chapter.splitlines() if line.startswith("| AdaBelief | `weight`")]:
        assert row.split(" | ")[2:5] == ["30", "100 %", "0.0032"]
    for name in ("denominator", "ruled"):
        assert (runs / f"report/figures/digits-small-{name}.png").stat().st_size > 1000
    rows = list(csv.DictReader(io.StringIO((runs / "report/digits-small-probe.csv").read_text())))
    assert len(rows) == 2 * 4 * (1 + 2)
    recorded = json.loads((load([runs])[0].path / "probe.jsonl").read_text().splitlines()[-1])
    (found,) = [
        r for r in rows if (r["optimizer"], r["run_step"], r["name"]) == (recorded["optimizer"], "20", "weight")
    ]
    assert float(found["ruled_by_eps"]) == recorded["layers"]["weight"]["ruled_by_eps"]
    listed = json.loads((runs / "report/manifest.json").read_text())["files"]
    assert {"digits-small-probe.csv", "figures/digits-small-denominator.png"} <= set(listed)


def test_modules_are_told_apart(runs):
    (run,) = [run for run in load([runs]) if run.config.optimizer == "AdaBelief"]
    look(AdaBelief, run.path / "probe.jsonl", module="critic", eps=1e-16)
    report.write(runs / "report", load([runs]), command="adabelief report runs")
    text = (runs / "report/report.md").read_text()
    assert "**AdaBelief, model**: 100 %" in text
    assert "**AdaBelief, critic**: 0 %" in text


def test_without_a_probe_there_is_no_chapter(tmp_path):
    synthetic.write(tmp_path, synthetic.config("AdaBelief"))
    report.write(tmp_path / "report", load([tmp_path]), command="adabelief report runs")
    assert "Probe" not in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "damaged in line 1"), ("[]", "damaged in line 1: it has no 'run_step'"), ('{"run_step": 1}', "no 'module'")],
)
def test_a_damaged_file_is_named(line, message, tmp_path):
    folder = synthetic.write(tmp_path, synthetic.config("AdaBelief"))
    (folder / "probe.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"probe\.jsonl is .*{message}"):
        load([tmp_path])
