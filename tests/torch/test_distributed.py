"""Distributed tensors in one process alone; with others they are in tests/torch/distributed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch
from tests.torch.cases import IMPLEMENTATIONS

CLASSES = {cls.__name__: cls for cls in (AdaBelief, AdaBeliefW, RangerAdaBelief)}


def model(rows: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, rows), nn.Tanh(), nn.Linear(rows, 1))  # uneven over two processes; fewer than two


def train(model, optimizer, seeds):
    for seed in seeds:
        x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


def fsdp2(parts, mesh):
    from torch.distributed.fsdp import fully_shard

    fully_shard(parts, mesh=mesh)


needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed package"
)


@pytest.fixture
def alone(tmp_path):
    """A mesh of this process alone."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Dispatched(TorchDispatchMode):
    """Counts the operators that get distributed tensors."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        from torch.distributed.tensor import DTensor

        self.calls += DTensor in types
        return function(*args, **(kwargs or {}))


DISTRIBUTED = [(cls, implementation, False) for cls in CLASSES.values() for implementation in IMPLEMENTATIONS]
# In a graph "default" takes the way of "fused", and AdaBeliefW is AdaBelief with other defaults.
DISTRIBUTED += [
    (cls, implementation, True)
    for cls in (AdaBelief, RangerAdaBelief)
    for implementation in ("fused", "foreach", "loop")
]


@needs_distributed
@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize(("cls", "implementation", "compiled"), DISTRIBUTED)
def test_distributed_tensors_are_stepped_as_local_ones(cls, implementation, compiled, alone):
    """Without one operator on them; a compiled step takes them, too."""
    options = IMPLEMENTATIONS[implementation]
    if options.get("fused") and launch.unserved("cpu"):
        pytest.skip(launch.unserved("cpu"))
    torch._dynamo.reset()
    parts, twin = model().double(), model().double()
    fsdp2(parts, alone)
    optimizer, plain = cls(parts.parameters(), lr=0.01, **options), cls(twin.parameters(), lr=0.01, foreach=False)
    if compiled:
        optimizer.step = torch.compile(optimizer.step, backend="eager")
    train(parts, optimizer, range(3))
    train(twin, plain, range(3))
    for p, q in zip(parts.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=1e-12, atol=1e-13)
    if not compiled:
        with Dispatched() as dispatched:
            optimizer.step()
        assert dispatched.calls == 0


@needs_distributed
@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("compiled", [False, True])
def test_distributed_gradients_that_are_no_numbers(compiled, alone):
    torch._dynamo.reset()
    parts = model().double()
    fsdp2(parts, alone)
    optimizer = AdaBelief(parts.parameters(), lr=torch.tensor(0.01), skip_nonfinite=True)
    if compiled:
        optimizer.step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    train(parts, optimizer, range(2))
    before = [p.full_tensor().clone() for p in parts.parameters()]
    next(parts.parameters()).grad.to_local()[0, 1] = float("inf")
    optimizer.step()
    assert optimizer.skipped == 1
    assert all(torch.equal(p.full_tensor(), x) for p, x in zip(parts.parameters(), before, strict=True))


@needs_distributed
@pytest.mark.skipif(bool(launch.unserved("cpu")), reason=launch.unserved("cpu") or "-")
def test_a_plan_sees_a_distributed_gradient_that_lies_otherwise(alone):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    p = nn.Parameter(distribute_tensor(torch.ones(4, 3), alone, [Shard(0)]))
    optimizer = AdaBelief([p], fused=True)
    for placement, kept in ((Shard(0), True), (Shard(0), True), (Replicate(), False)):
        p.grad = distribute_tensor(torch.ones(4, 3), alone, [placement])
        optimizer.step()
        assert bool(optimizer._plan.parts[0].stepped) is kept
    assert float(optimizer.state[p]["step"]) == 3
