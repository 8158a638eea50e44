"""Release and offload on a GPU: streams, pinned memory, and what is left on the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adabelief import AdaBelief
from adabelief.torch import offload, proof, release
from adabelief.torch.offload import CPU
from tests.torch.cases import OURS, same
from tests.torch.released import KINDS, Net, states_equal

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(proof.unavailable()), reason=proof.unavailable() or "there is no GPU"
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", OURS)
def test_offloaded_steps_are_the_cpu_s(cls, kind):
    """To the bit, for the same gradients; state and its checkpoint stay on the CPU."""
    dtype, options = KINDS[kind]
    sides = [[p for p in Net(dtype).to(device).parameters() if p.requires_grad] for device in ("cuda", "cpu")]
    optimizers = [cls(side, lr=0.01, **options) for side in sides]
    handle = offload(optimizers[0], batch_mib=0.06)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        for p, q in zip(*sides, strict=True):
            q.grad = torch.randn(q.shape, generator=generator).to(dtype)
            p.grad = q.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
        if seed == 3:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        assert same([p.cpu() for p in sides[0]], sides[1])  # the copies back are ordered before this
    states_equal(*optimizers)
    assert all(x.device == CPU for entry in optimizers[0].state.values() for x in entry.values())
    assert all(q.is_pinned() for batch in handle._batches for q in batch.copies)
    handle.remove()
    moved = [x for entry in optimizers[0].state.values() for name, x in entry.items() if name != "step"]
    assert all(x.is_cuda for x in moved)
    optimizers[0].step()


def test_offloaded_state_takes_no_memory_there():
    params = [nn.Parameter(torch.zeros(2**20, device="cuda")) for _ in range(64)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = AdaBelief(params)
    offload(optimizer, batch_mib=16)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() == before
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.cuda.max_memory_allocated() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", OURS)
def test_released_steps_are_those_without(cls, kind):
    """To the bit, for gradients that a GPU computes in one way only."""
    dtype, options = KINDS[kind]
    sides = [[p for p in Net(dtype).cuda().parameters() if p.requires_grad] for _ in range(2)]
    optimizers = [cls(side, lr=0.01, **options) for side in sides]
    release(optimizers[1], batch_mib=0.02)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        factors = [torch.randn(p.shape, generator=generator).to(dtype).cuda() for p in sides[0]]
        for side, optimizer in zip(sides, optimizers, strict=True):
            sum((p * x).float().sum() for p, x in zip(side, factors, strict=True)).backward()
            optimizer.step()
            optimizer.zero_grad()
    states_equal(*optimizers)
    assert same(*sides)


def test_released_gradients_are_never_there_all_at_once():
    peaks = []
    for released in (False, True):
        net = nn.Sequential(*[nn.Linear(1024, 1024, device="cuda") for _ in range(32)])
        optimizer = AdaBelief(net.parameters())
        if released:
            release(optimizer, batch_mib=8)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            net(torch.ones(2, 1024, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        del net, optimizer
    assert peaks[0] - peaks[1] > 128 - 8 - 2 * 4 - 8  # of MiB of gradients, a batch and the largest ones
