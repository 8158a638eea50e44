import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from adabelief.lab import tasks
from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.commands import app
from adabelief.lab.optimizers import METHODS
from adabelief.lab.report import figures, html, report, style
from adabelief.lab.task import Metric
from tests.lab import synthetic
from tests.lab.report.reading import tables, text_of

pytestmark = pytest.mark.xdist_group("report")  # so that one process makes the report, for all of them


STEMS = [f"{name}-{kind}" for name in ("cifar10-resnet34-small", "digits-small") for kind in ("curves", "test", "time")]


def test_every_file_is_written_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == [
        *("figures", "manifest.json", "report.html", "report.md", "results.csv", "table.tex", "walks.csv")
    ]
    names = [f"{stem}.{suffix}" for stem in (*STEMS, "trajectories", "distances") for suffix in ("png", "svg")]
    assert {path.name for path in (out / "figures").iterdir()} - {"race.mp4"} == {*names, "race.gif", "race.dark.gif"}


def test_figures_show_something(out):
    for path in (out / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert image.width == pytest.approx(style.WIDTH * style.DPI, abs=2)
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    for path in (out / "figures").glob("*.svg"):
        assert path.read_text().startswith("<?xml")
    with Image.open(out / "figures/race.gif") as image:
        assert image.n_frames >= 60
    assert (out / "figures/race.gif").stat().st_size < 2e6


def test_nothing_is_cut_off_by_the_sides_of_a_figure(tmp_path):
    """Of a search, whose labels are long: what is drawn does not touch the border."""
    for optimizer in ("AdaBelief", "Adam", "AdamW"):
        for lr in (0.0003, 0.001, 0.003):
            synthetic.write(tmp_path, synthetic.config(optimizer, task="digits", lr=lr))
    (searched,) = experiments(load([tmp_path]))
    for draw in (figures.curves, figures.dots, figures.times):
        with Image.open(io.BytesIO(draw(judge(searched))["png"])) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.min() < 255
        assert (pixels[:, [0, -1]] == 255).all(), draw.__name__


def test_figures_come_out_the_same(runs, out):
    first = experiments(load([runs]))[0]
    for suffix, content in figures.curves(judge(first)).items():
        assert content == (out / f"figures/cifar10-resnet34-small-curves.{suffix}").read_bytes()


def test_numbers_are_in_their_columns(out):
    adabelief, changed, sgd, adam, eadam = tables((out / "report.md").read_text())[0]
    assert adabelief["optimizer"] == "AdaBelief"
    assert adabelief["test accuracy, %"] == "94.50 ± 0.71"
    assert adabelief["test accuracy, %, last epoch"] == "94.00 ± 0.71"
    assert adabelief["validation accuracy, %"] == "95.50 ± 0.71"
    assert adabelief["seed by seed"] == "94.00, 95.00"
    assert adabelief["best epoch"] == "3, 3"
    assert adabelief["last training loss"] == "0.25"
    assert adabelief["minus AdaBelief's"] == "0"
    assert changed["optimizer"] == "AdaBelief (lr=0.01)"
    assert changed["minus AdaBelief's"] == "−44.50", "one seed: no interval"
    assert "`lr=0.01, " in changed["settings"]
    assert sgd["minus AdaBelief's"].startswith("−2.00 ± ")
    assert sgd["seed by seed"] == "93.00, 92.00, unfinished"
    assert sgd["best epoch"] == "3, 3, –"
    assert (adam["optimizer"], adam["seed by seed"]) == ("Adam †", "90.00, 90.00, diverged")
    assert (adam["test accuracy, %"], adam["minus AdaBelief's"]) == ("90.00 ± 0.00", "–")
    assert re.fullmatch(r"\*\*−14\.50 ± \d\.\d\d\*\*", eadam["minus AdaBelief's"]), "beyond the noise"


def test_every_setting_is_beside_every_number(out, runs):
    settings = {
        name: {f"{k}={v!r}" for k, v in synthetic.config(name).settings.items()}
        for name in METHODS
        if name != "RMSprop"
    }
    for table in tables((out / "report.md").read_text())[:4]:
        for row in table:
            name = re.sub(r" †| \(.*\)", "", row["optimizer"])
            printed = next(row[column] for column in ("settings", "our settings") if column in row)
            assert all(setting in printed for setting in settings[name] if "(" not in row["optimizer"])


def test_what_was_scaled_down_is_said(out):
    text = (out / "report.md").read_text()
    assert "**Otherwise than in the published experiment:** 5,000 training" in text
    assert "**Asked for:** epochs 4 instead of this scale's 8." in text
    assert "**Asked for:** epochs 2 instead of this scale's 20." in text
    assert "resnet34, 10,000 parameters, 300 validation examples, 2,000 test examples, 4 epochs, batches of 128" in text
    assert "divided by 10 after epoch 3" in text


def test_diverged_and_unfinished_runs_are_said(out):
    text = (out / "report.md").read_text()
    assert "**Unfinished, and in no number below:** SGD, seed 2 (1 of 4 epochs)." in text
    assert "**Diverged, and in no mean below:** Adam diverged (seed 2 in epoch 2)." in text


def test_time_to_target(out):
    (table,) = (t for t in tables((out / "report.md").read_text())[:3] if "seconds to target" in t[0] and len(t) > 2)
    rows = {row["optimizer"]: row for row in table}
    # Worst seeds' bests: 95 (AdaBelief), 93 (SGD), 81 (EAdam), 50 (lr=0.01); of the middle two, the worse.
    assert "The target is a validation accuracy of 81.00 %" in (out / "report.md").read_text()
    column = "epochs to target, seed by seed"
    assert [rows[name][column] for name in ("AdaBelief", "SGD", "EAdam")] == ["3, 3"] * 3
    assert rows["AdaBelief"]["seconds to target"] == "6.0"
    assert rows["AdaBelief (lr=0.01)"][column] == "never"
    assert rows["AdaBelief (lr=0.01)"]["seconds to target"] == "– (0 of 1 seeds)"
    assert (rows["SGD"]["`step()`, ms"], rows["SGD"]["whole step, ms"], rows["SGD"]["whole run, s"]) == (
        "1.00",
        "5.00",
        "8.0",
    )


def test_several_experiments_have_a_section_each(out):
    text = (out / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings == [
        *("In short", "cifar10, resnet34, small", "digits, small", "Functions of two variables"),
        *("How to read the numbers", "Whose optimizers these are", "Where it was run", "Once more"),
    ]
    for name in headings[1:3]:
        assert f"[{name}](#{html.slug(name)})" in text


def test_where_it_was_run(out):
    text = (out / "report.md").read_text()
    assert "13 runs on A processor, Linux: 2 cores, 1 thread of torch, device cpu, 1 process. Python 3.12.1, " in text
    assert "adabelief 1.0, torch 2.14.1, commit abc1234. Started by" in text
    assert "```sh\n    adabelief train digits --optimizer all\n    ```" in text


def test_runs_of_several_commits_in_one_place_are_told_together(tmp_path):
    for seed, commit in enumerate(("abc1234", "def5678", "abc1234")):
        synthetic.write(tmp_path, synthetic.config(seed=seed), environment={**synthetic.ENVIRONMENT, "commit": commit})
    (line,) = (line for line in text_of(tmp_path).splitlines() if " on A processor" in line)
    assert line.startswith("- 3 runs on A processor")
    assert "commits abc1234 and def5678. Started by" in line


def test_a_report_tells_nothing_of_its_writer_s_folders(tmp_path):
    command = [
        "/home/ada/bin/adabelief",
        "train",
        "wgan",
        "--data",
        "/home/ada/cifar",
        "--set",
        "features=/home/ada/a.pt2",
    ]
    synthetic.write(
        tmp_path / "runs",
        synthetic.config(task="wgan", features="/home/ada/a.pt2"),
        environment={**synthetic.ENVIRONMENT, "command": command},
    )
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report /home/ada/runs --out report")
    for name in ("report.md", "report.html", "results.csv", "table.tex"):
        assert "/home/ada" not in (tmp_path / name).read_text()
    text = (tmp_path / "report.md").read_text()
    assert "adabelief train wgan --data cifar --set features=a.pt2\n" in text
    assert "features a.pt2 instead of this scale's random-conv" in text
    assert "```sh\nadabelief report runs --out report\n```" in text


def test_tables_name_what_they_are_of(out):
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    with (out / "walks.csv").open() as file:
        assert [row["arrival_step"] for row in csv.DictReader(file)] == ["", "271", "", "", "", "", ""]


def test_a_metric_that_is_better_when_lower(tmp_path, monkeypatch):
    task = replace(tasks.task("digits"), metric=Metric("perplexity", higher_is_better=False))
    monkeypatch.setattr(tasks, "task", lambda name: task)
    for name, value in (("AdaBelief", 60.0), ("SGD", 70.0), ("Adam", 80.0)):
        for seed in (0, 1):
            values = (200.0, value + seed)
            synthetic.write(tmp_path / "runs", synthetic.config(name, seed), values, values, best=2, examples=None)
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report runs")
    results, times = tables((tmp_path / "report.md").read_text())[:2]
    assert results[1]["test perplexity"] == "70.50 ± 0.71"
    assert re.fullmatch(r"\*\*\+10\.00 ± \d\.\d\d\*\*", results[1]["minus AdaBelief's"])
    assert [row["epochs to target, seed by seed"] for row in times] == ["2, 2", "2, 2", "never, never"]


def test_nothing_finished(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config(), (50.0,), (49.0,), planned=4, finished=False)
    report.write(tmp_path / "out", load([tmp_path / "runs"]), command="adabelief report runs")
    assert "Nothing has come to its end." in (tmp_path / "out/report.md").read_text()
    assert list((tmp_path / "out/figures").iterdir()) == []


def test_no_runs_at_all(tmp_path):
    report.write(tmp_path, [], command="adabelief demo")
    assert "Nothing has finished." in (tmp_path / "report.md").read_text()


def test_figures_of_an_earlier_report_go_and_nothing_else(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config())
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report runs")
    (tmp_path / "figures/mine-curves.png").write_text("mine")
    report.write(tmp_path, [], command="adabelief report runs")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine-curves.png"]


def test_a_run_that_cannot_be_read_is_named_and_costs_nothing_else(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config("SGD"))
    folder = synthetic.write(tmp_path / "runs", synthetic.config())
    (folder / "result.json").write_text("[]")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert f"Left out: {folder / 'result.json'} is damaged: it is no JSON object" in done.stdout
    text = (tmp_path / "out/report.md").read_text()
    assert "## Runs left out" in text
    assert "- digits-small/AdaBelief/seed0/result.json is damaged: it is no JSON object" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("tasks_of", "names", "title"),
    [
        (["digits"], ["AdaBelief", "SGD", "Adam", "Yogi"], "AdaBelief and its rivals on digits (small)"),
        (["digits"], ["AdaBelief"], "AdaBelief on digits (small)"),
        (["digits", "charlm"], ["AdaBelief", "SGD"], "AdaBelief and SGD on charlm (small) and digits (small)"),
        (["rl-sac"], ["SGD"], "SGD on rl-sac (HalfCheetah-v5, small)"),
        (
            ["digits", "charlm", "vit", "sngan"],
            ["AdaBelief"],
            "AdaBelief on charlm (small), digits (small) and 2 more experiments",
        ),
    ],
)
def test_the_title_says_what_a_report_is_of(tmp_path, tasks_of, names, title):
    for task in tasks_of:
        for name in names:
            synthetic.write(tmp_path, synthetic.config(name, task=task))
    assert report.title_of([*map(judge, experiments(load([tmp_path])))]) == title
