"""Stepped inside backward, parameters end up where the step after it would have taken them, to the bit."""

from __future__ import annotations

import copy
import gc
from itertools import product

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch, release
from tests.torch.cases import IMPLEMENTATIONS, same, skip_without_kernel
from tests.torch.released import KINDS, Net, groups, states_equal, train
from tests.torch.test_distributed import fsdp2, needs_distributed, whole

MIB = 2**20


@pytest.mark.parametrize(
    ("kind", "implementation"), [*product(KINDS, ("fused", "foreach")), ("plain", "loop"), ("8 bits", "loop")]
)
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_the_same_steps_inside_backward(cls, kind, implementation):
    (dtype, options), choice = KINDS[kind], IMPLEMENTATIONS[implementation]
    skip_without_kernel(choice)
    nets = [Net(dtype), Net(dtype)]
    optimizers = [cls(groups(net), lr=0.01, **options, **choice) for net in nets]
    with release(optimizers[1], batch_mib=0.02):
        for net, optimizer in zip(nets, optimizers, strict=True):
            train(net, optimizer)
        states_equal(*optimizers)
    for net, optimizer in zip(nets, optimizers, strict=True):  # and on, without
        train(net, optimizer, 2, begin=8)
    assert same(nets[0].parameters(), nets[1].parameters())
    states_equal(*optimizers)


def live(params):
    return sum(p.grad.numel() * p.grad.element_size() for p in params if p.grad is not None)


@pytest.mark.parametrize("released", [True, False])
def test_gradients_are_never_there_all_at_once(released):
    layers = 16
    net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(layers)])  # of 64.5 KiB each
    params, most, seen = list(net.parameters()), [0], []
    optimizer = AdaBelief(params)
    for p in params:  # asked before the batch that the gradient no longer fits into is stepped
        p.register_post_accumulate_grad_hook(lambda p: most.append(live(params)))
    if released:
        handle = release(optimizer, batch_mib=0.125)
    for _ in range(3):
        net(torch.ones(2, 128)).sum().backward()
        seen.append(sum(p.grad is not None for p in params))
        optimizer.step()
        assert not released or live(params) == 0
        optimizer.zero_grad()
    largest, all_of_them = 4 * 128 * 128, layers * 4 * (128 * 128 + 128)
    assert largest < max(most) <= (MIB / 8 + largest if released else all_of_them)
    assert set(seen) == {1 if released else 2 * layers}
    if released:
        assert launch.unserved("cpu") or all(kept["_plan"].parts[0].stepped for kept in handle._plans.values())
        assert 2 < len(handle._plans) < layers


