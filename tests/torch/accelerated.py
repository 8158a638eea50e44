"""What each of two processes of accelerate runs and asserts: `python -m tests.torch.accelerated FOLDER [fsdp2]`.

It trains, saves in the middle, and goes on from there with a new model: once as it was, once resumed.
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn

from adabelief import AdaBeliefW


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(70, 64), nn.Tanh(), nn.Linear(64, 3))  # of the first matrix the state is codes


def batch(seed: int) -> torch.Tensor:
    return torch.randn(4, 70, generator=torch.Generator().manual_seed(seed))


def prepared(accelerator: Accelerator) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network()
    return accelerator.prepare(model, AdaBeliefW(model.parameters(), lr=0.01, state_bits=8))


def train(accelerator, model, optimizer, seeds) -> None:
    for seed in seeds:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch(seed)).square().mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()


def whole(p: torch.Tensor) -> torch.Tensor:
    return (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()


def main(folder: str, *ways: str) -> None:
    plugin = None
    if ways:  # which accelerate itself has for accelerators alone
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin, gradient_accumulation_steps=2)
    model, optimizer = prepared(accelerator)
    train(accelerator, model, optimizer, range(4))
    accelerator.save_state(folder)
    train(accelerator, model, optimizer, range(4, 8))

    accelerator.free_memory()
    resumed, its = prepared(accelerator)
    accelerator.load_state(folder)
    train(accelerator, resumed, its, range(4, 8))
    assert {x.dtype for x in optimizer.state_dict()["state"][0].values()} >= {torch.uint8}
    assert accelerator.num_processes == 2
    assert all(type(p).__name__ == ("DTensor" if ways else "Parameter") for p in model.parameters())
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(whole(p), whole(q))

    alone = network()
    plain = AdaBeliefW(alone.parameters(), lr=0.01, state_bits=8)
    for first in range(0, 8, 2):
        sum(alone(batch(seed)).square().mean() / 2 for seed in (first, first + 1)).backward()
        nn.utils.clip_grad_norm_(alone.parameters(), 0.1)
        plain.step()
        plain.zero_grad()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(whole(p), whole(q), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
