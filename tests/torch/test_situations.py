"""What users ran into with one optimizer or another, in every implementation and beside torch's AdamW.

A situation is a function of `make`, which builds the optimizer from parameters and options. It asserts what has to come
of it; where torch's own optimizers promise the same, AdamW stands in the table as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import fused
from tests.oracle import Oracle, set_gradients

OURS = [AdaBelief, AdaBeliefW, RangerAdaBelief]
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
Make = Callable[..., torch.optim.Optimizer]


def parameter(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    )


def same(params, others):
    return all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def grad_scaler(make: Make, device: str = "cpu", init_scale: float = 1024.0, **options: Any) -> None:
    """It scales, skips the step of an infinite gradient, and leaves the optimizer as it was."""
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    optimizer, plain = make(model.parameters(), **options), make(twin.parameters(), **options)
    scaler = torch.amp.GradScaler(device, init_scale=init_scale)
    for i, x in enumerate(torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))):
        optimizer.zero_grad()
        scaler.scale((model(x) ** 2).mean() * (math.inf if i == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if i != 2:
            plain.zero_grad()
            (twin(x) ** 2).mean().backward()
            plain.step()
    assert float(optimizer.state[model.weight]["step"]) == 4
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-6)


def grad_scaler_that_unscaled_before(make: Make) -> None:
    """For clipping: the step does not unscale once more."""
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p]), make([q])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((p**2).sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p], 0.1)
    scaler.step(optimizer)
    (q**2).sum().backward()
    nn.utils.clip_grad_norm_([q], 0.1)
    plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def own_grad_scale(make: Make) -> None:
    """A scale that the user set himself: the scaler multiplies its own by it."""
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p]), make([q])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale = torch.tensor(4.0)
        scaler.scale(4.0 * (p**2).sum()).backward()
    else:
        scaler.scale((p**2).sum()).backward()
    scaler.step(optimizer)
    (q**2).sum().backward()
    plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


BESIDE_ADAMW: list[Callable[[Make], None]] = [
    grad_scaler,
    grad_scaler_that_unscaled_before,
    own_grad_scale,
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", [*OURS, torch.optim.AdamW])
@pytest.mark.parametrize("situation", BESIDE_ADAMW, ids=lambda f: f.__name__)
def test_as_torchs_own(situation, cls, implementation):
    options = IMPLEMENTATIONS[implementation]
    if options.get("fused") and cls is not torch.optim.AdamW and fused.unserved("cpu"):
        pytest.skip(fused.unserved("cpu"))
    situation(partial(cls, **options))


@pytest.fixture
def flushing():
    """Numbers below the smallest normal one are read as 0 in this thread, as after many a library was loaded."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_subnormal_halves_where_denormals_are_flushed(dtype, cls, implementation, flushing):
    """Subnormal halves (2^-24 to 2^-14) are normal in single precision: values and gradients keep every bit."""
    options = IMPLEMENTATIONS[implementation]
    if options.get("fused") and fused.unserved("cpu"):
        pytest.skip(fused.unserved("cpu"))
    tiny = [2.0**-24, -(2.0**-24), 3 * 2.0**-24, 1023 * 2.0**-24, 2.0**-14, -(2.0**-15), 0.0, 1.0]
    p = nn.Parameter(torch.tensor(tiny * 3, dtype=torch.float64).to(dtype))
    optimizer = cls([p], lr=1e-4, **options)
    oracle = Oracle(optimizer)
    for sign in (1, -1, 1):
        p.grad = (sign * torch.tensor(tiny[::-1] * 3, dtype=torch.float64)).to(dtype)
        oracle.step()
    still = nn.Parameter(torch.tensor(tiny, dtype=torch.float64).to(dtype))
    before = still.detach().clone()
    still.grad = torch.zeros_like(still)
    cls([still], lr=1e-4, weight_decay=0, eps=1e-8, **options).step()
    assert torch.equal(still.view(torch.uint8), before.view(torch.uint8))  # not wiped


def test_flushing_flushes(flushing):
    assert float(torch.tensor([1e-40]) * 1.0) == 0.0