def test_plans_of_batches_are_kept():
    net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)])
    optimizer = AdaBelief(net.parameters(), fused=None if launch.unserved("cpu") else True)
    handle, plans = release(optimizer, batch_mib=1e-6), []
    for _ in range(4):
        net(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        plans.append({first: id(kept.get("_plan")) for first, kept in handle._plans.items()})
    assert plans[2] == plans[3]
    assert len(plans[3]) == 11  # and the last one is the optimizer's own


def test_closures_are_what_they_are_without():
    nets = [Net(), Net()]
    optimizers = [AdaBeliefW(net.parameters(), lr=0.01) for net in nets]
    release(optimizers[1], batch_mib=0.02)
    losses = []
    for net, optimizer in zip(nets, optimizers, strict=True):

        def closure(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(torch.arange(6))
            loss.backward()
            return loss

        losses.append([optimizer.step(closure).item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert same(nets[0].parameters(), nets[1].parameters())


def test_two_backwards_of_different_parameters_are_one_iteration():
    parts = [nn.Linear(4, 4), nn.Linear(4, 4)]
    twins = copy.deepcopy(parts)
    for pair in (parts, twins):
        optimizer = AdaBelief([p for part in pair for p in part.parameters()], lr=0.1)
        if pair is parts:
            release(optimizer, batch_mib=1e-6)
        for _ in range(3):
            for part in pair:
                part(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for part, twin in zip(parts, twins, strict=True):
        assert same(part.parameters(), twin.parameters())


def accumulate(net, optimizer):
    for _ in range(2):
        net(torch.arange(6)).backward()
    optimizer.step()


def accumulate_by_retaining(net, optimizer):
    loss = net.head.bias.square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def clip(net, optimizer):
    net(torch.arange(6)).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1e6)
    optimizer.step()


def clip_by_value(net, optimizer):
    net(torch.arange(6)).backward()
    nn.utils.clip_grad_value_(net.parameters(), 1e6)
    optimizer.step()


def forget(net, optimizer):
    net(torch.arange(6)).backward()
    optimizer.zero_grad()
    optimizer.step()


def scale(net, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(net(torch.arange(6))).backward()
    scaler.step(optimizer)


def look(net, optimizer):
    net(torch.arange(6)).backward()
    [p.grad.norm() for p in net.parameters() if p.grad is not None]


def scaled_before(net, optimizer):
    optimizer.grad_scale = torch.tensor(4.0)
    net(torch.arange(6)).backward()


def compiled(net, optimizer):
    net(torch.arange(6)).backward()
    torch._dynamo.reset()
    torch.compile(optimizer.step, backend="eager", fullgraph=True)()


REFUSED = {
    accumulate: "second gradient before optimizer.step|changes gradients after backward",
    accumulate_by_retaining: "changes gradients after backward.*accumulation",
    clip: "reads or changes gradients after backward.*a norm of all",
    clip_by_value: "reads or changes gradients after backward",
    look: "reads or changes gradients after backward",
    forget: "gradients were changed after backward.*zero_grad before step",
    scale: "changes gradients after backward.*a GradScaler",
    scaled_before: "GradScaler unscales gradients after backward",
    compiled: "compile the model instead",
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_what_needs_all_gradients_is_refused(what, fused):
    skip_without_kernel({"fused": fused})
    net = Net()
    optimizer = AdaBelief(net.parameters(), fused=fused)
    handle = release(optimizer, batch_mib=0.02)
    with pytest.raises(Exception, match=REFUSED[what]):
        what(net, optimizer)
    handle.remove()
    optimizer.__dict__.pop("grad_scale", None)
    optimizer.zero_grad()
    net(torch.arange(6)).backward()
    optimizer.step()


def test_clipping_each_gradient_in_a_hook_is_possible():
    nets = [Net(), Net()]
    for net in nets:
        optimizer = AdaBelief(net.parameters())
        if net is nets[1]:
            release(optimizer, batch_mib=0.02)
        for p in net.parameters():
            if p.requires_grad:
                p.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        train(net, optimizer, 3, schedule=False)
    assert same(nets[0].parameters(), nets[1].parameters())


def test_sparse_gradients_are_refused_as_ever():
    embedding = nn.Embedding(4, 3, sparse=True)
    optimizer = AdaBelief(embedding.parameters())
    release(optimizer)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_wrong_arguments():
    weight = nn.Parameter(torch.ones(3))
    optimizer = AdaBelief([weight])
    with pytest.raises(TypeError, match="got Adam; pass the optimizer itself"):
        release(torch.optim.Adam([weight]))
    for wrong in (0, -1.0, float("nan"), "32", None):
        with pytest.raises(ValueError, match="batch_mib must be a finite number above 0"):
            release(optimizer, batch_mib=wrong)
    for option in ("skip_nonfinite", "differentiable"):
        with pytest.raises(ValueError, match=f"{option}=True needs"):
            release(AdaBelief([weight], **{option: True}))
    handle = release(optimizer)
    with pytest.raises(ValueError, match="already released"):
        release(optimizer)
    handle.remove()
    handle.remove()
    release(optimizer).remove()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "skip_nonfinite": True})
    with pytest.raises(ValueError, match="skip_nonfinite=True needs"):
        release(optimizer)
    assert optimizer._instead is None
    assert not weight._post_accumulate_grad_hooks


def test_an_optimizer_that_is_gone_steps_nothing():
    weight = nn.Parameter(torch.ones(3))
    optimizer = AdaBelief([weight])
    release(optimizer)
    del optimizer
    gc.collect()
    weight.sum().backward()
    weight.sum().backward()
    assert weight.grad is not None
    assert bool((weight == 1).all())


def test_added_groups_and_loaded_states_are_released_too():
    nets = [Net(), Net()]
    for net in nets:
        parts = list(net.body.parameters())
        optimizer = RangerAdaBelief(parts, k=2)
        if net is nets[1]:
            handle = release(optimizer, batch_mib=0.02)
        train(net, optimizer, 2, schedule=False)
        optimizer.add_param_group({"params": list(net.sometimes.parameters()), "lr": 0.1})
        train(net, optimizer, 2, schedule=False)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(net, optimizer, 3, schedule=False)
    assert same(nets[0].parameters(), nets[1].parameters())
    assert len(handle._hooks) == 8


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path_factory.mktemp('m') / 'm'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@needs_distributed
@pytest.mark.parametrize("when", ["before", "after"])
def test_data_parallel_is_refused(when, mesh):
    net = nn.Linear(3, 3)
    optimizer = AdaBelief(net.parameters())
    if when == "after":
        release(optimizer)
    parallel = nn.parallel.DistributedDataParallel(net)
    loss, before = parallel(torch.ones(2, 3)).sum(), copy.deepcopy(list(net.parameters()))
    with pytest.raises(RuntimeError, match="DistributedDataParallel averages"):
        loss.backward() if when == "after" else release(optimizer)
    assert same(net.parameters(), before)
    assert (optimizer._instead is None) == (when == "before")


@needs_distributed
@pytest.mark.filterwarnings("ignore")  # torch's own: FSDP1 is deprecated, and there is one process
def test_flat_parameters_are_refused(mesh):
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        net = FullyShardedDataParallel(nn.Linear(3, 3), use_orig_params=original, device_id=torch.device("cpu"))
        with pytest.raises(ValueError, match="use FSDP2"):
            release(AdaBelief(net.parameters()))


@needs_distributed
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [AdaBeliefW, RangerAdaBelief])
def test_fully_sharded(cls, kind, mesh):
    """Accumulation inside fully_shard is its own; what comes after backward is seen on distributed gradients too."""
    dtype, options = KINDS[kind]
    nets = [Net(dtype), Net(dtype)]
    for net in nets:
        fsdp2(net.body, mesh)
        fsdp2(net, mesh)
        optimizer = cls(net.parameters(), lr=0.01, **options)
        if net is nets[1]:
            handle = release(optimizer, batch_mib=0.01)
        train(net, optimizer, 3)
        net.set_requires_gradient_sync(False)
        net(torch.arange(6)).backward()
        net.set_requires_gradient_sync(True)
        train(net, optimizer, 1)
    assert all(torch.equal(whole(p), whole(q)) for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert len(handle._plans) > 1
    nets[1](torch.arange(6)).backward()
    with pytest.raises(RuntimeError, match="reads or changes gradients after backward"):
        nn.utils.clip_grad_norm_(nets[1].parameters(), 1.0)
    with pytest.raises((RuntimeError, AssertionError), match=r"second gradient|got ReleasedGradient"):
        nets[1](torch.arange(6)).backward()
