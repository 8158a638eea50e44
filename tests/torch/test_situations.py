"""What users ran into with one optimizer or another, in every implementation and beside torch's AdamW.

A situation is a function of `make`, which builds the optimizer from parameters and options. It asserts what has to come
of it; where torch's own optimizers promise the same, AdamW stands in the table as well.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import UserList
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.torch import launch
from tests.oracle import Oracle, set_gradients

OURS = [AdaBelief, AdaBeliefW, RangerAdaBelief]
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
Make = Callable[..., torch.optim.Optimizer]


def parameter(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    )


def same(params, others):
    return all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def grad_scaler(make: Make, device: str = "cpu", init_scale: float = 1024.0, **options: Any) -> None:
    """It scales, skips the step of an infinite gradient, and leaves the optimizer as it was."""
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    optimizer, plain = make(model.parameters(), **options), make(twin.parameters(), **options)
    scaler = torch.amp.GradScaler(device, init_scale=init_scale)
    for i, x in enumerate(torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))):
        optimizer.zero_grad()
        scaler.scale((model(x) ** 2).mean() * (math.inf if i == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if i != 2:
            plain.zero_grad()
            (twin(x) ** 2).mean().backward()
            plain.step()
    assert float(optimizer.state[model.weight]["step"]) == 4
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-6)


def grad_scaler_that_unscaled_before(make: Make) -> None:
    """For clipping: the step does not unscale once more."""
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p]), make([q])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((p**2).sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p], 0.1)
    scaler.step(optimizer)
    (q**2).sum().backward()
    nn.utils.clip_grad_norm_([q], 0.1)
    plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def own_grad_scale(make: Make) -> None:
    """A scale that the user set himself: the scaler multiplies its own by it."""
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p]), make([q])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale = torch.tensor(4.0)
        scaler.scale(4.0 * (p**2).sum()).backward()
    else:
        scaler.scale((p**2).sum()).backward()
    scaler.step(optimizer)
    (q**2).sum().backward()
    plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def state_that_is_given_up(make: Make) -> None:
    """Cleared, loaded anew, or moved away: nothing of it is alive once nobody has it."""
    params = [parameter(4, 3), parameter(5)]
    optimizer = make(params)
    for give_up in (
        lambda: optimizer.state.clear(),
        lambda: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
        lambda: [entry.update({n: x.clone() for n, x in entry.items()}) for entry in optimizer.state.values()],
    ):
        set_gradients(params, 0)
        optimizer.step()
        old = [weakref.ref(x) for entry in optimizer.state.values() for x in entry.values()]
        give_up()
        assert not any(x() is not None for x in old)


def parameter_that_is_taken_out(make: Make) -> None:
    params = [parameter(4, 3), parameter(5)]
    optimizer = make(params)
    set_gradients(params, 0)
    optimizer.step()
    old = weakref.ref(params[1])
    optimizer.state.pop(optimizer.param_groups[0]["params"].pop(1))
    del params[1]
    assert old() is None


def state_that_visits_another_device(make: Make) -> None:
    """As offloading does: every state tensor goes and comes back, the step number among them, in whatever type."""
    for dtype in (torch.float32, torch.float64):
        p, q = parameter(4, 3), parameter(4, 3)
        optimizer, twin = make([p]), make([q])
        for seed in range(4):
            set_gradients([p], seed)
            set_gradients([q], seed)
            optimizer.step()
            twin.step()
            entry = optimizer.state[p]
            entry.update({name: x.to(dtype if name == "step" else x.dtype, copy=True) for name, x in entry.items()})
        assert same([p], [q])


def estimate_of_memory(make: Make) -> None:
    with FakeTensorMode():
        model = nn.Linear(4, 3)
        optimizer = make(model.parameters())
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        assert optimizer.state[model.weight]["exp_avg"].shape == (3, 4)


def betas_of_a_configuration_library(make: Make) -> None:
    p, q = parameter(3), parameter(3)
    optimizer, plain = make([p], betas=UserList([np.float64(0.8), np.float64(0.9)])), make([q], betas=(0.8, 0.9))
    for seed in range(3):
        set_gradients([p], seed)
        set_gradients([q], seed)
        optimizer.step()
        plain.step()
    assert same([p], [q])


def infinite_weight_without_gradient(make: Make) -> None:
    p = nn.Parameter(torch.tensor([math.inf, 1.0, -math.inf]))
    p.grad = torch.zeros(3)
    make([p], eps=1e-8, weight_decay=0.0).step()
    assert p.tolist() == [math.inf, 1.0, -math.inf]


def model_in_double_after_some_steps(make: Make) -> None:
    """Weights of float64 are stepped as such, whatever the state began as."""
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    for step in range(4):
        if step == 2:
            model.double()
        optimizer.zero_grad()
        (model(torch.ones(2, 3, dtype=model.weight.dtype)) ** 2).sum().backward()
        optimizer.step()
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1e-12  # far below a float32's last place
    model.weight.grad = torch.zeros_like(model.weight)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert not torch.equal(model.weight, before)


def misaligned_parameter(make: Make) -> None:
    """From a buffer with an odd offset, as a file that was mapped into memory."""
    buffer = bytearray(4 * 8 + 1)
    p = nn.Parameter(torch.frombuffer(buffer, dtype=torch.float32, offset=1))
    q = nn.Parameter(torch.zeros(8))
    for seed in range(3):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        if seed == 0:
            optimizer, plain = make([p]), make([q])
        optimizer.step()
        plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def misaligned_gradient(make: Make) -> None:
    p, q = parameter(8), parameter(8)
    optimizer, plain = make([p]), make([q])
    for seed in range(3):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        if seed == 2:
            buffer = bytearray(4 * 8 + 1)
            p.grad = torch.frombuffer(buffer, dtype=torch.float32, offset=1).copy_(q.grad)
        optimizer.step()
        plain.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def only_begins_the_state(make: Make) -> None:
    """What get_optimizer_state_dict does with a fresh optimizer: a step at lr 0 with gradients of 0."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(3, 2)
    before = copy.deepcopy(model)
    get_optimizer_state_dict(model, make(model.parameters(), weight_decay=0.1))
    assert same(model.parameters(), before.parameters())


