import numpy as np
import pytest

from adabelief.lab import findings, report
from adabelief.lab.findings import join, margin, on_digits, on_toys, spread, standard_error
from adabelief.lab.results import Results
from adabelief.lab.tasks.toy import FUNCTIONS, Walk
from adabelief.lab.train import Epoch, Run


def run(optimizer, accuracy, seed=0, seconds=1e-3):
    epochs = (Epoch(1.0, 1.0, 0.5),)
    return Run("digits", optimizer, seed, {}, epochs, 1, accuracy, accuracy, seconds, 5e-3)


def walks(arrivals):
    return [
        Walk(name, label, {}, np.zeros((2, 2)), arrivals[label])
        for name, function in FUNCTIONS.items()
        for label in function.settings()
    ]


def test_standard_error_is_binomial():
    assert standard_error([run("SGD", 0.9)]) == pytest.approx(100 * (0.9 * 0.1 / 300) ** 0.5)
    assert standard_error([run("SGD", 0.9), run("Adam", 0.8)]) == pytest.approx(100 * (0.85 * 0.15 / 300) ** 0.5)
    assert standard_error([run("SGD", 1.0)]) > 0.3, "not 0 where there is no error"


def test_no_winner_within_the_margin():
    runs = [run("AdaBelief", 0.985), run("SGD", 0.98), run("Adam", 0.99)]
    text = " ".join(on_digits(runs))
    assert margin(runs) == pytest.approx(2.0, abs=0.5)
    assert "no winner" in text
    assert "the highest that of Adam" in text
    assert "Above it: Adam." in text
    assert "2 of the other 2" in text


def test_a_difference_beyond_the_margin_is_named():
    text = " ".join(on_digits([run("AdaBelief", 0.90), run("SGD", 0.98), run("Adam", 0.99)]))
    assert "only AdaBelief did worse than Adam by more than that" in text
    assert "no winner" not in text
    assert "Above it: SGD and Adam." in text
    assert "0 of the other 2" in text


def test_times_are_told_whoever_is_slow():
    runs = [run("AdaBelief", 0.98, seconds=3e-3), run("SGD", 0.98, seconds=1e-3), run("Adam", 0.98, seconds=2e-3)]
    assert "from 1.00 ms (SGD) to 3.00 ms (AdaBelief); AdaBelief's takes 3.00 ms" in " ".join(on_digits(runs))


def test_one_optimizer_is_no_comparison():
    assert on_digits([run("AdaBelief", 0.98)]) == [
        "Digits: only AdaBelief has finished, with a test accuracy of 98.00 %."
    ]
    assert on_digits([]) == []


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ({"SGD": None, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5}, "on 6 of 6"),
        ({"SGD": 4, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5}, "on 0 of 6"),
        ({"SGD": None, "SGD, undamped": 1, "Adam": 9, "AdaBelief": None}, "on 0 of 6"),
        ({"SGD": None, "SGD, undamped": 1, "Adam": None, "AdaBelief": 5}, "arrives before AdaBelief on cone, valley"),
    ],
)
def test_toys(arrivals, expected):
    (sentence,) = on_toys(walks(arrivals))
    assert expected in sentence


def test_unfinished_functions_are_left_out():
    done = walks({"SGD": None, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5})
    assert "on 1 of 1 (cone)" in on_toys(done[:7])[0]
    assert on_toys(done[:3]) == []


def test_spread():
    assert spread([98.0, 99.0, 98.5]) == "98.50 ± 0.50"
    assert spread([98.0]) == "98.00"


def test_join():
    assert [join(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_each_number_is_in_its_column():
    epochs = (Epoch(3.0, 0.5, 0.91), Epoch(2.0, 0.6, 0.81))
    settings = {"lr": 0.1, "momentum": 0.9}
    only = Run("digits", "SGD", 5, settings, epochs, 1, 0.71, 0.61, 0.00123, 0.00456)
    markdown = report.markdown(Results(1, 0, 10, runs=[only]), command="adabelief demo", seconds=1)
    (row,) = (line for line in markdown.splitlines() if line.startswith("| SGD"))
    expected = ["SGD", "71.00", "71.00", "61.00", "91.00", "1", "2", "1.23", "4.56", "`lr=0.1, momentum=0.9`"]
    assert [cell.strip() for cell in row.strip("|").split(" | ")] == expected
    assert "over seed 5." in markdown
    assert "incomplete" not in markdown


def test_summary_is_of_the_runs():
    (row,) = report.summary([run("SGD", 0.98), run("SGD", 0.99, seed=1)])
    assert row["optimizer"] == "SGD"
    assert row["test accuracy, %"] == findings.spread([98.0, 99.0])
    assert row["step(), ms"] == "1.00"
