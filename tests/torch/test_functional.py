"""Handed their gradients, by torch.distributed too, optimizers step as they do with those of the parameters."""

from __future__ import annotations

import copy
import warnings
from unittest import mock

import pytest
import torch
from torch import nn

import adabelief.torch.functional as functional
from adabelief.torch import launch, release
from tests.torch.cases import OURS, same
from tests.torch.released import KINDS, states_equal
from tests.torch.released import Net as Large
from tests.torch.released import train as train_released
from tests.torch.test_distributed import fsdp2, needs_distributed, start, whole

FORMS = {cls.__name__: (cls, form) for cls, form in functional.FORMS.items()}
STEPS = 8


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def batch(seed: int, rank: int) -> torch.Tensor:
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(10 * seed + rank), dtype=torch.float64)


def expected(cls, steps, begin=0, ranks=2, decay=1.0, **options):
    """The model of one process that has the data of all."""
    model = net()
    optimizer = cls(model.parameters(), foreach=False, **options)
    for seed in range(begin, begin + steps):
        optimizer.param_groups[0]["lr"] = options["lr"] * decay ** (seed - begin)
        optimizer.zero_grad()
        (sum((model(batch(seed, rank)) ** 2).mean() for rank in range(ranks)) / ranks).backward()
        optimizer.step()
    return model


def run(model, rank, steps=STEPS, scheduler=None):
    for seed in range(steps):
        (model(batch(seed, rank)) ** 2).mean().backward()
        model.zero_grad()
        if scheduler:
            scheduler.step()


def close(model, other, what):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12, msg=lambda m: f"{what}: {m}")


def overlapped(cls, rank, options):
    """ZeroRedundancyOptimizer's own steps, which begin, with the first rate, once the buckets of DDP are known."""
    from torch.distributed.algorithms.ddp_comm_hooks import ddp_zero_hook
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for shard_buckets in (False, True):
        model = nn.parallel.DistributedDataParallel(net(), bucket_cap_mb=1e-4, gradient_as_bucket_view=shard_buckets)
        zero = ZeroRedundancyOptimizer(model.parameters(), cls, overlap_with_ddp=True, **options)
        with mock.patch.object(ddp_zero_hook.dist, "get_backend", return_value="nccl"):  # of gloo torch fears hangs
            hook = ddp_zero_hook.hook_with_zero_step(allreduce_hook, model, zero, shard_buckets)
        model.register_comm_hook(None, hook)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a scheduler that sees no step
            run(model, rank, scheduler=torch.optim.lr_scheduler.ExponentialLR(zero, 0.9))
        assert type(zero.optim) is functional.FORMS[cls]
        taken = {int(entry["step"]) for entry in zero.optim.state.values()}
        assert taken == {STEPS - 2}
        assert zero.param_groups[0]["rectify"] is cls(net().parameters()).param_groups[0]["rectify"]
        one = expected(cls, STEPS - 2, begin=2, decay=0.9, **options)
        close(model.module, one, (cls.__name__, "ZeRO", shard_buckets))


def fused_into_ddp(cls, rank, options):
    model = nn.parallel.DistributedDataParallel(net(), bucket_cap_mb=1e-4)
    model._register_fused_optim(cls, **options)
    run(model, rank)
    close(model.module, expected(cls, STEPS, **options), (cls.__name__, "_register_fused_optim"))


def in_backward_of_ddp(cls, rank, options):
    """DDP asks for streams, which CPUs do not have and, with gloo, do not need."""
    from torch.distributed.optim import _apply_optimizer_in_backward

    streams = mock.patch.multiple(torch, Stream=mock.MagicMock(), accelerator=mock.MagicMock())
    for bucket_view in (False, True):
        model = net()
        _apply_optimizer_in_backward(cls, model.parameters(), options)
        model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1e-4, gradient_as_bucket_view=bucket_view)
        with streams:
            run(model, rank)
        close(model.module, expected(cls, STEPS, **options), (cls.__name__, "in backward", bucket_view))


