"""PyTorch's promises: arguments, groups, closures, schedulers, scaling, autograd, and what a user sees."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.oracle import Oracle, set_gradients

CLASSES = [AdaBelief, AdaBeliefW, RangerAdaBelief]


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(shape or (3,), dtype=dtype))


# Groups and parameters


def test_named_parameters():
    model = torch.nn.Linear(3, 2)
    optimizer = AdaBelief(model.named_parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    other = AdaBelief(model.named_parameters())
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[model.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])


def test_sparse_gradients_are_refused_by_name():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*\(5, 2\).*SparseAdam"):
        AdaBelief(embedding.parameters()).step()


@pytest.mark.parametrize("cls", CLASSES)
def test_closure_runs_with_gradients_and_its_loss_comes_back(cls):
    p = parameter()
    optimizer = cls([p], lr=0.1)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == calls[0] == 3.0
    assert optimizer.step() is None
    assert len(calls) == 1
    assert (p < 1).all()


@pytest.mark.parametrize("implementation", [{"foreach": False}, {"foreach": True}, {"capturable": True}])
def test_tensor_lr(implementation):
    p, q = parameter(4, 2), parameter(4, 2)
    lr = torch.tensor(0.1)
    a, b = AdaBeliefW([p], lr=lr, **implementation), AdaBeliefW([q], lr=0.1, **implementation)
    for seed in range(4):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        a.step()
        b.step()
        lr.mul_(0.5)
        b.param_groups[0]["lr"] *= 0.5
    torch.testing.assert_close(p, q)
    assert a.param_groups[0]["lr"] is lr


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=8),  # cycles beta1 too
        lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
        lambda o: lr_scheduler.LambdaLR(o, lambda t: min(1.0, (t + 1) / 4)),
    ],
    ids=["StepLR", "OneCycleLR", "CosineAnnealingLR", "LambdaLR"],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_schedulers(cls, schedule):
    params = [parameter(4, 2, dtype=torch.float64)]
    optimizer = cls(params, lr=0.1)
    scheduler, oracle = schedule(optimizer), Oracle(optimizer)
    rates = []
    for seed in range(8):
        set_gradients(params, seed)
        rates.append(optimizer.param_groups[0]["lr"])
        oracle.step()
        scheduler.step()
    assert len(set(rates)) > 1


# Scaling


@pytest.mark.parametrize("implementation", [{"foreach": False}, {"foreach": True}, {"capturable": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_grad_scale_divides_and_found_inf_skips(implementation, dtype):
    params = [parameter(4, 2, dtype=dtype)]
    optimizer = AdaBelief(params, lr=0.1, weight_decay=0.1, **implementation)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    oracle = Oracle(optimizer, grad_scale=8.0)
    for seed in range(3):
        set_gradients(params, seed)
        oracle.step()
    before, state = params[0].clone(), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.found_inf = torch.tensor(1.0)
    params[0].grad.fill_(math.inf)
    optimizer.step()
    assert torch.equal(params[0], before)
    assert all(torch.equal(x, optimizer.state[params[0]][name]) for name, x in state[0].items())


def test_grad_scaler():
    model = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    optimizer, plain = AdaBelief(model.parameters(), lr=0.1), AdaBelief(twin.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, x in enumerate(torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))):
        poison = math.inf if i == 2 else 1.0
        optimizer.zero_grad()
        scaler.scale((model(x) ** 2).mean() * poison).backward()
        scaler.step(optimizer)
        scaler.update()
        if i != 2:
            plain.zero_grad()
            (twin(x) ** 2).mean().backward()
            plain.step()
    assert float(optimizer.state[model.weight]["step"]) == 4
    torch.testing.assert_close(model.weight, twin.weight)


# Autograd


@pytest.mark.parametrize(
    "options",
    [{}, {"rectify": True, "weight_decay": 0.1}, {"amsgrad": True, "weight_decouple": True}, {"max_update": 0.6}],
)
def test_differentiable(options):
    """The derivative of three steps, by autograd, against finite differences."""

    def trained(p0, grads, lr):
        p = p0.clone()
        optimizer = AdaBelief([p], lr=lr, eps=1e-4, differentiable=True, **options)
        for g in grads.unbind():
            p.grad = g
            optimizer.step()
        return p

    generator = torch.Generator().manual_seed(0)
    p0, grads = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in [(3,), (3, 3)])
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trained, (p0, grads, lr))


def test_differentiable_ranger():
    def trained(p0, g):
        p = p0.clone()
        optimizer = RangerAdaBelief([p], lr=0.1, k=1, differentiable=True)
        p.grad = g
        optimizer.step()
        return p

    p0, g = (torch.rand(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(trained, (p0, g))


@pytest.mark.parametrize(
    "implementation", [{}, {"foreach": True}, {"foreach": False}], ids=["chosen", "foreach", "loop"]
)
def test_backward_after_a_step_is_an_error(implementation):
    """Autograd has to notice that what it kept was changed, also where a kernel changed it."""
    p, x = parameter(3), torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    product = (p * x).sum()
    AdaBelief([p], **implementation).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_step_leaves_no_graph():
    p = parameter()
    p.grad = torch.ones(3)
    optimizer = AdaBelief([p])
    optimizer.step()
    assert p.is_leaf
    assert not any(x.requires_grad for x in optimizer.state[p].values())


# Copies


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(cls, copied):
    params = [parameter(4, 2), parameter(3, dtype=torch.bfloat16)]
    optimizer = cls(params, lr=0.1)
    for seed in range(3):
        set_gradients(params, seed)
        optimizer.step()
    twin = copied(optimizer)
    twins = twin.param_groups[0]["params"]
    for seed in range(3, 8):
        set_gradients(params, seed)
        set_gradients(twins, seed)
        optimizer.step()
        twin.step()
    assert all(torch.equal(p, q) and p is not q for p, q in zip(params, twins, strict=True))
    assert repr(twin) == repr(optimizer)


def test_old_pickles_without_newer_options():
    optimizer = AdaBelief([parameter()])
    state = optimizer.__getstate__()
    for group in state["param_groups"]:
        del group["maximize"], group["differentiable"], group["max_update"]
    old = AdaBelief.__new__(AdaBelief)
    old.__setstate__(state)
    set_gradients(old.param_groups[0]["params"], 0)
    old.step()
    assert old.param_groups[0]["maximize"] is False


# Behaviour


@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])  # without decay AdaBeliefW is the first of them
def test_rosenbrock(cls):
    xy = torch.nn.Parameter(torch.tensor([-1.5, 2.0], dtype=torch.float64))
    waiting = {"degenerated_to_sgd": False}  # here, SGD at this learning rate diverges
    optimizer = cls([xy], lr=0.02, eps=1e-12, weight_decay=0, **waiting)
    for _ in range(6000):
        optimizer.zero_grad()
        loss = (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-6, 1.0),
    beta1=st.floats(0.0, 0.99),
    beta2=st.floats(0.3, 0.9999),
    eps=st.floats(-12, -3).map(lambda e: 10**e),
    weight_decay=st.floats(0.0, 0.5),
    options=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("weight_decouple", "fixed_decay", "rectify", "amsgrad", "maximize", "foreach")
        }
    ),
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.complex128]),
)
@pytest.mark.filterwarnings("ignore:betas")
def test_hyper_parameters(lr, beta1, beta2, eps, weight_decay, options, shape, dtype):
    params = [
        torch.nn.Parameter(torch.ones(shape, dtype=dtype)),
        torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),
    ]
    optimizer = AdaBelief(params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, **options)
    oracle = Oracle(optimizer, allowing=["small means", "small steps"])
    for seed in range(7):
        set_gradients(params, seed)
        oracle.step()


def test_a_mean_that_has_cancelled_is_as_exact_as_what_it_was_added_up_from():
    """Not only in the step in which it does, but as long as something of that is left in it."""
    p = torch.nn.Parameter(torch.ones(1, 1))
    oracle = Oracle(AdaBelief([p], eps=1e-8), allowing=["small means", "small steps"])
    for g in (1.0, 1 / 3, -0.9 * (0.1 * 0.9 + 0.1 / 3) / 0.1 - 1e-4, *[0.0] * 20):
        p.grad = torch.full((1, 1), g)
        oracle.step()


@pytest.mark.parametrize("everywhere", [False, True], ids=["own", "global"])
def test_hooks_of_torch_see_every_step(everywhere):
    """They are called, in order and with changed arguments, although a step without hooks goes past torch's wrapper."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, seen = AdaBelief([p], lr=0.1), []
    before = register_optimizer_step_pre_hook if everywhere else optimizer.register_step_pre_hook
    after = register_optimizer_step_post_hook if everywhere else optimizer.register_step_post_hook

    def closure():
        p.grad = torch.ones(3)
        seen.append("closure")
        return 7.0

    assert optimizer.step(closure) == 7.0
    handles = [
        before(lambda o, args, kwargs: (seen.append(("before", o)), ((o, closure), {}))[1]),
        after(lambda o, args, kwargs: seen.append(("after", o))),
    ]
    assert optimizer.step() == 7.0
    assert seen == ["closure", ("before", optimizer), "closure", ("after", optimizer)]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 4
