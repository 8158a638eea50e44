"""`max_update`: what it promises of every step, in every implementation."""

from __future__ import annotations

import math

import pytest
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.torch.cases import IMPLEMENTATIONS, parameter, skip_without_kernel

LR = 1e-3


def longest_step(optimizer, params, gradients):
    """The largest change of any weight in any step."""
    longest = 0.0
    for each in gradients:
        before = [p.detach().clone() for p in params]
        for p, g in zip(params, each, strict=True):
            p.grad = g.to(p)
        optimizer.step()
        longest = max([longest, *((p - x).abs().max().item() for p, x in zip(params, before, strict=True))])
    return longest


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_that_are_clamped(implementation):
    """To the same value for 2,000 steps: nothing is left in s but eps, so that they grow to the denominator's floor."""
    options = {"betas": (0.9, 0.99), "lr": LR} | IMPLEMENTATIONS[implementation]
    skip_without_kernel(options)
    clamped = [[torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).mul(100).clamp(-0.1, 0.1)]] * 2000
    steps = []
    for max_update in (None, 3.0):
        p = parameter(8, 4, dtype=torch.float64)
        steps.append(longest_step(AdaBelief([p], max_update=max_update, **options), [p], clamped))
    assert steps[0] > 1e5 * LR
    assert steps[1] == pytest.approx(3 * LR)


CASES = {
    "plain": (AdaBelief, {}),
    "beta1=0": (AdaBelief, {"betas": (0.0, 0.9)}),
    "amsgrad": (AdaBelief, {"amsgrad": True}),
    "rectified": (AdaBelief, {"rectify": True, "betas": (0.9, 0.99)}),
    "waiting": (AdaBelief, {"rectify": True, "degenerated_to_sgd": False, "betas": (0.9, 0.9)}),
    "coupled": (AdaBelief, {"weight_decay": 10.0}),
    "AdaBeliefW": (AdaBeliefW, {"weight_decay": 0.0, "maximize": True}),
    "gradients": (RangerAdaBelief, {"k": 1000, "eps": 1e-12}),
    "steps": (RangerAdaBelief, {"k": 1000, "eps": 1e-12, "gc_loc": False}),
    "steps-amsgrad": (
        RangerAdaBelief,
        {"k": 1000, "eps": 1e-12, "gc_loc": False, "amsgrad": True, "betas": (0.9, 0.99)},
    ),
}


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "capturable", "differentiable"])
@pytest.mark.parametrize("case", CASES)
def test_one_bounds_every_step_by_lr(case, implementation):
    """Whatever the gradients are: far apart in size, or the same step after step."""
    cls, options = CASES[case]
    options = options | IMPLEMENTATIONS.get(implementation, {implementation: True})
    skip_without_kernel(options)
    params = [parameter(6, 5, dtype=torch.float64).detach(), parameter(7, dtype=torch.float64).detach()]
    generator = torch.Generator().manual_seed(0)

    def gradients():
        for t in range(180):
            if t % 3 and t < 30:
                scale = 10.0 ** torch.randint(-3, 4, (1,), generator=generator).item()
                yield [torch.randn(p.shape, generator=generator).mul(scale) for p in params]
            else:
                yield [torch.linspace(-1, 1, p.numel()).view(p.shape) for p in params]

    optimizer = cls(params, lr=LR, max_update=1, **options)
    longest = longest_step(optimizer, params, gradients())
    assert LR * (1 - 1e-9) < longest < LR * (1 + 1e-9)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "capturable", "differentiable"])
@pytest.mark.parametrize(("cls", "options"), [(AdaBelief, {}), (RangerAdaBelief, {"gc_loc": False})])
def test_nan_stays_visible(cls, options, implementation):
    options = options | IMPLEMENTATIONS.get(implementation, {implementation: True})
    skip_without_kernel(options)
    for bad in (math.nan, math.inf):
        p = parameter(3, 37).detach()
        p.grad = torch.ones(3, 37)
        p.grad[1, 5] = bad
        cls([p], max_update=0.5, **options).step()
        assert p[1, 5].isnan()
        assert p[[0, 2]].isfinite().all()


def test_no_element_carries_its_row_along():
    """The mean of steps is that of the cut ones: one that explodes counts for no more than the others."""
    p = parameter(1, 100, dtype=torch.float64)
    optimizer = RangerAdaBelief([p], lr=LR, betas=(0.9, 0.9), eps=1e-12, k=1000, gc_loc=False, max_update=1)
    gradients = torch.randn(200, 1, 100, generator=torch.Generator().manual_seed(0))
    gradients[:, 0, 7] = 1.0  # so predictable that its step is a thousand times as long as the others
    for g in gradients:
        before = p.detach().clone()
        p.grad = g.to(p)
        optimizer.step()
    moved = (p - before).abs()
    assert moved[0, 7] > 0.9 * LR
    assert moved.median() < 0.5 * LR


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_checkpoints_of_before_load(cls):
    p = parameter(3)
    p.grad = torch.ones(3)
    saved = cls([p])
    saved.step()
    checkpoint = saved.state_dict()
    for group in checkpoint["param_groups"]:
        del group["max_update"]
    for max_update in (None, 0.5):
        optimizer = cls([p], max_update=max_update)
        optimizer.load_state_dict(checkpoint)
        assert optimizer.param_groups[0]["max_update"] == max_update
    optimizer.load_state_dict(cls([p], max_update=2.0).state_dict())
    assert optimizer.param_groups[0]["max_update"] == 2.0
    assert "max_update: 2.0" in repr(optimizer)
