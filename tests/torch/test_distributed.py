"""Sharded over two processes, and in the hands of a trainer, an optimizer takes the same steps."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch
from tests.torch import test_probe
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


def tensor_parallel(parts, mesh):
    """The first matrix by its rows; the second by its columns, so that none of its rows is whole in one process."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(parts, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def some_distributed(parts, mesh):
    """Distributed and plain parameters in one group."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(parts[0], mesh=mesh)


WAYS = {"FSDP2": fsdp2, "TP": tensor_parallel, "mixed": some_distributed}


BOUNDED = IMPLEMENTATIONS | {"bounded": {"foreach": True, "max_update": 0.5}}


def whole(p: torch.Tensor) -> torch.Tensor:
    if not hasattr(p, "full_tensor"):
        return p
    return p.int().full_tensor().short() if p.dtype == torch.int16 else p.full_tensor()  # which gloo does not gather


def sharded(rank: int, meeting: str) -> None:
    """One of two processes: every way, class and implementation beside a model that is whole."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for way, distribute in WAYS.items():
        for name, cls in CLASSES.items():
            for implementation, options in BOUNDED.items():
                expected, bound = model(6).double(), {"max_update": options.get("max_update")}
                train(expected, cls(expected.parameters(), lr=0.01, weight_decay=0.1, foreach=False, **bound), range(8))
                if options.get("fused") and launch.unserved("cpu"):
                    continue
                parts = model(6).double()
                distribute(parts, mesh)
                optimizer = cls(parts.parameters(), lr=0.01, weight_decay=0.1, **options)
                train(parts, optimizer, range(4))
                if way == "FSDP2":  # saved, and loaded by another one
                    saved = get_optimizer_state_dict(parts, optimizer)
                    optimizer = cls(parts.parameters(), lr=0.01, weight_decay=0.1, **options)
                    set_optimizer_state_dict(parts, optimizer, saved)
                train(parts, optimizer, range(4, 8))
                for p, q in zip(parts.parameters(), expected.parameters(), strict=True):
                    torch.testing.assert_close(
                        whole(p), q, rtol=1e-12, atol=1e-13, msg=lambda m, w=(way, name, implementation): f"{w}: {m}"
                    )
                if options.get("fused") and way != "TP":
                    assert not optimizer._plan.parts[0].rest, (way, name)  # all through the kernel
    together(rank, mesh)
    flat(rank)
    test_probe.distributed(rank, mesh, os.path.dirname(meeting))
    dist.destroy_process_group()


