"""What the constructors take and refuse, and what a user sees of it."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.options import CHOICES, FLAGS
from adabelief.rule import denominator_floor
from tests.oracle import set_gradients

CLASSES = [AdaBelief, AdaBeliefW, RangerAdaBelief]


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(shape or (3,), dtype=dtype))


BAD = [
    ("lr", -1e-3, "-0.001"),
    ("lr", math.nan, "nan"),
    ("lr", math.inf, "inf"),
    ("lr", "fast", "'fast'"),
    ("lr", torch.tensor(-1.0), "-1.0"),
    ("lr", torch.ones(2), "(2,)"),
    ("eps", -1e-8, "-1e-08"),
    ("eps", math.inf, "inf"),
    ("eps", None, "None"),
    ("max_update", 0, "0"),
    ("max_update", -1.0, "-1.0"),
    ("max_update", math.nan, "nan"),
    ("max_update", True, "True"),
    ("max_update", "1", "'1'"),
    ("weight_decay", -0.1, "-0.1"),
    ("weight_decay", math.nan, "nan"),
    ("weight_decay", torch.tensor(-0.5), "-0.5"),
    ("weight_decay", torch.ones(2), "(2,)"),
    ("betas", (1.0, 0.999), "1.0"),
    ("betas", (0.9, 1.0), "1.0"),
    ("betas", (-0.1, 0.999), "-0.1"),
    ("betas", (0.9, math.nan), "nan"),
    ("betas", 0.9, "0.9"),
    ("betas", (0.9,), "(0.9,)"),
    ("skip_nonfinite", "no", "'no'"),
    ("amsgrad", None, "None"),
    ("capturable", 2, "2"),
    ("fused", "auto", "'auto'"),
    ("foreach", [], "[]"),
]
BAD_OF_RANGER = [
    ("use_gc", "false", "'false'"),
    ("k", 0, "0"),
    ("k", 2.5, "2.5"),
    ("alpha", -0.1, "-0.1"),
    ("alpha", 1.1, "1.1"),
    ("N_sma_threshhold", 3, "3"),
]


@pytest.mark.parametrize(
    ("cls", "name", "value", "shown"),
    [(cls, *bad) for cls in CLASSES for bad in BAD] + [(RangerAdaBelief, *bad) for bad in BAD_OF_RANGER],
)
def test_bad_arguments_are_named(cls, name, value, shown):
    for groups, options in (([parameter()], {name: value}), ([{"params": [parameter()], name: value}], {})):
        with pytest.raises(ValueError, match=rf"{name}.*{re.escape(shown)}"):
            cls(groups, **options)
    optimizer = cls([parameter()])
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [parameter()], name: value})
    assert len(optimizer.param_groups) == 1


def test_good_boundaries():
    AdaBelief([parameter()], lr=0, betas=(0, 0), eps=0, weight_decay=0)
    RangerAdaBelief([parameter()], k=1, alpha=0, N_sma_threshhold=4)
    RangerAdaBelief([parameter()], alpha=1.0, max_update=math.inf)
    AdaBelief([parameter()], amsgrad=1, maximize=np.False_, foreach=0)


def test_every_flag_is_known_as_one():
    """By the defaults: an option that is True or False, or None of those that choose, is checked."""
    for cls in CLASSES:
        flags = {name for name, value in cls([parameter()]).defaults.items() if isinstance(value, bool)}
        assert flags <= FLAGS
        for name in flags | CHOICES:
            with pytest.raises(ValueError, match=rf"{name} must be True.* got 'no'"):
                cls([{"params": [parameter()], name: "no"}])


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match=r"foreach=True.*differentiable"):
        AdaBelief([parameter()], foreach=True, differentiable=True)


def test_unknown_argument():
    with pytest.raises(TypeError, match="wieght_decay"):
        AdaBelief([parameter()], wieght_decay=0.1)


@pytest.mark.parametrize("beta2", [0.6, 0.0])
def test_rectification_that_never_adapts_warns_once(beta2):
    with pytest.warns(UserWarning, match=rf"betas\[1\] = {beta2}.*N_inf") as record:
        optimizer = AdaBelief([{"params": [parameter()]}, {"params": [parameter()]}], betas=(0.9, beta2), rectify=True)
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.add_param_group({"params": [parameter()]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdaBelief([parameter()], betas=(0.9, beta2))
        AdaBelief([parameter()], betas=(0.9, 0.7), rectify=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_option_is_in_the_groups(cls):
    optimizer = cls([parameter()])
    saved = optimizer.state_dict()["param_groups"][0]
    assert set(saved) - {"params"} == set(optimizer.defaults)
    assert {"maximize", "foreach", "capturable", "differentiable", "fused"} <= set(saved)


def test_defaults():
    group = AdaBelief([parameter()]).defaults
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 1e-16, 0)
    assert not any(group[name] for name in ("weight_decouple", "fixed_decay", "rectify", "amsgrad"))
    group = AdaBeliefW([parameter()]).defaults
    assert (group["weight_decay"], group["weight_decouple"]) == (1e-2, True)


@pytest.mark.parametrize("cls", CLASSES)
def test_repr_shows_options_and_floor(cls):
    shown = repr(cls([parameter()], eps=1e-8))
    assert f"denominator floor: {denominator_floor(1e-8, 0.999):.2g}" in shown
    assert "eps: 1e-08" in shown
    assert "rectify:" in shown


@pytest.mark.parametrize("cls", CLASSES)
def test_nothing_is_printed(cls, capfd):
    optimizer = cls([parameter()])
    set_gradients(optimizer.param_groups[0]["params"], 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert capfd.readouterr() == ("", "")
