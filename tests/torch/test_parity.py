"""Forty steps beside the published packages, for every option mix that they share with this one."""

from __future__ import annotations

import contextlib
import io

import adabelief_pytorch
import pytest
import pytorch_optimizer
import ranger_adabelief
import torch

from adabelief import AdaBelief, RangerAdaBelief
from tests.oracle import set_gradients

SHAPES = [(), (5,), (3, 4), (0, 2), (2, 3, 3, 3)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5}


def walk(cls, dtype, steps=40, rescale=1.0, **options):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype)) for s in SHAPES]
    with contextlib.redirect_stdout(io.StringIO()):  # the published packages print a banner
        optimizer = cls(params, **options)
    for seed in range(steps):
        set_gradients(params, seed)
        for p in params:
            p.grad *= rescale
        optimizer.step()
    return params


def relative_error(actual, expected):
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(actual, expected, strict=True) if x.numel())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("eps", [1e-8, 1e-16])
@pytest.mark.parametrize(
    ("weight_decay", "weight_decouple", "fixed_decay"),
    [(0, False, False), (0.1, False, False), (0.1, True, False), (0.1, True, True)],
)
@pytest.mark.parametrize(
    ("rectify", "degenerated_to_sgd", "amsgrad"),
    # amsgrad under rectify is not shared: adabelief-pytorch forgets it there
    [(False, True, False), (False, True, True), (True, True, False), (True, False, False)],
)
def test_adabelief_pytorch(
    dtype, eps, weight_decay, weight_decouple, fixed_decay, rectify, degenerated_to_sgd, amsgrad
):
    options = dict(lr=1e-2, betas=(0.9, 0.99), eps=eps, weight_decay=weight_decay, weight_decouple=weight_decouple)
    options |= dict(fixed_decay=fixed_decay, rectify=rectify, degenerated_to_sgd=degenerated_to_sgd, amsgrad=amsgrad)
    published = walk(adabelief_pytorch.AdaBelief, dtype, print_change_log=False, **options)
    for foreach in (False, True, None):  # None: as it chooses by itself
        error = relative_error(walk(AdaBelief, dtype, foreach=foreach, **options), published)
        assert error < TOLERANCE[dtype], f"{foreach=}"


def test_adabelief_pytorch_forgets_amsgrad_under_rectify():
    """The reason why that pair is not compared: there, the option changes nothing; here, it does."""
    options = dict(lr=1e-2, rectify=True, rescale=1.0)
    for cls, same in ((adabelief_pytorch.AdaBelief, True), (AdaBelief, False)):
        with_max, without = (walk(cls, torch.float64, amsgrad=amsgrad, **options) for amsgrad in (True, False))
        assert all(torch.equal(x, y) for x, y in zip(with_max, without, strict=True)) is same


@pytest.mark.parametrize("threshold", [5, 7])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
@pytest.mark.parametrize(
    ("use_gc", "gc_conv_only", "gc_loc"),
    [(False, False, True), (True, False, True), (True, True, True), (True, True, False)],
)
def test_ranger_adabelief(use_gc, gc_conv_only, gc_loc, eps, threshold):
    """Without decay, whose defects are mended here; and gc_loc=False from the first adaptive step on, as the package
    centralizes its momentum itself before."""
    options = dict(lr=1e-2, eps=eps, k=4, alpha=0.6, N_sma_threshhold=threshold)
    options |= dict(use_gc=use_gc, gc_conv_only=gc_conv_only, gc_loc=gc_loc)
    published = walk(ranger_adabelief.RangerAdaBelief, torch.float32, **options)
    for foreach in (False, True, None):
        own = walk(RangerAdaBelief, torch.float32, foreach=foreach, **options)
        compared = slice(None) if gc_loc else slice(-1)  # else the convolution's weight was polluted
        assert relative_error(own[compared], published[compared]) < TOLERANCE[torch.float32], f"{foreach=}"


def test_ranger_adabelief_at_its_defaults():
    published = walk(ranger_adabelief.RangerAdaBelief, torch.float32)
    assert relative_error(walk(RangerAdaBelief, torch.float32), published) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("rectify", [False, True])
def test_pytorch_optimizer(rectify):
    """A third implementation, by other hands."""
    options = dict(lr=1e-2, eps=1e-8, rectify=rectify)
    other = walk(pytorch_optimizer.AdaBelief, torch.float64, foreach=False, degenerated_to_sgd=True, **options)
    assert relative_error(walk(AdaBelief, torch.float64, **options), other) < 1e-6
