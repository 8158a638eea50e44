"""Every option mix, implementation, element type, size and layout against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.torch import update
from tests.mixes import ALL_WAYS, turns
from tests.oracle import Oracle, set_gradients
from tests.torch.cases import DTYPES, MIXES, parameters

STEPS = 8  # rectified steps become adaptive at the 6th
IMPLEMENTATIONS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
needs_kernel = pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
TURNS = turns(MIXES)
ALL = ["loop", "foreach", pytest.param("fused", marks=needs_kernel)]


def walk(cls, options, params, steps=STEPS):
    optimizer = cls(params, **options)
    oracle = Oracle(optimizer)
    for seed in range(steps):
        set_gradients(params, seed)
        oracle.step()
    return optimizer


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("implementation", ["lists", pytest.param("fused", marks=needs_kernel)])
@pytest.mark.parametrize("mix", MIXES)
def test_equals_reference(mix, implementation, dtype):
    """A mix has nothing to do with layouts, which take turns; so do loop and foreach, beside the kernels' variants."""
    (cls, options), turn = MIXES[mix], TURNS[mix]
    lists = ["loop", "foreach"] if ALL_WAYS else [("loop", "foreach")[(turn + DTYPES.index(dtype)) % 2]]
    for each in lists if implementation == "lists" else [implementation]:
        walk(cls, options | IMPLEMENTATIONS[each], parameters(dtype, None if ALL_WAYS else turn))


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_every_size_and_layout(dtype, implementation):
    for mix in ("AdaBelief-coupled-rectified-amsgrad", "Ranger-decoupled-gc", "Ranger-fixed-step-maximize"):
        cls, options = MIXES[mix]
        walk(cls, options | IMPLEMENTATIONS[implementation], parameters(dtype))


@pytest.mark.parametrize("implementation", ["loop", "foreach"])
@pytest.mark.parametrize("mix", MIXES)
def test_capturable_equals_reference(mix, implementation):
    (cls, options), chosen = MIXES[mix], IMPLEMENTATIONS[implementation] | {"capturable": True}
    optimizer = walk(cls, options | chosen, parameters(torch.float64, TURNS[mix]))
    assert all(state["step"].dtype == torch.float32 for state in optimizer.state.values())


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])
@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_complex_parameters_are_pairs_of_reals(cls, implementation, dtype):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in [(), (0,), (5,), (4, 3, 2)]]
    walk(cls, {"lr": 1e-2, "weight_decay": 0.1, **IMPLEMENTATIONS[implementation]}, params)


def test_conjugate_gradient():
    p, q = (torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)) for _ in range(2))
    p.grad = torch.tensor([1 + 2j, 3 - 1j, 0.5j]).conj()
    assert p.grad.is_conj()
    q.grad = p.grad.resolve_conj()
    AdaBelief([p]).step()
    AdaBelief([q]).step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("implementation", ALL)
def test_parameters_without_gradient_wait(implementation):
    params = parameters(torch.float32)
    optimizer = AdaBelief(params, lr=1e-2, weight_decay=0.1, **IMPLEMENTATIONS[implementation])
    oracle = Oracle(optimizer)
    for seed in range(6):
        set_gradients(params, seed)
        for p in params[seed % 3 :: 3]:  # so that the step numbers differ within the group
            p.grad = None
        oracle.step()
    assert len({float(state["step"]) for state in optimizer.state.values()}) == 1
    params[0].grad = None
    set_gradients(params[1:], 7)
    oracle.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {4.0, 5.0}


@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_mixed_types_and_devices_in_one_group(cls):
    params = [p for dtype in (*DTYPES, torch.complex64) for p in (torch.nn.Parameter(torch.ones(3, 2, dtype=dtype)),)]
    elsewhere = torch.nn.Parameter(torch.ones(3, 2, device="meta"))  # has shape and type, but no values
    elsewhere.grad = torch.ones_like(elsewhere)
    optimizer = cls([*params[:2], elsewhere, *params[2:]], lr=1e-2)
    oracle = Oracle(cls(params, lr=1e-2))
    for seed in range(7):
        set_gradients(params, seed)
        kept = [p.detach().clone() for p in params]
        optimizer.step()
        stepped = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, x in zip(params, kept, strict=True):
                p.copy_(x)
        oracle.step()
        assert all(torch.equal(p, x) for p, x in zip(params, stepped, strict=True))
    assert optimizer.state[elsewhere]["exp_avg"].device.type == "meta"


def test_options_differ_by_group():
    params = parameters(torch.float64)
    groups = [
        {"params": params[:3], "betas": (0.5, 0.9), "rectify": True},
        {"params": params[3:6], "betas": (0.9, 0.99), "rectify": True, "weight_decay": 0.1},
        {"params": params[6:], "lr": 1e-3, "amsgrad": True, "maximize": True, "foreach": False},
    ]
    optimizer = AdaBelief(groups, lr=1e-2)
    oracle = Oracle(optimizer)
    for seed in range(STEPS):
        set_gradients(params, seed)
        oracle.step()


def test_ranger_options_differ_by_group():
    params = parameters(torch.float64)
    groups = [
        {"params": params[:9], "alpha": 0.8, "k": 2, "N_sma_threshhold": 6, "betas": (0.9, 0.99)},
        {"params": params[9:], "use_gc": False, "eps": 1e-12},
    ]
    optimizer = RangerAdaBelief(groups, lr=1e-2)
    oracle = Oracle(optimizer)
    for seed in range(STEPS):
        set_gradients(params, seed)
        oracle.step()


@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_buckets_do_not_change_the_result(cls, monkeypatch):
    results = []
    for size in (1, 5000, 2**30):
        monkeypatch.setattr(update, "CPU_BUCKET_BYTES", size)
        params = parameters(torch.float32)
        walk(cls, {"foreach": True}, params)
        results.append([p.detach().clone() for p in params])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_constant_gradient_with_beta1_zero_stays_small():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = AdaBelief([p], lr=1e-3, betas=(0.0, 0.999))
    for _ in range(20):
        p.grad = torch.full((4,), 0.5)
        optimizer.step()
    assert 0 < p.abs().max() < 1.0
