"""Tensors, options and moments that few users have, and that nobody's steps may be wrong for."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adabelief import AdaBelief, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.torch import launch
from tests.oracle import Oracle, set_gradients
from tests.torch.cases import IMPLEMENTATIONS, OURS, parameter, same, skip_without_kernel


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
@pytest.mark.parametrize(
    ("cls", "compiled"),  # compiled, AdaBeliefW is AdaBelief with other defaults
    [*((cls, False) for cls in OURS), (AdaBelief, True), (RangerAdaBelief, True)],
)
@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
def test_options_that_are_tensors(cls, compiled, options):
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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", OURS)
def test_an_estimate_of_memory_with_a_grad_scaler(cls, implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    with FakeTensorMode():
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = cls([p], **IMPLEMENTATIONS[implementation])
        optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.zeros(())
        optimizer.step()
        assert optimizer.state[p]["exp_avg"].shape == (3,)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_state_of_several_types_follows_the_parameter(implementation):
    """As partial casts leave it, with Lookahead due in every step."""
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    p, q = parameter(4, 3), parameter(4, 3)
    optimizer, plain = (RangerAdaBelief([x], k=1, amsgrad=True, **IMPLEMENTATIONS[implementation]) for x in (p, q))
    for seed, name in enumerate(("exp_avg", "exp_avg_var", "max_exp_avg_var", "slow_buffer", "step")):
        for each, x in ((optimizer, p), (plain, q)):
            set_gradients([x], seed)
            each.step()
        optimizer.state[p][name] = optimizer.state[p][name].double()
    assert same([p], [q])


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_compiled_step_under_another_default_device(implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    torch._dynamo.reset()
    p, q = parameter(3, dtype=torch.float64), parameter(3, dtype=torch.float64)
    more = {"weight_decouple": True, "fixed_decay": True, "weight_decay": 0.1}  # its factor keeps double precision
    optimizer, plain = (AdaBelief([x], lr=0.01, **more, **IMPLEMENTATIONS[implementation]) for x in (p, q))
    step = torch.compile(optimizer.step, backend="eager")
    for seed in range(3):
        set_gradients([p, q], seed)
        q.grad = p.grad.clone()
        with torch.device("meta"):
            step()
        plain.step()
    torch.testing.assert_close(p, q, rtol=1e-14, atol=0)
