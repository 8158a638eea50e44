"""Offloaded, an optimizer is what it was; CPU tensors stand for a device's, and are copied all the same."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch, offload, release
from tests.torch.cases import IMPLEMENTATIONS, parameters, same
from tests.torch.released import KINDS, Net, groups, states_equal
from tests.torch.test_distributed import fsdp2, needs_distributed
from tests.torch.test_release import mesh  # noqa: F401


def train(net, optimizer, steps=4, begin=0, max_norm=0.5):
    """With a schedule, clipping, accumulation and parameters that not every step reaches."""
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps + 1, cycle_momentum=False)
    for i in range(begin, begin + steps):
        generator = torch.Generator().manual_seed(i)
        for _ in range(2):
            tokens = torch.randint(70, (3, 5), generator=generator).to(net.head.bias.device)
            net(tokens, skip=i % 2 == 1).backward()
        nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


@pytest.mark.parametrize("implementation", ["default", "foreach"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_the_same_steps_on_copies(cls, kind, implementation):
    """As is what is saved; half the way offloaded and half not, in either order, with a checkpoint in between."""
    (dtype, options), choice = KINDS[kind], IMPLEMENTATIONS[implementation]
    make = lambda net: cls(groups(net), lr=0.01, **options, **choice)  # noqa: E731
    expected, first, second = Net(dtype), Net(dtype), Net(dtype)
    plain, early, late = map(make, (expected, first, second))
    train(expected, plain)
    with offload(early, batch_mib=0.01) as handle:
        train(first, early)
        assert len(handle._batches) > 3
        if implementation != "foreach" and not launch.unserved("cpu"):
            assert all(batch.kept["_plan"].parts[0].stepped for batch in handle._batches)
    train(second, late)
    states_equal(plain, early)
    saved = pickle.loads(pickle.dumps(early.state_dict()))
    early, last = make(first), make(second)
    early.load_state_dict(saved)
    offload(last, batch_mib=0.02)
    last.load_state_dict(late.state_dict())
    for net, optimizer in ((expected, plain), (first, early), (second, last)):
        train(net, optimizer, begin=4)
        states_equal(plain, optimizer)
        assert same(net.parameters(), expected.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_all_shapes_and_layouts(dtype):
    sides = [parameters(dtype) for _ in range(2)]
    optimizers = [AdaBelief(params, lr=0.1, weight_decay=0.1) for params in sides]
    offload(optimizers[1], batch_mib=0.01)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for p, q in zip(*sides, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(*sides, strict=True):
        # those with gaps are dense as copies, so that another implementation takes them
        torch.testing.assert_close(p, q, **({"rtol": 1e-12, "atol": 0} if dtype == torch.float64 else {}))


def test_plans_and_copies_are_kept():
    net = Net()
    optimizer = AdaBelief(net.parameters(), fused=None if launch.unserved("cpu") else True)
    handle, kept = offload(optimizer, batch_mib=0.05), []
    for _ in range(3):
        net(torch.arange(6)).backward()
        optimizer.step()
        kept.append([(id(batch.copies[0]), id(batch.kept.get("_plan"))) for batch in handle._batches])
    assert kept[0] == kept[1] == kept[2]
    assert len({batch.copies[0].untyped_storage().data_ptr() for batch in handle._batches}) == 3


def test_a_scaler_and_what_is_no_number():
    nets = [Net(), Net()]
    for net in nets:
        optimizer = AdaBelief(net.parameters(), skip_nonfinite=True)
        if net is nets[1]:
            offload(optimizer)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        for i in range(4):
            net(torch.arange(6)).backward()
            if i == 1:
                net.head.bias.grad[0] = float("nan")
            optimizer.found_inf.fill_(i == 2)
            optimizer.step()
            optimizer.zero_grad()
        del optimizer.grad_scale, optimizer.found_inf
        net(torch.arange(6)).backward()
        optimizer.step()
        assert optimizer.skipped == 2
        assert int(optimizer.state[net.head.bias]["step"]) == 3
    assert same(nets[0].parameters(), nets[1].parameters())


def test_closures_groups_and_copies_of_the_optimizer():
    nets = [Net(), Net()]
    for net in nets:
        optimizer = RangerAdaBelief(net.body.parameters(), k=2)
        handle = offload(optimizer) if net is nets[1] else None
        optimizer.add_param_group({"params": list(net.head.parameters()), "state_bits": 8})

        def closure(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(torch.arange(6))
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(3)]
        assert losses[0] > losses[-1]
        other = copy.deepcopy(optimizer)
        assert other._instead is other._state_device is None
    assert same(nets[0].parameters(), nets[1].parameters())
    handle.remove()
    handle.remove()
    assert optimizer._instead is optimizer._state_device is None
    optimizer.step(closure)


def test_what_is_refused():
    weight = nn.Parameter(torch.ones(3))
    optimizer = AdaBelief([weight])
    with pytest.raises(TypeError, match="got Adam; pass the optimizer itself"):
        offload(torch.optim.Adam([weight]))
    for wrong in (0, -1.0, float("inf"), "64", None):
        with pytest.raises(ValueError, match="batch_mib must be a finite number above 0"):
            offload(optimizer, batch_mib=wrong)
    with pytest.raises(ValueError, match="differentiable=True needs a step on the parameters' device"):
        offload(AdaBelief([weight], differentiable=True))
    for one, other in ((offload, release), (release, offload)):
        with one(optimizer), pytest.raises(ValueError, match="already released or offloaded"):
            other(optimizer)
    offload(optimizer)
    optimizer.param_groups[0]["capturable"] = True
    weight.grad = torch.ones(3)
    with pytest.raises(ValueError, match="capturable=True needs"):
        optimizer.step()
    optimizer.param_groups[0]["capturable"] = False
    optimizer.step()
    weight.grad = torch.ones(3).to_sparse()
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(weight, before)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_step_is_refused():
    torch._dynamo.reset()
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = AdaBelief([weight])
    offload(optimizer)
    with pytest.raises(Exception, match="compile the model instead"):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()


@needs_distributed
def test_distributed_parameters_are_refused(mesh):  # noqa: F811
    net = nn.Linear(3, 3)
    fsdp2(net, mesh)
    with pytest.raises(ValueError, match="CPUOffloadPolicy"):
        offload(AdaBeliefW(net.parameters()))
