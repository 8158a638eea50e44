"""bf16 weights with master bits, or rounded by the dither: the float32 step around the codes of NumPy, to the bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from adabelief import AdaBelief, RangerAdaBelief, codes
from adabelief.torch.state import COLUMNS
from tests.oracle import numpy, set_gradients
from tests.torch.cases import IMPLEMENTATIONS, skip_without_kernel
from tests.torch.test_storage import floats, made

WAYS = {"24": {"master_weight_bits": 24}, "32": {"master_weight_bits": 32}, "dithered": {"stochastic_rounding": True}}
SHAPES = [(40, 256), (70, 100), (10,), (), (3, 5, 2)]
of_every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
of_every_way = pytest.mark.parametrize("way", WAYS)


def parameters(shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in shapes]


def rows(x, p):
    return numpy(x).reshape((p.shape[0], -1) if p.ndim > 1 else (1, -1))


def wide(p, entry):
    """The weights with their rest, by NumPy's codes."""
    rest = entry.get("weight_rest")
    halves = rows(p.detach().view(torch.int16), p)
    if rest is None:
        x = codes.decode16(halves)
    else:
        x = codes.join(halves, rows(rest, p), 24 if rest.dtype == torch.int8 else 32)
    return torch.from_numpy(x).reshape(p.shape)


def stepped_between_weights(cls, params, way, stored, steps=4, **options):
    """An optimizer after steps that were those of its twin in float32, which starts each where the codes are."""
    twins = [nn.Parameter(p.detach().float()) for p in params]
    options |= dict(lr=1e-2, weight_decay=0.1)
    optimizer, plain = cls(params, **WAYS[way], **stored, **options), cls(twins, **options)
    for seed in range(steps):
        set_gradients(params, seed)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.float()
            if seed:
                q.data.copy_(wide(p, optimizer.state[p]))
                for column in ("m", "s"):
                    plain.state[q][COLUMNS[column]].copy_(floats(optimizer.state[p], p, column))
        optimizer.step()
        plain.step()
        for p, q in zip(params, twins, strict=True):
            entry = optimizer.state[p]
            r = codes.dither("p", *rows(q, p).shape, 0, float(entry["step"]))
            halves = rows(p.detach().view(torch.int16), p)
            if way == "dithered":
                assert np.array_equal(halves, codes.encode16(rows(q, p), "p", r))
            else:
                expected, rest = codes.split(rows(q, p), int(way), r)
                assert np.array_equal(halves, expected)
                assert np.array_equal(rows(entry["weight_rest"], p), rest)
    return optimizer


@of_every_implementation
@pytest.mark.parametrize("options", [{}, {"state_bits": 8}], ids=["float32", "codes"])
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
@of_every_way
def test_steps_are_those_of_float32_between_codes(way, cls, options, implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    optimizer = stepped_between_weights(cls, parameters(), way, options, **IMPLEMENTATIONS[implementation])
    if implementation == "fused":  # none of them was left to foreach
        assert not any(part.rest for part in optimizer._plan.parts)


@of_every_implementation
def test_32_bits_are_float32(implementation):
    """Step after step, and the weight alone is the nearest to it."""
    params = parameters()
    twins = [nn.Parameter(p.detach().float()) for p in params]
    optimizer = made(AdaBelief, params, implementation, master_weight_bits=32)
    plain = made(AdaBelief, twins, implementation)
    for seed in range(5):
        set_gradients(params, seed)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.float()
        optimizer.step()
        plain.step()
        for p, q in zip(params, twins, strict=True):
            assert torch.equal(wide(p, optimizer.state[p]), q)
            assert ((p.float() - q).abs() <= (q.bfloat16().float() - q).abs()).all()


def test_small_steps_are_not_lost():
    """2,000 steps of 1e-5 from 1.0: to nearest no weight moves, with 24 or 32 bits as in float32, dithered nearly."""
    ends = {}
    for way, options in {"float32": {}, "nearest": {}, **WAYS}.items():
        p = nn.Parameter(torch.ones(64, dtype=torch.float32 if way == "float32" else torch.bfloat16))
        optimizer = AdaBelief([p], lr=1e-5, eps=1e-8, **options)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2000):
            p.grad = (1.0 + torch.randn(64, generator=generator)).to(p.dtype)
            optimizer.step()
        ends[way] = 1.0 - wide(p, optimizer.state[p]).mean() if p.dtype == torch.bfloat16 else 1.0 - p.detach().mean()
    assert ends["nearest"] == 0.0
    assert ends["float32"] > 0.01
    for way, within in (("32", 0.01), ("24", 0.02), ("dithered", 0.05)):
        assert abs(ends[way] / ends["float32"] - 1) < within, way


@of_every_implementation
@of_every_way
def test_resume_is_bitwise(way, implementation, tmp_path):
    params = parameters()
    optimizer = made(AdaBelief, params, implementation, **WAYS[way])
    for seed in range(3):
        set_gradients(params, seed)
        optimizer.step()
    torch.save([params, optimizer.state_dict()], tmp_path / "checkpoint.pt")
    twins, saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = made(AdaBelief, twins, implementation, **WAYS[way])
    other.load_state_dict(saved)
    for seed in range(3, 6):
        for each, its in ((optimizer, params), (other, twins)):
            set_gradients(its, seed)
            each.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)


