import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from adabelief.lab import figures, files, html, report, runs
from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks.toy import FUNCTIONS

pytestmark = pytest.mark.xdist_group("demo")  # so that one process makes the demonstration, for all of them
WALKS = [(name, label) for name, function in FUNCTIONS.items() for label in function.settings()]


def rows(out):
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


def table(markdown, first_header):
    """The cells of the Markdown table that begins with this header."""
    (block,) = (b for b in markdown.split("\n\n") if b.startswith(f"| {first_header} |"))
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    results = runs.demo(folder, seeds=(0, 1), epochs=1, steps=300, command="adabelief demo --epochs 1")
    assert results.complete
    return folder


def test_every_file_is_written_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == sorted(report.FILES)
    for name in report.FIGURES:
        with Image.open(out / name) as image:
            assert image.format == name.rpartition(".")[2].upper()
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20, "it shows something"


def test_animation(out):
    with Image.open(out / "beale.gif") as image:
        assert image.n_frames >= 60
    assert (out / "beale.gif").stat().st_size < 2e6


def test_one_row_a_run(out):
    found = [(row["task"], row["optimizer"], row["seed"]) for row in rows(out)]
    assert found == [("digits", name, seed) for seed in "01" for name in METHODS] + [(f, o, "") for f, o in WALKS]


def test_rows_have_their_settings(out):
    adabelief = rows(out)[0]
    assert json.loads(adabelief["settings"])["eps"] == 1e-8
    assert adabelief["epochs"] == adabelief["best_epoch"] == "1"
    assert 0 < float(adabelief["optimizer_seconds_per_step"]) < float(adabelief["seconds_per_step"])
    (cone,) = (row for row in rows(out) if (row["task"], row["optimizer"]) == ("cone", "SGD, undamped"))
    assert json.loads(cone["settings"]) == {"lr": 1e-3, "momentum": 0.9}
    assert int(cone["steps"]) == 300
    assert cone["arrival_step"] == ("271" if float(cone["last_distance"]) < 0.01 else "")


def test_report_has_the_numbers_of_the_csv(out):
    markdown = (out / "report.md").read_text()
    printed = {row["optimizer"]: row for row in table(markdown, "optimizer")}
    assert printed.keys() == METHODS.keys()
    for name, row in printed.items():
        first, second = (
            [100 * float(r[column]) for column in ("test_accuracy", "last_test_accuracy", "validation_accuracy")]
            for r in rows(out)
            if (r["task"], r["optimizer"]) == ("digits", name)
        )
        columns = ("test accuracy, %", "test accuracy after the last epoch, %", "validation accuracy, %")
        for column, a, b in zip(columns, first, second, strict=True):
            assert row[column] == f"{(a + b) / 2:.2f} ± {abs(a - b) / 2**0.5:.2f}"
        assert row["seed by seed"] == f"{first[0]:.2f}, {second[0]:.2f}"
    walked = table(markdown, "function")
    assert [(row["function"], row["optimizer"]) for row in walked] == WALKS
    for row, source in zip(walked, rows(out)[-len(WALKS) :], strict=True):
        assert row["arrival, step"].replace(",", "") == (source["arrival_step"] or "not reached")
        assert row["steps taken"] == source["steps"]
        assert float(row["last value"]) == pytest.approx(float(source["last_value"]), rel=0.06)


