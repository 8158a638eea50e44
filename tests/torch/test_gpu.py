"""The optimizers through the Triton kernel: on a GPU where there is one, or else in its interpreter, on CPU tensors."""

from __future__ import annotations

import pytest
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief, kernels
from adabelief.torch import launch
from adabelief.torch.compiled import compiled_update
from tests.kernels.arrays import DEVICE, interpreted, kernel  # noqa: F401 - fixtures
from tests.oracle import Oracle, set_gradients
from tests.torch import test_storage, test_weights

pytestmark = [
    pytest.mark.skipif(bool(launch.unserved("cpu")), reason=launch.unserved("cpu") or "-"),
    pytest.mark.filterwarnings("ignore:This instance was constructed with capturable"),  # torch's, of steps in no graph
]

CASES = {
    "AdaBelief": (AdaBelief, {"weight_decay": 0.1}),
    "maximize-amsgrad": (AdaBelief, {"amsgrad": True, "maximize": True}),
    "AdaBeliefW": (AdaBeliefW, {"rectify": True, "max_update": 0.5}),
    "Ranger": (RangerAdaBelief, {"weight_decay": 0.1, "k": 3}),
    "Ranger-coupled": (RangerAdaBelief, {"weight_decay": 0.1, "weight_decouple": False, "k": 2}),
}


@pytest.fixture
def gpu(monkeypatch, kernel):  # noqa: F811
    """As if DEVICE were a GPU, if it is none."""
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "gpu", kernel, raising=False)
        monkeypatch.setitem(launch.KERNELS, "cpu", (launch.OnGpu, lambda: None))


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (), (2, 3, 3, 3)]
    values = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    values.append(torch.randn(6, generator=generator, dtype=torch.complex64))
    return [torch.nn.Parameter(x.to(DEVICE)) for x in values]


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_reference_s(gpu, case, capturable):
    cls, options = CASES[case]
    params = parameters()
    optimizer = cls(params, lr=0.05, capturable=capturable, fused=True, **options)
    oracle = Oracle(optimizer)
    for seed in range(7):
        set_gradients(params, seed)
        oracle.step()
    part = optimizer._plan.parts[0]
    assert all(isinstance(each, launch.OnGpu) for each in part.launches)
    assert len(part.stepped) >= 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(gpu, dtype):
    params = parameters(dtype)
    optimizer = AdaBelief(params, lr=0.05, fused=True)
    oracle = Oracle(optimizer)
    for seed in range(4):
        set_gradients(params, seed)
        oracle.step()


def test_step_numbers_may_differ_where_they_are_on_the_device(gpu):
    params = parameters()
    optimizer = AdaBelief(params, lr=0.05, capturable=True, fused=True)
    oracle = Oracle(optimizer)
    for seed in range(6):
        set_gradients(params, seed)
        if seed < 3:
            params[1].grad = None
        oracle.step()
    assert len(optimizer._plan.parts[0].launches) == 1  # one launch for all, complex64 among them


def test_scale_and_skip_are_decided_on_the_device(gpu, monkeypatch):
    monkeypatch.setattr(AdaBelief, "_skips_on_device", lambda self: True)
    params = parameters()
    optimizer = AdaBelief(params, lr=0.05, capturable=True, fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.tensor(x, device=DEVICE) for x in (8.0, 0.0))
    oracle = Oracle(optimizer, grad_scale=8.0)
    for seed in range(3):
        set_gradients(params, seed)
        oracle.step()
    before = [p.detach().clone() for p in params]
    states = [{name: x.clone() for name, x in optimizer.state[p].items()} for p in params]
    optimizer.found_inf.fill_(1.0)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    for p, state in zip(params, states, strict=True):
        assert all(torch.equal(optimizer.state[p][name], x) for name, x in state.items())
    optimizer.found_inf.fill_(0.0)
    oracle.step()


def test_the_operator_of_compiled_steps(gpu):
    params = parameters()
    optimizer = AdaBeliefW(params, lr=0.05, fused=True)
    oracle = Oracle(optimizer)

    def step():
        (group,) = optimizer.param_groups
        with torch.no_grad():
            compiled_update(optimizer._tensors(group), optimizer._recipe(group), optimizer._options(group))

    for seed in range(4):
        set_gradients(params, seed)
        oracle.step(step)


def stored_parameters(dtype, shapes):
    return [torch.nn.Parameter(p.detach().to(DEVICE)) for p in test_storage.parameters(dtype, shapes)]


STEPS = 2 if DEVICE == "cpu" else 4
"""A first one from zeros, and one that reads codes: the interpreter takes long."""


@pytest.mark.parametrize(
    ("mix", "bits", "dtype", "capturable"),
    [
        ("plain", 8, torch.float32, False),
        ("plain", 16, torch.float32, True),
        ("amsgrad", (16, 8), torch.bfloat16, True),
        ("ranger", 8, torch.float32, False),
        ("steps", 8, torch.bfloat16, True),
    ],
    ids=str,
)
def test_steps_are_those_of_float32_between_codes(gpu, mix, bits, dtype, capturable):
    """Rows that end in short blocks, of odd lengths too; a single one; and what is too small for codes."""
    cls, options = test_storage.MIXES[mix]
    params = stored_parameters(dtype, [(9, 456), (9, 457), (4100,), (10,)])
    optimizer = test_storage.stepped_between_codes(
        cls, params, bits, STEPS, fused=True, capturable=capturable, **options
    )
    assert all(isinstance(each, launch.OnGpu) for each in optimizer._plan.parts[0].launches)
    assert not optimizer._plan.parts[0].rest


@pytest.mark.parametrize(
    ("way", "cls", "stored", "capturable"),
    [
        ("24", AdaBelief, {"state_bits": 8}, True),
        ("24", RangerAdaBelief, {}, False),
        ("32", RangerAdaBelief, {"state_bits": 8}, False),
        ("dithered", AdaBelief, {"state_bits": 8}, False),
        ("dithered", AdaBelief, {}, True),
    ],
    ids=str,
)
def test_weights_are_those_of_float32_between_codes(gpu, way, cls, stored, capturable):
    params = stored_parameters(torch.bfloat16, [(9, 456), (9, 457), (2, 3), ()])
    optimizer = test_weights.stepped_between_weights(cls, params, way, stored, STEPS, fused=True, capturable=capturable)
    assert not optimizer._plan.parts[0].rest
