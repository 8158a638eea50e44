"""What a terminal shows of a run: a line that fits."""

import io
import re

import pytest
from rich.console import Console

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.progress import Line, shown
from adabelief.lab.engine.run import Observer
from adabelief.lab.engine.summary import summary
from tests.lab.tiny import linear

FACTS = ["epoch 12/200", "run 3/8", "accuracy 91.2 %", "loss 0.0123"]


def drawn(line, width):
    """What a terminal of that width shows, in words, and the columns of the bar."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(line)
    (text,) = console.file.getvalue().splitlines()
    assert len(text) <= width
    return " ".join(re.sub("[━╸╺]+", " ", text).split()), len(re.findall("[━╸╺]", text))


@pytest.mark.parametrize(
    ("width", "facts", "bar"),
    [(120, 4, True), (100, 4, True), (80, 3, True), (60, 1, True), (50, 1, False), (40, 0, True), (34, 0, False)],
)
def test_a_line_fits_and_the_least_important_goes_first(width, facts, bar):
    line = Line("AdaBelief, seed 0")
    line.share, line.left, line.facts = 0.4, 754.0, FACTS
    text, columns = drawn(line, width)
    assert text == " ".join(["AdaBelief, seed 0", *FACTS[:facts], "0:12:34 left"])
    assert bool(columns) == bar


@pytest.mark.parametrize("width", [10, 20, 30, 80])
def test_a_long_name_is_cut_and_never_wrapped(width):
    line = Line("AdaBelief,betas=(0.5,0.999),eps=1e-12,lr=0.001,weight_decay=0.0005, seed 0")
    line.left, line.facts = 754.0, FACTS
    drawn(line, width)


def run(tmp_path, console, **choices):
    return session.run(linear(), plan(linear(), scale="smoke", **choices), tmp_path, cpu=True, console=console)


def test_without_a_terminal_there_is_a_plain_line_an_epoch(tmp_path):
    console = Console(width=80, file=io.StringIO())
    run(tmp_path, console, names=["SGD", "Adam"])
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 * (4 + 1)
    for i, line in enumerate(lines[:4], 1):
        assert re.fullmatch(
            rf"SGD, seed 0, epoch {i}/4, run 1/2, accuracy [\d.]+ %, loss [\d.]+, 0:\d\d:\d\d left", line
        )
    assert lines[5].startswith("Adam, seed 0, epoch 1/4, run 2/2, ")


def test_on_a_terminal_each_run_leaves_one_line(tmp_path):
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    run(tmp_path, console, names=["SGD", "Adam"])
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n")
    assert [line for line in text.splitlines() if "test accuracy" in line]
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"epoch \d/4, ", text)


def test_nothing_is_shown_of_what_is_over():
    console = Console(width=80, file=io.StringIO())
    with shown(Line("work"), console):
        pass
    assert console.file.getvalue() == ""


def result(test, diverged=False, best=3):
    common = {"optimizer_seconds": 1e-3, "step_seconds": 2e-3, "validation": test, "parameters": 1, "run_seconds": 1.0}
    return {**common, "test": test, "last_test": test - 1, "best_epoch": best, "diverged": diverged, "epochs": 4}


def table(results):
    """The rows of the summary of (optimizer, settings, results), in words."""
    found = []
    for name, changes, outcomes in results:
        configs = plan(linear(), scale="smoke", names=[name], seeds=range(len(outcomes)), changes=changes)
        found += zip(configs, outcomes, strict=True)
    console = Console(width=80, file=io.StringIO())
    console.print(summary(linear(), found))
    title, *lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    return title.strip(), [" ".join(line.split()) for line in lines[2:]]


def test_the_summary_is_of_means_over_seeds():
    title, rows = table(
        [
            ("AdaBelief", {}, [result(90.0), result(92.0), result(94.0)]),
            ("SGD", {"lr": 0.5}, [result(80.0), result(10.0, diverged=True), result(81.0)]),
            ("Adam", {}, [result(10.0, diverged=True), result(10.0, diverged=True)]),
        ]
    )
    assert title == "Accuracy (%), mean ± standard deviation over the seeds"
    assert rows[0] == "AdaBelief 3 92.00 ± 2.00 3 91.00 ± 2.00 1.00 2.00"
    assert "SGD, lr=0.5 (1 2 80.50 ± 0.71 3 79.50 ± 0.71 1.00 2.00" in " ".join(rows) or rows[1].startswith(
        "SGD, lr=0.5"
    )
    assert "diverged" in rows[-1]
    assert "10.00" not in " ".join(rows)


def test_one_seed_has_no_spread():
    assert table([("SGD", {}, [result(90.0)])]) == ("Accuracy (%)", ["SGD 1 90.00 3 89.00 1.00 2.00"])


class Stopping(Observer):
    """Ends every run after its second epoch, as one that prunes would."""

    def stop(self, run):
        return run.state.epoch >= 2


def test_an_observer_may_end_a_run_which_goes_on_later(tmp_path):
    configs, console = plan(linear(), scale="smoke"), Console(file=io.StringIO())
    ended = session.run(linear(), configs, tmp_path, cpu=True, observers=[Stopping()], console=console)
    assert ended == []
    assert "epoch 2/4" in console.file.getvalue()
    assert "epoch 3/4" not in console.file.getvalue()
    ((_, result),) = session.run(linear(), configs, tmp_path, cpu=True, console=console)
    assert result["epochs"] == 4