def test_every_setting_is_beside_its_number(out):
    markdown = (out / "report.md").read_text()
    printed = table(markdown, "optimizer") + table(markdown, "function")
    for row, source in zip(printed, [r for r in rows(out) if r["seed"] != "1"], strict=True):
        assert row["optimizer"] == source["optimizer"]
        for name, value in json.loads(source["settings"]).items():
            value = tuple(value) if isinstance(value, list) else value
            assert f"{name}={value!r}" in row["settings"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_html_needs_no_other_file(out):
    text = (out / "report.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(report.FIGURES)
    for attributes in images:
        assert re.match(r"data:image/(png|gif);base64,[A-Za-z0-9+/=]{1000}", attributes["src"])
        assert attributes["alt"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [a for tag, a in page.tags if "src" in a and tag != "img"]
    assert "url(" not in text
    assert "@import" not in text


def test_html_says_what_the_markdown_says(out):
    page = Page((out / "report.html").read_text())
    words = "".join(page.words)
    for row in table((out / "report.md").read_text(), "optimizer"):
        for cell in row.values():
            assert cell.strip("`") in words
    assert [tag for tag, _ in page.tags].count("table") == 3
    anchors = {attributes.get("id") for tag, attributes in page.tags if tag in ("h1", "h2", "h3")}
    assert {"in-short", "handwritten-digits", "six-functions-of-two-variables"} <= anchors


def test_nothing_of_an_earlier_demonstration_stays(tmp_path, monkeypatch):
    for name in (*report.FILES, "notes.txt"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(runs, "train", interrupt)
    runs.demo(tmp_path, epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "report.html", "report.md", "results.csv"]
    assert (tmp_path / "notes.txt").read_text() == "old"
    assert "old" not in (tmp_path / "results.csv").read_text()


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_interrupted_training_keeps_what_has_finished(tmp_path, monkeypatch):
    train = runs.train

    def train_three(task, name, seed, **more):
        if name == "AdamW":
            raise KeyboardInterrupt
        return train(task, name, seed, **more)

    monkeypatch.setattr(runs, "train", train_three)
    results = runs.demo(tmp_path, seeds=(0,), epochs=1)
    assert not results.complete
    assert [row["optimizer"] for row in rows(tmp_path)] == ["AdaBelief", "SGD", "Adam"]
    markdown = (tmp_path / "report.md").read_text()
    assert "**This report is incomplete.**" in markdown
    assert "after 3 of 9 training runs and 0 of 24 walks" in markdown
    assert [row["optimizer"] for row in table(markdown, "optimizer")] == ["AdaBelief", "SGD", "Adam"]
    assert "Six functions" not in markdown
    assert "incomplete" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "curves.png").exists()
    assert not (tmp_path / "trajectories.png").exists()


def test_results_are_on_disk_after_every_run(tmp_path, monkeypatch):
    counts = []
    train = runs.train

    def counting(*arguments, **more):
        counts.append(len(rows(tmp_path)) if (tmp_path / "results.csv").exists() else 0)
        if len(counts) == 4:
            raise KeyboardInterrupt
        return train(*arguments, **more)

    monkeypatch.setattr(runs, "train", counting)
    runs.demo(tmp_path, seeds=(0,), epochs=1)
    assert counts == [0, 1, 2, 3]


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as POSIX does")
def test_ctrl_c(tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from adabelief.cli import main; main()"
    )
    arguments = ["demo", "--out", str(tmp_path), "--seeds", "0", "--epochs", "4"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "results.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    last = stdout.splitlines()[-1]
    assert last.startswith("Interrupted")
    assert str(tmp_path / "report.html") in last
    finished = rows(tmp_path)
    assert 1 <= len(finished) < 9
    assert f"after {len(finished)} of 9 training runs" in (tmp_path / "report.md").read_text()


def test_progress_bar_is_for_terminals(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", interrupt)
    for terminal in (True, False):
        file = io.StringIO()
        runs.demo(tmp_path, epochs=1, console=Console(file=file, force_terminal=terminal, width=100))
        assert ("interrupted" in file.getvalue()) == terminal


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x"
    files.write(path, "one")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "two")
    assert path.read_text() == "one"


def test_adabelief_has_the_same_colour_everywhere_and_no_two_share_one():
    assert figures.COLOURS.keys() == METHODS.keys()
    assert len(set(figures.COLOURS.values())) == len(set(figures.MARKERS.values())) == 9


def test_page_escapes_html():
    text = html.page("# a < b\n\n<script>alert(1)</script>", {})
    assert "<script" not in text
    assert "<title>a &lt; b</title>" in text
    assert '<h1 id="a--b">' in text
