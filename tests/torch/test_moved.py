"""Parameters that were moved between two steps: to memory that begins anywhere, to a wider type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adabelief import AdaBelief
from tests.oracle import Oracle, set_gradients

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("what", ["parameter", "gradient", "state", "step"])
@pytest.mark.parametrize("dtype", DTYPES)  # torch itself crashes on complex numbers there
def test_odd_addresses(dtype, what):
    """Memory that is no multiple of an element away from 0, as files that are mapped have it; see make soak."""

    def moved(x: Tensor) -> Tensor:
        memory = torch.zeros(x.numel() * x.element_size() + 1, dtype=torch.uint8)
        y = torch.frombuffer(memory.numpy(), dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
        return y.copy_(x)

    p = torch.nn.Parameter(torch.ones(67, dtype=dtype))
    oracle = Oracle(AdaBelief([p], lr=0.01))
    for seed in range(4):
        set_gradients([p], seed)
        if seed == 1:
            entry = oracle.optimizer.state[p]
            if what == "parameter":
                p.data = moved(p.data)
            elif what == "state":
                entry["exp_avg_var"] = moved(entry["exp_avg_var"])
            elif what == "step":
                entry["step"] = moved(entry["step"])
        if what == "gradient":
            p.grad = moved(p.grad)
        oracle.step()


@pytest.mark.parametrize("implementation", [{}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize(("narrow", "wide"), [(torch.float32, torch.float64), (torch.complex64, torch.complex128)])
def test_state_follows_a_wider_parameter(narrow, wide, implementation):
    p = torch.nn.Parameter(torch.ones(5, dtype=narrow))
    oracle = Oracle(AdaBelief([p], lr=0.01, **implementation))
    set_gradients([p], 0)
    oracle.step()
    p.grad, p.data = None, p.data.to(wide)
    set_gradients([p], 1)
    oracle.optimizer.step()
    assert oracle.optimizer.state[p]["exp_avg_var"].dtype == wide