def coded(rank: int, meeting: str) -> None:
    """One of two processes: state in codes is that of the whole, to the bit, and a checkpoint of it fits the whole."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    def large() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(300, 71), nn.Tanh(), nn.Linear(71, 6000))  # rows are uneven over two processes

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in module.parameters():
            g = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = distribute_tensor(g, p.device_mesh, p.placements) if hasattr(p, "device_mesh") else g
        optimizer.step()

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    weights = {"loop": {"master_weight_bits": 24}, "fused": {"master_weight_bits": 32}, "default": {}}
    for implementation, options in IMPLEMENTATIONS.items():
        if options.get("fused") and launch.unserved("cpu"):
            continue
        bits = {"state_bits": (8, 16) if implementation == "loop" else 8}
        bits |= weights.get(implementation, {"stochastic_rounding": True})
        dtype = torch.bfloat16 if len(bits) > 1 else torch.float32
        make = partial(AdaBelief, lr=0.01, **bits, **options)
        expected, parts = large().to(dtype), large().to(dtype)
        fsdp2(parts, mesh)
        # one dimension is not coded where it is sharded: a part of it may begin within a block
        narrow = [p for p in expected.parameters() if p.ndim > 1]
        plain = make([{"params": narrow}, {"params": [expected[0].bias, expected[2].bias], "state_bits": 32}])
        optimizer = make(parts.parameters())
        for seed in range(3):
            step(expected, plain, seed)
            step(parts, optimizer, seed)
        for p, q in zip(parts.parameters(), expected.parameters(), strict=True):
            assert torch.equal(whole(p), q), implementation
            for name, x in plain.state[q].items():
                assert torch.equal(whole(optimizer.state[p][name]), x), (implementation, name)
        assert parts[0].weight.grad.shape == optimizer.state[parts[0].weight]["exp_avg"].shape
        if options.get("fused"):
            assert not optimizer._plan.parts[0].rest  # all through the kernel
        dcp.save(get_optimizer_state_dict(parts, optimizer), checkpoint_id=f"{meeting}-{implementation}")
        fresh = large().to(dtype)
        fresh.load_state_dict(expected.state_dict())
        whole_again = make([{"params": [p]} for p in fresh.parameters()])
        for group in whole_again.param_groups:
            group["state_bits"] = group["state_bits"] if group["params"][0].ndim > 1 else 32
        saved = get_optimizer_state_dict(fresh, whole_again)
        dcp.load({"state": saved["state"]}, checkpoint_id=f"{meeting}-{implementation}")
        for p, q in zip(fresh.parameters(), expected.parameters(), strict=True):
            name = next(n for n, x in fresh.named_parameters() if x is p)
            for key, x in plain.state[q].items():
                assert torch.equal(saved["state"][name][key], x), (implementation, name, key)
        set_optimizer_state_dict(parts, optimizer, get_optimizer_state_dict(parts, optimizer))
        step(expected, plain, 3)
        step(parts, optimizer, 3)
        for p, q in zip(parts.parameters(), expected.parameters(), strict=True):
            assert torch.equal(whole(p), q), implementation
    dist.destroy_process_group()


def together(rank: int, mesh) -> None:
    """A step that one process's part of one gradient forbids is left out by both."""
    for way, distribute in WAYS.items():
        for which in (0, -1):
            parts = model(6).double()
            distribute(parts, mesh)
            optimizer = AdaBelief(parts.parameters(), skip_nonfinite=True)
            train(parts, optimizer, range(2))
            before = [whole(p).detach().clone() for p in parts.parameters()]
            gradient = [p.grad for p in parts.parameters()][which]
            if rank == (0 if (way, which) == ("FSDP2", -1) else 1):  # the last one has one row, which process 0 holds
                getattr(gradient, "_local_tensor", gradient).fill_(float("nan"))
            optimizer.step()
            assert optimizer.skipped == 1, (way, which)
            assert all(torch.equal(whole(p), x) for p, x in zip(parts.parameters(), before, strict=True)), (way, which)


def flat(rank: int) -> None:
    """FSDP1 makes parameters flat, so that Ranger would silently centralize nothing."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        parts = FullyShardedDataParallel(model(6), use_orig_params=original, device_id=torch.device("cpu"))
        for use_gc, told in ((True, 1), (False, 0)):
            optimizer = RangerAdaBelief(parts.parameters(), use_gc=use_gc)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for seed in range(2):
                    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
                    optimizer.zero_grad()
                    parts(x).mean().backward()
                    optimizer.step()
            said = [str(w.message) for w in caught if "no row is centralized" in str(w.message)]
            assert len(said) == told, (original, use_gc, said)


def start(code: str, *arguments: str) -> None:
    """Runs a function of this module in two processes."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                f"import sys; from {__name__} import *; {code}",
                str(rank),
                *arguments,
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=1800)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors


needs_distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed package"
)


@needs_distributed
def test_two_processes_step_as_one(tmp_path):
    start("sharded(int(sys.argv[1]), sys.argv[2])", str(tmp_path / "meeting"))


@needs_distributed
def test_codes_are_sharded_as_the_whole_is(tmp_path):
    start("coded(int(sys.argv[1]), sys.argv[2])", str(tmp_path / "meeting"))


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
