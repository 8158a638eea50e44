"""Sharded over two processes, and in the hands of a trainer, an optimizer takes the same steps."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief

CLASSES = {cls.__name__: cls for cls in (AdaBelief, RangerAdaBelief)}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))  # five rows and three: uneven over two processes


def train(model, optimizer, seeds):
    for seed in seeds:
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


def sharded(rank: int, name: str, meeting: str) -> None:
    """One of two processes: FSDP2, with state saved and loaded halfway, beside a model that is whole."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    whole, parts = model(), model()
    fully_shard(parts, mesh=init_device_mesh("cpu", (2,)))
    make = lambda m: CLASSES[name](m.parameters(), lr=0.01, weight_decay=0.1)  # noqa: E731
    expected, optimizer = make(whole), make(parts)
    train(whole, expected, range(8))
    train(parts, optimizer, range(4))
    saved = get_optimizer_state_dict(parts, optimizer)
    resumed = make(parts)
    set_optimizer_state_dict(parts, resumed, saved)
    train(parts, resumed, range(4, 8))
    for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("name", CLASSES)
def test_fsdp2(name, tmp_path):
    code = "import sys; from tests.torch.test_distributed import sharded; sharded(int(sys.argv[1]), *sys.argv[2:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), name, str(tmp_path / "meeting")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_accelerate():
    """It loads the optimizer's own state before the first step, and wraps it."""
    accelerator = Accelerator(cpu=True)
    ours = model()
    twin = copy.deepcopy(ours)
    plain = AdaBeliefW(twin.parameters(), lr=0.01)
    prepared, optimizer = accelerator.prepare(ours, AdaBeliefW(ours.parameters(), lr=0.01))
    for seed in range(5):
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        accelerator.backward((prepared(x) ** 2).mean())
        optimizer.step()
    train(twin, plain, range(5))
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), twin.parameters(), strict=True))