def swap(p, x):
    p.data = x


WRITERS = {
    "copy_": lambda params, xs: [p.copy_(x) for p, x in zip(params, xs, strict=True)],
    "load_state_dict": lambda params, xs: nn.ParameterList(params).load_state_dict(
        {str(i): x for i, x in enumerate(xs)}
    ),
    "data": lambda params, xs: [swap(p, x.clone()) for p, x in zip(params, xs, strict=True)],
    "foreach": lambda params, xs: torch._foreach_copy_(params, xs),
}
"""Ways of writing xs into parameters between steps."""


@of_every_implementation
@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_weight_that_someone_else_writes_wins(writer, bits, implementation):
    params = parameters()
    optimizer = made(AdaBelief, params, implementation, master_weight_bits=bits)
    for seed in range(2):
        set_gradients(params, seed)
        optimizer.step()
    with torch.no_grad():
        xs = [torch.zeros_like(p) if i == 0 else -3 * p for i, p in enumerate(params)]
        WRITERS[writer](params, xs)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(p, x) for p, x in zip(params, xs, strict=True))


@of_every_implementation
@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("model_first", [True, False])
def test_model_and_optimizer_are_loaded_in_either_order(model_first, bits, implementation):
    params, twins = parameters(), parameters()
    optimizer, other = (made(AdaBelief, each, implementation, master_weight_bits=bits) for each in (params, twins))
    for seed in range(2):
        set_gradients(params, seed)
        optimizer.step()
        set_gradients(twins, seed + 9)
        other.step()
    model, saved = copy.deepcopy((nn.ParameterList(params).state_dict(), optimizer.state_dict()))
    loads = [lambda: nn.ParameterList(twins).load_state_dict(model), lambda: other.load_state_dict(saved)]
    for load in loads if model_first else loads[::-1]:
        load()
    for each, its in ((optimizer, params), (other, twins)):
        set_gradients(its, 2)
        each.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [(None, 24), (24, 32), (32, 24), (32, None)])
def test_bits_load_into_each_other(before, after):
    params = parameters()
    optimizer = AdaBelief(params, master_weight_bits=before)
    for seed in range(2):
        set_gradients(params, seed)
        optimizer.step()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    other = AdaBelief(twins, master_weight_bits=after)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0]["master_weight_bits"] == after
    set_gradients(twins, 3)
    for p, q in zip(params, twins, strict=True):
        if before and after:
            torch.testing.assert_close(
                wide(q, other.state[q]), wide(p, optimizer.state[p]), rtol=2.0**-15, atol=0, check_dtype=False
            )
    other.step()
    assert all(("weight_rest" in other.state[q]) == (after is not None) for q in twins)


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@of_every_way
def test_compiled_steps(way):
    torch._dynamo.reset()
    params, others = parameters(), parameters()
    optimizer, plain = (made(AdaBelief, each, "default", **WAYS[way]) for each in (params, others))
    step = torch.compile(optimizer.step, fullgraph=True, backend="eager")
    for seed in range(3):
        for each, its_step in ((params, step), (others, plain.step)):
            set_gradients(each, seed)
            its_step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(wide(p, optimizer.state[p]), wide(q, plain.state[q]), rtol=2.0**-7, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "dtype", "message"),
    [
        ({"master_weight_bits": 16}, torch.bfloat16, "master_weight_bits must be 24, 32 or None, got 16"),
        ({"master_weight_bits": True}, torch.bfloat16, "master_weight_bits must be 24, 32 or None, got True"),
        ({"master_weight_bits": 24}, torch.float32, r"master_weight_bits=24 is for .* bfloat16.*float32; .*group"),
        ({"stochastic_rounding": True}, torch.float16, r"stochastic_rounding=True is for .* bfloat16.*float16; "),
        ({"master_weight_bits": 32, "stochastic_rounding": True}, torch.bfloat16, "exclude each other"),
        (
            {"master_weight_bits": 32, "differentiable": True},
            torch.bfloat16,
            "master_weight_bits=32 and differentiable",
        ),
    ],
)
def test_bad_options_are_named(options, dtype, message):
    with pytest.raises(ValueError, match=message):
        AdaBelief([nn.Parameter(torch.ones(3, dtype=dtype))], **options)


def test_a_rest_of_another_shape_changes_nothing():
    params = parameters()
    optimizer = AdaBelief(params, master_weight_bits=24)
    set_gradients(params, 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["weight_rest"] = torch.zeros(3, dtype=torch.int8)
    other = AdaBelief(parameters(), master_weight_bits=24)
    with pytest.raises(ValueError, match=r"weight_rest of parameter 1 must be of shape \(70, 100\).*got \(3,\)"):
        other.load_state_dict(saved)
    assert not other.state
