"""What torch promises of its own optimizers, held for ours in the terms of its own tests, beside torch.optim.AdamW."""

from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch

from tests.oracle import set_gradients
from tests.torch.infos import (
    LOOP,
    SHAPES,
    assert_alike,
    built,
    of_each,
    of_every_case,
    of_every_implementation,
    parameters,
    params_of,
    torchs,
    walk,
)


def skip_fused_adamw(cls, implementation):
    if cls is torch.optim.AdamW and implementation.get("fused"):
        pytest.skip("torch's fused step on a CPU takes neither complex parameters nor gradients of another layout")


def precision(options) -> float:
    """A learning rate of single precision makes steps of single precision, as in torch's own."""
    return 1e-6 if isinstance(options.get("lr"), torch.Tensor) else 1e-12


# Construction


@of_each
def test_errors(each):
    for error in each.optim_error_inputs_func("cpu", torch.float32):
        params = error.optimizer_error_input.params
        params = parameters() if params is None else params
        expected = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expected(error.error_type, match=error.error_regex):
            optimizer = each.optim_cls(params, **error.optimizer_error_input.kwargs)
            if error.error_on is torchs.OptimizerErrorEnum.STEP_ERROR:
                optimizer.step()


@of_each
@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ([torch.ones(1)], TypeError, "param_group must be a dict"),
        ({"params": {torch.ones(1)}}, TypeError, "ordered collections"),
        ({"params": [1.0]}, TypeError, "can only optimize Tensors"),
        ({"params": [torch.ones(1, requires_grad=True) * 2]}, ValueError, "non-leaf"),
    ],
)
def test_groups_that_torch_refuses(each, group, error, message):
    optimizer = each.optim_cls([torch.ones(2)])
    with pytest.raises(error, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@of_every_implementation
def test_empty_lists(each, implementation):
    with pytest.raises(ValueError, match="empty parameter list"):
        each.optim_cls([], **implementation)
    optimizer = each.optim_cls([{"params": []}, {"params": parameters(), "lr": 0.1}], **implementation)
    walk(optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(optimizer.state) == len(SHAPES)


@of_each
def test_groups_take_what_they_do_not_name_from_the_defaults(each):
    optimizer = each.optim_cls(parameters(), lr=0.25, weight_decay=0.5)
    optimizer.defaults["lr"] = 0.125
    optimizer.add_param_group({"params": iter(parameters()), "weight_decay": 0.0})
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"]) == (0.25, 0.5)
    assert (second["lr"], second["weight_decay"]) == (0.125, 0.0)
    walk(optimizer, range(1))


# Steps


@of_every_case
def test_goes_in_the_right_direction(cls, options, implementation):
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*s, 2, generator=generator)[..., 0] for s in [(10, 5), (10,), (5,)])
    params = [torch.nn.Parameter(t) for t in (weight, bias)]
    optimizer = built(cls, params, options, implementation)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, gamma=0.99, step_size=10)

    def closure():
        optimizer.zero_grad()
        loss = (params[0].mv(x) + params[1]).square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(20):
        losses.append(optimizer.step(closure).item())
        scheduler.step()
    assert (losses[-1] > losses[0]) == options.get("maximize", False)


@of_every_case
def test_implementations_agree(cls, options, implementation):
    """Each one with the plain loop, on contiguous and strided parameters of every shape, empty ones too."""
    skip_fused_adamw(cls, implementation)
    optimizers = [
        built(cls, parameters() + parameters(contiguous=False), options, chosen) for chosen in (implementation, LOOP)
    ]
    for optimizer in optimizers:
        walk(optimizer, range(7))
    assert_alike(*optimizers, tolerance=precision(options))


@of_every_implementation
def test_types_mix(each, implementation):
    """Parameters of different types in one group move as they do alone."""
    skip_fused_adamw(each.optim_cls, implementation)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
    alone = [each.optim_cls(parameters(dtype), **implementation) for dtype in dtypes]
    together = each.optim_cls(list(chain.from_iterable(map(parameters, dtypes))), **implementation)
    for seed in range(5):
        for optimizer in alone:
            walk(optimizer, range(seed, seed + 1))
        for p, q in zip(params_of(together), chain.from_iterable(map(params_of, alone)), strict=True):
            p.grad = q.grad.clone()
        together.step()
    torch.testing.assert_close(params_of(together), list(chain.from_iterable(map(params_of, alone))), rtol=0, atol=0)


@of_every_case
def test_complex_is_a_pair_of_reals(cls, options, implementation):
    skip_fused_adamw(cls, implementation)
    numbers = parameters(torch.complex128)
    parts = [torch.nn.Parameter(part(p.detach()).clone()) for p in numbers for part in (torch.real, torch.imag)]
    one, other = (built(cls, params, options, implementation) for params in (numbers, parts))
    for seed in range(5):
        set_gradients(numbers, seed)
        for p, g in zip(parts, (part(p.grad) for p in numbers for part in (torch.real, torch.imag)), strict=True):
            p.grad = g.clone()
        one.step()
        other.step()
    actual = [part(p.detach()) for p in numbers for part in (torch.real, torch.imag)]
    torch.testing.assert_close(actual, [p.detach() for p in parts], rtol=0, atol=precision(options))