BESIDE_ADAMW: list[Callable[[Make], None]] = [
    *(grad_scaler, grad_scaler_that_unscaled_before, own_grad_scale),
    *(state_that_is_given_up, parameter_that_is_taken_out, state_that_visits_another_device),
    *(estimate_of_memory, betas_of_a_configuration_library),
    *(infinite_weight_without_gradient, model_in_double_after_some_steps, misaligned_parameter, misaligned_gradient),
    only_begins_the_state,
]
NOT_OF_TORCHS_OWN = {"betas_of_a_configuration_library", "model_in_double_after_some_steps"}
"""What AdamW refuses, or does not promise."""


def skip_without_kernel(options: dict[str, Any]) -> None:
    if options.get("fused") and launch.unserved("cpu"):
        pytest.skip(launch.unserved("cpu"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", [*OURS, torch.optim.AdamW])
@pytest.mark.parametrize("situation", BESIDE_ADAMW, ids=lambda f: f.__name__)
def test_as_torchs_own(situation, cls, implementation):
    options = IMPLEMENTATIONS[implementation]
    if cls is torch.optim.AdamW and situation.__name__ in NOT_OF_TORCHS_OWN:
        pytest.skip("AdamW does not promise that")
    if cls is not torch.optim.AdamW:
        skip_without_kernel(options)
    situation(partial(cls, **options))


@pytest.mark.skipif(bool(launch.unserved("cpu")), reason=launch.unserved("cpu") or "-")
@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("dropped", ["gradients", "state", "parameters"])
def test_what_other_threads_drop_is_there_until_the_kernel_returns(dropped, cls, monkeypatch):
    """The kernel runs without the interpreter's lock: what other threads do meanwhile happens here within it."""
    params, twins = ([parameter(64, 64, seed=i) for i in range(4)] for _ in range(2))
    optimizer, plain = cls(params), cls(twins, foreach=True)
    for seed in range(2):
        set_gradients(params, seed)
        set_gradients(twins, seed)
        plain.step()
        if seed == 0:
            optimizer.step()
    states = [dict(optimizer.state[p]) for p in params] if dropped != "state" else []
    updated = cpu.Table.update

    def update(table: cpu.Table, *arguments: Any) -> None:
        if dropped == "gradients":
            optimizer.zero_grad()
        elif dropped == "state":
            optimizer.state.clear()
        else:
            optimizer.param_groups[0]["params"] = []
        torch.full((64, 64), math.nan)  # would take the place of what was freed
        updated(table, *arguments)

    monkeypatch.setattr(cpu.Table, "update", update)
    alive = [weakref.ref(x) for p in params for x in (p.grad, *optimizer.state[p].values())]
    optimizer.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    del states
    if dropped != "parameters":
        assert not all(x() is not None for x in alive)  # and it was let go of afterwards


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
def test_a_step_at_lr_0_leaves_fixed_decay_out(cls, implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    only_begins_the_state(partial(cls, fixed_decay=True, **IMPLEMENTATIONS[implementation]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
def test_parameters_that_share_memory_are_stepped_one_after_another(cls, implementation):
    """W and its transpose: no update of either is lost, with any number of threads."""
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    apart, together = (weight.clone(), weight.clone()), weight.clone()
    params = [nn.Parameter(together), nn.Parameter(together.t())]
    optimizer = cls(params, lr=0.1, weight_decay=0.0, **IMPLEMENTATIONS[implementation])
    twins = [nn.Parameter(x) for x in apart]
    separate = cls(twins, lr=0.1, weight_decay=0.0, foreach=False)
    for p, q in zip(params, twins, strict=True):
        p.grad = torch.ones(256, 256)
        q.grad = torch.ones(256, 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        optimizer.step()
    finally:
        torch.set_num_threads(threads)
    separate.step()
    both = weight + sum(q.detach() - weight for q in twins)
    if cls is not RangerAdaBelief:
        torch.testing.assert_close(together, both, rtol=1e-5, atol=1e-6)
    assert same([params[0]], [params[1].t()])


@pytest.mark.parametrize("x", [torch.ones(3, dtype=torch.complex64).conj(), torch.ones(2, 3, dtype=torch.cfloat).mH])
@pytest.mark.parametrize("cls", OURS)
def test_lazy_conjugates_are_refused(cls, x):
    p = nn.Parameter(x)
    assert p.is_conj()
    with pytest.raises(ValueError, match=r"params.*lazy conjugate.*resolve_conj"):
        cls([p])
    q = nn.Parameter(x.resolve_conj())
    optimizer = cls([q])
    q.grad = torch.ones_like(q)
    optimizer.step()
    q.data = q.data.conj()
    with pytest.raises(ValueError, match="lazy conjugate"):
        optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capturable": True},
        {"foreach": True, "capturable": True},
        {"foreach": False, "capturable": True},
        {"foreach": False},
        {"foreach": True},
    ],
)
@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
def test_options_that_are_tensors(cls, options, compiled):
    """lr of shape (1,), betas as torch.optim takes them; what is changed in place is followed."""
    torch._dynamo.reset()
    p, q = parameter(4, 2, dtype=torch.float64), parameter(4, 2, dtype=torch.float64)
    lr, beta1 = torch.tensor([0.1]), torch.tensor(0.8, dtype=torch.float64)
    optimizer = cls([p], lr=lr, betas=(beta1, torch.tensor(0.99, dtype=torch.float64)), **options)
    plain = cls([q], lr=0.1, betas=(0.8, 0.99), foreach=False)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    for seed in range(4):
        set_gradients([p], seed)
        set_gradients([q], seed)
        step()
        plain.step()
        lr.mul_(0.5)
        beta1.add_(0.01)
        plain.param_groups[0].update(lr=float(lr), betas=(float(beta1), 0.99))
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


class Scaled(torch.Tensor):
    """A subclass that knows no foreach operators, as many of other packages."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if "_foreach_" in getattr(function, "__name__", "") and "_foreach_add_" not in function.__name__:
            raise NotImplementedError(function.__name__)
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("cls", OURS)
def test_subclasses_that_know_no_foreach_are_stepped_one_by_one(cls):
    p = nn.Parameter(torch.ones(4, 3).as_subclass(Scaled))
    q, twin, twin_q = parameter(3), nn.Parameter(torch.ones(4, 3)), parameter(3)
    optimizer, plain = cls([p, q], lr=0.1), cls([twin, twin_q], lr=0.1, foreach=False)
    for seed in range(3):
        set_gradients([p, q], seed)
        set_gradients([twin, twin_q], seed)
        optimizer.step()
        plain.step()
    torch.testing.assert_close(p.as_subclass(torch.Tensor), twin.detach(), rtol=1e-6, atol=1e-7)


def test_reset_lookahead_takes_the_weights_as_they_are():
    p = parameter(3)
    optimizer = RangerAdaBelief([p], lr=1e-3, k=2)
    set_gradients([p], 0)
    optimizer.step()
    with torch.no_grad():
        p.fill_(100.0)
    optimizer.reset_lookahead()
    assert torch.equal(optimizer.state[p]["slow_buffer"], p)
    optimizer.step()
    assert (p > 99).all()


@pytest.fixture
def flushing():
    """Numbers below the smallest normal one are read as 0 in this thread, as after many a library was loaded."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_subnormal_halves_where_denormals_are_flushed(dtype, cls, implementation, flushing):
    """Subnormal halves (2^-24 to 2^-14) are normal in single precision: values and gradients keep every bit."""
    options = IMPLEMENTATIONS[implementation]
    skip_without_kernel(options)
    tiny = [2.0**-24, -(2.0**-24), 3 * 2.0**-24, 1023 * 2.0**-24, 2.0**-14, -(2.0**-15), 0.0, 1.0]
    p = nn.Parameter(torch.tensor(tiny * 3, dtype=torch.float64).to(dtype))
    optimizer = cls([p], lr=1e-4, **options)
    oracle = Oracle(optimizer)
    for sign in (1, -1, 1):
        p.grad = (sign * torch.tensor(tiny[::-1] * 3, dtype=torch.float64)).to(dtype)
        oracle.step()
    still = nn.Parameter(torch.tensor(tiny, dtype=torch.float64).to(dtype))
    before = still.detach().clone()
    still.grad = torch.zeros_like(still)
    cls([still], lr=1e-4, weight_decay=0, eps=1e-8, **options).step()
    assert torch.equal(still.view(torch.uint8), before.view(torch.uint8))  # not wiped


def test_flushing_flushes(flushing):
    assert float(torch.tensor([1e-40]) * 1.0) == 0.0
