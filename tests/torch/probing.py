"""What the tests of the probe share: optimizers that it looks at, and reports that are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adabelief import Probe
from tests.torch.cases import parameter

STEPS, LR, BETAS = 7, 0.01, (0.9, 0.99)
SHAPES = [(5, 7), (11,), (3, 2, 4)]


def gradients(params, seed, scale=1e-2):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(p.dtype)


def probed(cls, options, *, dtype=torch.float64, every=STEPS, steps=STEPS, step=None, **arguments):
    """An optimizer's parameters before its last step, and its probe."""
    params = [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]
    optimizer = cls(params, lr=LR, **({"betas": BETAS} | options))
    step = step(optimizer) if step else optimizer.step
    with Probe(optimizer, every, **arguments) as probe:
        for seed in range(steps):
            gradients(params, seed)
            before = [p.detach().clone().double().numpy() for p in params]
            step()
    return optimizer, before, probe


def flat(x, path=()):
    if isinstance(x, dict):
        return {key: value for name in x for key, value in flat(x[name], (*path, name)).items()}
    return {path: x}


def assert_same(report, expected, rel=1e-4):
    report, expected = flat(report), flat(expected)
    assert report.keys() == expected.keys()
    for key, value in expected.items():
        if "histogram" not in key:
            assert report[key] == (pytest.approx(value, rel=rel) if isinstance(value, float) else value), key


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def train(model, optimizer, steps=60, clip=None):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 8, generator=generator)
        optimizer.zero_grad()
        (1e-2 * (model(x) - x[:, :1]) ** 2).mean().backward()
        if clip:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()
