"""State in 8 and 16 bits, and weights in more than their own, on a GPU: large tensors, CUDA graphs, torch.compile."""

from __future__ import annotations

import pytest
import torch

from adabelief import AdaBelief, RangerAdaBelief
from tests.oracle import set_gradients
from tests.torch import test_storage, test_weights
from tests.torch.test_cuda import captured, new_gradients, on_gpu, tensor_lr
from tests.torch.test_gpu import stored_parameters

pytestmark = pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")

LARGE = [(1024, 1024), (1009, 997), (64, 32, 3, 3), (5021, 96), (65537,), ()]
"""Tensors of many chunks, of rows that blocks fill and rows that they do not, and of odd addresses and sizes."""

STORED = {
    "8": (torch.float32, {"state_bits": 8}),
    "16": (torch.float32, {"state_bits": 16}),
    "16-8": (torch.bfloat16, {"state_bits": (16, 8), "amsgrad": True}),
    "24-8": (torch.bfloat16, {"state_bits": 8, "master_weight_bits": 24}),
    "32": (torch.bfloat16, {"master_weight_bits": 32}),
    "dithered-8": (torch.bfloat16, {"state_bits": 8, "stochastic_rounding": True}),
}


def stored_pair(stored, shapes=LARGE, **options):
    """Two optimizers of the same parameters and options, and all that each of them writes."""
    dtype, bits = STORED[stored]
    sides = [stored_parameters(dtype, shapes) for _ in range(2)]
    return sides, [AdaBelief(side, lr=tensor_lr(), capturable=True, **bits, **options) for side in sides]


def assert_same(sides, optimizers):
    for p, q in zip(*sides, strict=True):
        assert torch.equal(p, q)
        for name, x in optimizers[0].state[p].items():
            assert torch.equal(x, optimizers[1].state[q][name]), name


@on_gpu
@pytest.mark.parametrize("bits", test_storage.BITS, ids=str)
@pytest.mark.parametrize("mix", test_storage.MIXES)
def test_steps_of_large_tensors_are_those_of_float32_between_codes(mix, bits):
    cls, options = test_storage.MIXES[mix]
    params = stored_parameters(torch.float32, LARGE)
    optimizer = test_storage.stepped_between_codes(cls, params, bits, fused=True, **options)
    assert not optimizer._plan.parts[0].rest


@on_gpu
@pytest.mark.parametrize("stored", [{}, {"state_bits": 8}], ids=str)
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
@pytest.mark.parametrize("way", test_weights.WAYS)
def test_large_weights_are_those_of_float32_between_codes(way, cls, stored):
    params = stored_parameters(torch.bfloat16, LARGE)
    optimizer = test_weights.stepped_between_weights(cls, params, way, stored, fused=True)
    assert not optimizer._plan.parts[0].rest


@on_gpu
@pytest.mark.parametrize("stored", STORED)
def test_a_captured_graph_rounds_by_its_step(stored):
    """Codes and weights are those of eager steps, under a learning rate that changes."""
    sides, optimizers = stored_pair(stored, fused=True)
    for side in sides:
        set_gradients(side, 0)
    graph = captured(optimizers[0].step)  # which has made one step
    optimizers[1].step()
    for seed, lr in enumerate((0.05, 0.01, 0.0, 0.1), 1):
        for side, optimizer in zip(sides, optimizers, strict=True):
            new_gradients(side, seed)
            optimizer.param_groups[0]["lr"].fill_(lr)
        graph.replay()
        optimizers[1].step()
        assert_same(sides, optimizers)


@on_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("stored", STORED)
def test_compiled_steps_keep_codes(stored):
    """Scalars may be rounded otherwise, and that may decide a code."""
    sides, optimizers = stored_pair(stored, shapes=[(64, 300), (4100,), (10,)], fused=True)
    torch._dynamo.reset()
    steps = torch.compile(optimizers[0].step), optimizers[1].step
    for seed in range(3):
        for side, optimizer, step in zip(sides, optimizers, steps, strict=True):
            set_gradients(side, seed)
            optimizer.param_groups[0]["lr"].fill_(0.05 / (1 + seed))
            step()
    for p, q in zip(*sides, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-2)
        for name, x in optimizers[0].state[p].items():
            assert (x != optimizers[1].state[q][name]).float().mean() < (0.5 if x.is_floating_point() else 0.01), name


@on_gpu
@pytest.mark.parametrize("stored", STORED)
def test_a_step_with_codes_waits_for_nothing_and_needs_no_memory(stored):
    sides, (optimizer, _) = stored_pair(stored, fused=True)
    for seed in range(2):
        set_gradients(sides[0], seed)
        optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before < 2**17  # scalars
