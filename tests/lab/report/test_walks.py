import numpy as np
import pytest

from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report.walks import on_walks
from adabelief.lab.tasks.toy import Walk


def walks(arrivals):
    return [
        Walk(name, label, {}, np.zeros((2, 2)), arrivals[label])
        for name, function in FUNCTIONS.items()
        for label in function.settings()
    ]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ({"SGD": None, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5}, "on 6 of 6"),
        ({"SGD": 4, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5}, "on 0 of 6"),
        ({"SGD": None, "SGD, undamped": 1, "Adam": 9, "AdaBelief": None}, "on 0 of 6"),
        ({"SGD": None, "SGD, undamped": 1, "Adam": None, "AdaBelief": 5}, "arrives before AdaBelief on cone, valley"),
    ],
)
def test_who_arrives_first(arrivals, expected):
    (sentence,) = on_walks(walks(arrivals))
    assert expected in sentence


def test_unfinished_functions_are_left_out():
    done = walks({"SGD": None, "SGD, undamped": None, "Adam": 9, "AdaBelief": 5})
    assert "on 1 of 1 (cone)" in on_walks(done[:7])[0]
    assert on_walks(done[:3]) == []
