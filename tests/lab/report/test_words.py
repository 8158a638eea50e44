import math

import pytest

from adabelief.lab.analysis.differences import Comparison
from adabelief.lab.report.words import join, margin, number, rough, spread


def test_spread():
    assert spread([98.0, 99.0, 98.5]) == "98.50 ± 0.50"
    assert spread([98.0]) == "98.00"
    assert spread([0.021, 0.023]) == "0.0220 ± 0.0014"
    assert number(0.5, beside=98.0) == "0.50"
    assert number(-64.05) == "−64.05"  # with the sign that `signed` has
    assert number(-0.001, beside=1) == "0.00"  # nothing is below 0 that is shown as 0
    assert (rough(-2.649), rough(0.0123)) == ("−2.6", "0.012")


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (Comparison(-0.5, 1.25, 98.0), "−0.50 ± 1.25"),
        (Comparison(0.0, 1.0, 98.0), "+0.00 ± 1.00"),
        (Comparison(3.0, math.nan, 98.0), "+3.00"),
        (Comparison(0.002, 0.001, 0.05), "+0.0020 ± 0.0010"),
    ],
)
def test_a_comparison_as_text(comparison, text):
    assert margin(comparison) == text


def test_join():
    assert [join(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