@of_every_case
def test_what_has_no_gradient_or_one_of_zero_stays(cls, options, implementation):
    params = parameters()
    optimizer = built(cls, params, options, implementation, {"weight_decay": 0.0})
    optimizer.step()
    assert not any(optimizer.state.values())
    assert all(map(torch.equal, params, parameters()))
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(7):
        optimizer.step()
    torch.testing.assert_close(params, parameters(), rtol=1e-15, atol=0)  # Lookahead rounds
    assert set(optimizer.state) == set(params)
    before, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.zero_grad()
    optimizer.step()
    assert all(map(torch.equal, params, before))
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@of_every_implementation
def test_groups_differ(each, implementation):
    """Groups with other learning rates and decays move as optimizers of their own."""
    options = [{"lr": 0.1}, {"weight_decay": 0.3}, {"lr": 0.01, "betas": (0.5, 0.9), "amsgrad": True}]
    together = each.optim_cls([{"params": parameters(), **o} for o in options], **implementation)
    alone = [each.optim_cls(parameters(), **o, **implementation) for o in options]
    for seed in range(4):
        for optimizer in alone:
            walk(optimizer, range(seed, seed + 1))
        for group in together.param_groups:
            set_gradients(group["params"], seed)
        together.step()
    torch.testing.assert_close(params_of(together), list(chain.from_iterable(map(params_of, alone))), rtol=0, atol=0)


def skip_foreach_adamw(each, implementation):
    if each.name == "AdamW" and implementation.get("foreach"):
        pytest.skip("torch's foreach takes tensors only with capturable, which torch has on GPUs alone")


@of_every_implementation
@pytest.mark.parametrize("capturable", [False, True], ids=["", "capturable"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_tensor_lr(each, implementation, shape, capturable):
    """It stays the tensor that it is, and steps as the number does."""
    skip_foreach_adamw(each, implementation)
    if each.name == "AdamW" and capturable:
        pytest.skip("torch has capturable on GPUs alone")
    lr = torch.full(shape, 0.125, dtype=torch.float64)
    more = {"capturable": capturable} | implementation
    one, other = (each.optim_cls(parameters(), lr=rate, **more) for rate in (lr, 0.125))
    for seed in range(3):
        for optimizer in (one, other):
            walk(optimizer, range(seed, seed + 1))
        lr.mul_(0.5)
        other.param_groups[0]["lr"] *= 0.5
    assert one.param_groups[0]["lr"] is lr
    assert_alike(one, other, tolerance=1e-12)


@of_every_implementation
def test_tensor_betas(each, implementation):
    skip_foreach_adamw(each, implementation)
    one, other = (
        each.optim_cls(parameters(), betas=betas, **implementation)
        for betas in ((torch.tensor(0.875), torch.tensor(0.9375)), (0.875, 0.9375))
    )
    for optimizer in (one, other):
        walk(optimizer, range(3))
    assert_alike(one, other, tolerance=1e-6)


@of_every_implementation
def test_sparse_gradients_are_refused(each, implementation):
    assert not each.supports_sparse
    p = torch.nn.Parameter(torch.ones(3, 2))
    p.grad = torch.sparse_coo_tensor([[0]], torch.ones(1, 2), (3, 2), check_invariants=False)
    optimizer = each.optim_cls([p], **implementation)
    with pytest.raises(RuntimeError, match=r"[Ss]parse"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3, 2))


@of_every_implementation
@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad])
def test_closures_see_gradients(each, implementation, around):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = each.optim_cls([p], lr=0.1, **implementation)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with around():
        assert optimizer.step(closure).item() == 3.0
        assert optimizer.step(closure=closure).item() < 3.0
    assert p.grad_fn is None


@of_every_implementation
def test_defaults_of_the_process(each, implementation):
    """Neither the default type nor the default device reaches the state of parameters that have their own."""
    params = parameters(torch.float32)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = each.optim_cls(params, **implementation)
        walk(optimizer, range(2))
    finally:
        torch.set_default_dtype(kept)
    assert all(optimizer.state[p]["exp_avg"].dtype == torch.float32 for p in params)
    if each.name == "AdamW":
        return  # torch's own step numbers are on the default device
    with torch.device("meta"):
        later = each.optim_cls(params, **implementation)
        later.step()
    assert {x.device.type for entry in later.state.values() for x in entry.values()} == {"cpu"}


@of_every_implementation
def test_grad_scaler(each, implementation):
    """A step whose gradients overflow is left out, and the others are those without a scale."""
    model, plain = (torch.nn.Linear(3, 2) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    one, other = (each.optim_cls(m.parameters(), lr=0.1, **implementation) for m in (model, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, x in enumerate(torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(0))):
        one.zero_grad()
        scaler.scale(model(x).square().mean() * (float("inf") if i == 1 else 1.0)).backward()
        scaler.step(one)
        scaler.update()
        if i != 1:
            other.zero_grad()
            plain(x).square().mean().backward()
            other.step()
    assert_alike(one, other, tolerance=1e-5)


@of_every_implementation
def test_scale_and_a_group_that_is_empty(each, implementation):
    """What the GradScaler sets before a step of an optimizer that takes it."""
    if each.name == "AdamW":
        pytest.skip("torch has capturable on GPUs alone")
    groups = [{"params": []}, {"params": parameters()}]
    optimizer = each.optim_cls(groups, capturable=True, **implementation)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    walk(optimizer, range(2))
    assert len(optimizer.state) == len(SHAPES)