def released_under_fsdp2(cls, rank, mesh):
    """To the bit: uneven shards, state in codes, and gradients that are reduced over both processes."""
    for kind, (dtype, options) in KINDS.items():
        models = [Large(dtype), Large(dtype)]
        optimizers = []
        for model in models:
            fsdp2(model.body, mesh)
            fsdp2(model, mesh)
            optimizers.append(cls(model.parameters(), lr=0.01, **options))
            if model is models[1]:
                handle = release(optimizers[-1], batch_mib=0.008)
            train_released(model, optimizers[-1], 6)
        assert len(handle._plans) > 1 or launch.unserved("cpu")
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(whole(p), whole(q)), (cls.__name__, kind)
            for name, x in optimizers[0].state[p].items():
                assert torch.equal(whole(x), whole(optimizers[1].state[q][name])), (cls.__name__, kind, name)


def together(rank: int, meeting: str) -> None:
    """One of two processes: all of the above."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for cls in functional.FORMS:
        options = {"lr": 0.02, "betas": (0.8, 0.99), "weight_decay": 0.1}
        fused_into_ddp(cls, rank, options)
        in_backward_of_ddp(cls, rank, options)
        overlapped(cls, rank, options)
        if cls is not functional.AdaBeliefW:
            released_under_fsdp2(cls, rank, mesh)
    dist.destroy_process_group()


@needs_distributed
def test_two_processes(tmp_path):
    start(f"from {__name__} import together; together(int(sys.argv[1]), sys.argv[2])", str(tmp_path / "meeting"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_gradients_as_an_argument(name, kind):
    """All in one call, one by one, and by one call for each half: the steps of the class, to the bit."""
    (dtype, options), (cls, form) = KINDS[kind], FORMS[name]
    params = [nn.Parameter(torch.randn(70, 64).to(dtype)), nn.Parameter(torch.randn(5).to(dtype))]
    params += [nn.Parameter(torch.randn(3, 4).to(dtype))]
    sides = [copy.deepcopy(params) for _ in range(4)]
    ours = cls(sides[0], lr=0.01, **options)
    at_once, halves = form(sides[1], 0.01, **options), form(iter(sides[2]), lr=0.01, **options)
    of_any = form([], lr=0.01, _allow_empty_param_list=True, **options)
    for i in range(6):
        gradients = [torch.randn(p.shape).to(dtype) for p in params]
        if i == 2:
            gradients[1] = None
        for p, g in zip(sides[0], gradients, strict=True):
            p.grad = g
        for group in (ours.param_groups[0], at_once.param_groups[0], halves.param_groups[0], of_any.param_groups[0]):
            group["lr"] = 0.01 / (1 + i)
        ours.step()
        at_once.step(gradients)
        halves.step([gradients[0], None, None])
        halves.step([None, *gradients[1:]])
        for p, g in zip(sides[3], gradients, strict=True):
            of_any.step_param(p, g)
        assert all(same(sides[0], side) for side in sides[1:])
    states_equal(ours, at_once)
    assert all(p.grad is None for p in sides[1])
    assert launch.unserved("cpu") or all(kept["_plan"].parts[0].stepped for kept in at_once._kept.values())
    again = form(sides[1], lr=0.01, **options)
    again.load_state_dict(at_once.state_dict())
    states_equal(again, at_once)


@pytest.mark.parametrize("cls", OURS)
def test_in_backward_without_ddp(cls):
    from torch.distributed.optim import _apply_optimizer_in_backward

    model = net()
    _apply_optimizer_in_backward(cls, model.parameters(), {"lr": 0.02})
    run(model, 0, 3)
    close(model, expected(cls, 3, ranks=1, lr=0.02), cls.__name__)


def test_what_is_refused():
    weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"params must not be empty, got \[\]"):
        functional.FunctionalAdaBelief([])
    with pytest.raises(ValueError, match="lr must be a finite number"):
        functional.FunctionalAdaBelief([weight], lr=-1.0)
    for option in ("skip_nonfinite", "differentiable"):
        with pytest.raises(ValueError, match=f"{option}=True needs the gradients of all"):
            functional.FunctionalAdaBelief([weight], **{option: True})
    optimizer = functional.FunctionalAdaBelief([weight])
    with pytest.raises(ValueError, match=r"one \(or None\) for each of 1 parameters, got 2"):
        optimizer.step([weight, weight])
    optimizer.step([None])
    assert torch.equal(weight, torch.ones(3))
