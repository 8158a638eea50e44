"""The optimizers in the hands of other packages' training loops."""

from __future__ import annotations

import copy

import pytest
import torch

from adabelief import AdaBeliefW

Accelerator = pytest.importorskip("accelerate").Accelerator


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_accelerate():
    """It loads the optimizer's own state before the first step, and wraps it."""
    accelerator = Accelerator(cpu=True)
    ours = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    twin = copy.deepcopy(ours)
    plain = AdaBeliefW(twin.parameters(), lr=0.01)
    prepared, optimizer = accelerator.prepare(ours, AdaBeliefW(ours.parameters(), lr=0.01))
    for seed in range(5):
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
        for module, each in ((prepared, optimizer), (twin, plain)):
            each.zero_grad()
            accelerator.backward((module(x) ** 2).mean())
            each.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), twin.parameters(), strict=True))
