"""What an option may be, and what is said of what it may not be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from adabelief.options import (
    ADAPTIVE_FROM,
    ALPHA,
    BETA,
    MAX_UPDATE,
    RATE,
    K,
    centralized_dims,
    check,
    never_adaptive,
    never_adaptive_text,
    pair,
)
from adabelief.rule import sma_limit

NEITHER = (None, "1", True, 1j, math.nan, [0.5], np.array(0.5), np.True_)
RANGES = {
    "rate": (RATE, (0, 1e-3, np.float32(1e-3), Fraction(1, 3), 5), (-1e-9, math.inf, np.float64(-1))),
    "beta": (BETA, (0, 0.999, np.float16(0.9)), (1, 1.0, -0.1)),
    "max_update": (MAX_UPDATE, (1e-3, 1, np.float32(2), math.inf), (0, -1.0)),
    "alpha": (ALPHA, (0, 0.5, 1, np.int8(1)), (1.001, -0.1)),
    "k": (K, (1, 6.0, np.int64(5)), (0, 2.5, -1, math.inf)),
    "adaptive_from": (ADAPTIVE_FROM, (4, 5.0, np.float32(7), math.inf), (3.999, -5)),
}


@pytest.mark.parametrize(("range_", "taken", "refused"), RANGES.values(), ids=RANGES)
def test_ranges(range_, taken, refused):
    for value in taken:
        check("x", value, *range_)
    for value in (*refused, *NEITHER):
        with pytest.raises(ValueError, match=r"x must be .*number.*, got ") as refusal:
            check("x", value, *range_)
        assert range_[0] in str(refusal.value)
        assert str(refusal.value).endswith(repr(value))


def test_what_is_no_number_passes_where_the_front_end_says_so():
    check("x", "a schedule", *RATE, passes=lambda value: isinstance(value, str))
    with pytest.raises(ValueError, match="got -1"):  # numbers are looked into all the same
        check("x", -1, *RATE, passes=lambda value: True)


class ListConfig(Sequence):
    """A sequence that is neither tuple nor list, as omegaconf's."""

    def __init__(self, *items):
        self.items = items

    def __getitem__(self, i):
        return self.items[i]

    def __len__(self):
        return len(self.items)


PAIRS = {
    "tuple": (0.5, 0.25),
    "list": [0.5, 0.25],
    "sequence": ListConfig(0.5, 0.25),
    "array": np.array([0.5, 0.25], np.float32),
    "scalars": (np.float32(0.5), Fraction(1, 4)),
}


@pytest.mark.parametrize("value", PAIRS.values(), ids=PAIRS)
def test_pairs(value):
    betas = pair("betas", value, *BETA)
    assert betas == (0.5, 0.25)
    assert [type(beta) for beta in betas] == [float, float]


@pytest.mark.parametrize(
    "value", [0.5, None, "ab", (0.9,), [0.1, 0.2, 0.3], {0.1, 0.2}, {0.1: 1, 0.2: 2}, np.array(0.5)]
)
def test_what_is_no_pair(value):
    with pytest.raises(ValueError, match=r"betas must be a pair, each a number in \[0, 1\), got "):
        pair("betas", value, *BETA)


@pytest.mark.parametrize(
    ("value", "name"), [((1.0, 0.9), "0"), ((0.9, "b"), "1"), ((0.9, True), "1"), ([None] * 2, "0")]
)
def test_pairs_out_of_range(value, name):
    with pytest.raises(ValueError, match=rf"betas\[{name}\] must be a number in \[0, 1\), got "):
        pair("betas", value, *BETA)


def test_elements_of_pairs_that_pass_stay_as_they_are():
    traced = object()
    assert pair("betas", [traced, 0], *BETA, passes=lambda value: value is traced) == (traced, 0.0)


@pytest.mark.parametrize(("beta2", "adaptive_from"), [(0.5, 5), (0.6, 4), (2 / 3, 5), (0.999, 5), (0.999, math.inf)])
def test_never_adaptive(beta2, adaptive_from):
    assert never_adaptive(beta2, adaptive_from) is (sma_limit(beta2) < adaptive_from)
    text = never_adaptive_text(beta2, adaptive_from, name="beta_2", instead="rectify=False")
    assert text.startswith(f"beta_2 = {beta2}: rectified steps never become adaptive")
    assert text.endswith(f"is below {adaptive_from:g}. Use a larger beta_2 or rectify=False.")
    assert never_adaptive_text(beta2, name="beta_2").endswith("Use a larger beta_2.")


@pytest.mark.parametrize(
    ("arguments", "dims"),
    [
        ((0, 2), ()),
        ((1, 2), ()),
        ((2, 2), (1,)),
        ((4, 2), (1, 2, 3)),
        ((4, 2, -1), (0, 1, 2)),
        ((4, 2, 3), (0, 1, 2)),
        ((3, 4), ()),
        ((4, 4), (1, 2, 3)),
        ((4, 0), ()),
    ],
)
def test_centralized_dims(arguments, dims):
    assert centralized_dims(*arguments) == dims
