"""What users ran into with one optimizer or another, in every implementation and beside torch's AdamW.

A situation is a function of `make`, which builds the optimizer from parameters and options. It asserts what has to come
of it; where torch's own optimizers promise the same, AdamW stands in the table as well.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import UserList
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.oracle import set_gradients
from tests.torch.cases import IMPLEMENTATIONS, OURS, parameter, same, skip_without_kernel

Make = Callable[..., torch.optim.Optimizer]


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


def state_that_is_given_up(make: Make) -> None:
    """Cleared, loaded anew, or moved away: nothing of it is alive once nobody has it."""
    params = [parameter(4, 3), parameter(5)]
    optimizer = make(params)
    for give_up in (
        lambda: optimizer.state.clear(),
        lambda: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
        lambda: [entry.update({n: x.clone() for n, x in entry.items()}) for entry in optimizer.state.values()],
    ):
        set_gradients(params, 0)
        optimizer.step()
        old = [weakref.ref(x) for entry in optimizer.state.values() for x in entry.values()]
        give_up()
        assert not any(x() is not None for x in old)


def parameter_that_is_taken_out(make: Make) -> None:
    params = [parameter(4, 3), parameter(5)]
    optimizer = make(params)
    set_gradients(params, 0)
    optimizer.step()
    old = weakref.ref(params[1])
    optimizer.state.pop(optimizer.param_groups[0]["params"].pop(1))
    del params[1]
    assert old() is None


def state_that_visits_another_device(make: Make) -> None:
    """As offloading does: every state tensor goes and comes back, the step number among them, in whatever type."""
    for dtype in (torch.float32, torch.float64):
        p, q = parameter(4, 3), parameter(4, 3)
        optimizer, twin = make([p]), make([q])
        for seed in range(4):
            set_gradients([p], seed)
            set_gradients([q], seed)
            optimizer.step()
            twin.step()
            entry = optimizer.state[p]
            entry.update({name: x.to(dtype if name == "step" else x.dtype, copy=True) for name, x in entry.items()})
        assert same([p], [q])


def estimate_of_memory(make: Make) -> None:
    with FakeTensorMode():
        model = nn.Linear(4, 3)
        optimizer = make(model.parameters())
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        assert optimizer.state[model.weight]["exp_avg"].shape == (3, 4)


def betas_of_a_configuration_library(make: Make) -> None:
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p], betas=UserList([np.float64(0.8), np.float64(0.9)])), make([q], betas=(0.8, 0.9))
    for seed in range(3):
        set_gradients([p], seed)
        set_gradients([q], seed)
        optimizer.step()
        plain.step()
    assert same([p], [q])


def infinite_weight_without_gradient(make: Make) -> None:
    p = nn.Parameter(torch.tensor([math.inf, 1.0, -math.inf]))
    p.grad = torch.zeros(3)
    make([p], eps=1e-8, weight_decay=0.0).step()
    assert p.tolist() == [math.inf, 1.0, -math.inf]


def model_in_double_after_some_steps(make: Make) -> None:
    """Weights of float64 are stepped as such, whatever the state began as."""
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    for step in range(4):
        if step == 2:
            model.double()
        optimizer.zero_grad()
        (model(torch.ones(2, 3, dtype=model.weight.dtype)) ** 2).sum().backward()
        optimizer.step()
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1e-12  # far below a float32's last place
    model.weight.grad = torch.zeros_like(model.weight)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert not torch.equal(model.weight, before)


def misaligned_parameter(make: Make) -> None:
    """From a buffer with an odd offset, as a file that was mapped into memory."""
    buffer = bytearray(4 * 8 + 1)
    p = nn.Parameter(torch.frombuffer(buffer, dtype=torch.float32, offset=1))
    q = nn.Parameter(torch.zeros(8))
    for seed in range(3):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        if seed == 0:
            optimizer, plain = make([p]), make([q])
        optimizer.step()
        plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def misaligned_gradient(make: Make) -> None:
    p, q = parameter(8), parameter(8)
    optimizer, plain = make([p]), make([q])
    for seed in range(3):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        if seed == 2:
            buffer = bytearray(4 * 8 + 1)
            p.grad = torch.frombuffer(buffer, dtype=torch.float32, offset=1).copy_(q.grad)
        optimizer.step()
        plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def only_begins_the_state(make: Make) -> None:
    """What get_optimizer_state_dict does with a fresh optimizer: a step at lr 0 with gradients of 0."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(3, 2)
    before = copy.deepcopy(model)
    get_optimizer_state_dict(model, make(model.parameters(), weight_decay=0.1))
    assert same(model.parameters(), before.parameters())


BESIDE_ADAMW: list[Callable[[Make], None]] = [
    *(grad_scaler, grad_scaler_that_unscaled_before, own_grad_scale),
    *(state_that_is_given_up, parameter_that_is_taken_out, state_that_visits_another_device),
    *(estimate_of_memory, betas_of_a_configuration_library),
    *(infinite_weight_without_gradient, model_in_double_after_some_steps, misaligned_parameter, misaligned_gradient),
    only_begins_the_state,
]
NOT_OF_TORCHS_OWN = {"betas_of_a_configuration_library", "model_in_double_after_some_steps"}
"""What AdamW refuses, or does not promise."""


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", [*OURS, torch.optim.AdamW])
@pytest.mark.parametrize("situation", BESIDE_ADAMW, ids=lambda f: f.__name__)
def test_as_torchs_own(situation, cls, implementation):
    options = IMPLEMENTATIONS[implementation]
    if cls is torch.optim.AdamW and situation.__name__ in NOT_OF_TORCHS_OWN:
        pytest.skip("AdamW does not promise that")
    if cls is not torch.optim.AdamW:
        skip_without_kernel(options)
    situation(partial(cls, **options))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
def test_a_step_at_lr_0_leaves_fixed_decay_out(cls, implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    only_begins_the_state(partial(cls, fixed_decay=True, **IMPLEMENTATIONS[implementation]))
