"""State in 8 and 16 bits: the float32 step around the codes of NumPy, to the bit, in every implementation."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief, codes
from adabelief.kernels.layout import EXPONENTS
from adabelief.torch import storage, update
from adabelief.torch.bits import bits_of, pair
from adabelief.torch.state import COLUMNS
from tests.oracle import numpy, set_gradients
from tests.torch.cases import IMPLEMENTATIONS, skip_without_kernel

SHAPES = [(70, 300), (5000,), (10,), (64, 8, 3, 3), (3, 5, 300), (100, 50)]
CODED = [0, 1, 3, 4]
"""Which of them are large enough, with rows that are long enough."""

MIXES = {
    "plain": (AdaBelief, {}),
    "amsgrad": (AdaBeliefW, {"amsgrad": True}),
    "ranger": (RangerAdaBelief, {"k": 2}),
    "steps": (RangerAdaBelief, {"gc_loc": False, "amsgrad": True}),
}
BITS = [8, 16, (16, 8), (8, 32)]
of_every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def made(cls, params, implementation, **options):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    return cls(params, lr=1e-2, **options, **IMPLEMENTATIONS[implementation])


def rows(x, p):
    """As NumPy's codes take it."""
    return numpy(x).reshape((p.shape[0], -1) if p.ndim > 1 else (1, -1))


def floats(entry, p, column):
    """What an entry of the state stores, by NumPy's codes."""
    x = entry[COLUMNS[column]]
    if x.dtype == torch.uint8:
        its = entry[COLUMNS[EXPONENTS[column]]].reshape(len(rows(x, p)), -1)
        return torch.from_numpy(codes.decode8(rows(x, p), numpy(its), column)).reshape(p.shape)
    return torch.from_numpy(codes.decode16(numpy(x.view(torch.int16)))) if x.dtype == torch.bfloat16 else x.clone()


def assert_stored(entry, p, column, x, bits):
    """An entry stores x, rounded as NumPy's codes are."""
    stored, r = entry[COLUMNS[column]], codes.dither(column, *rows(x, p).shape, 0, float(entry["step"]))
    if bits == 8:
        expected, exponents = codes.encode8(rows(x, p), column, r)
        assert np.array_equal(rows(stored, p), expected)
        assert np.array_equal(numpy(entry[COLUMNS[EXPONENTS[column]]]), exponents.reshape(storage.exponents_shape(p)))
    elif bits == 16:
        assert np.array_equal(rows(stored.view(torch.int16), p), codes.encode16(rows(x, p), column, r))
    else:
        assert torch.equal(stored, x)


def stepped_between_codes(cls, params, bits, steps=3, **options):
    """An optimizer after steps that were those of its twin in float32, which starts each where the codes are."""
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, plain = cls(params, lr=1e-2, state_bits=bits, **options), cls(twins, lr=1e-2, **options)
    for seed in range(steps):
        for each in (params, twins):
            set_gradients(each, seed)
        if seed:
            for p, q in zip(params, twins, strict=True):
                for column in ("m", "s", "s_max"):
                    if COLUMNS[column] in plain.state[q]:
                        plain.state[q][COLUMNS[column]].copy_(floats(optimizer.state[p], p, column))
        optimizer.step()
        plain.step()
        for p, q in zip(params, twins, strict=True):
            assert torch.equal(p, q)
            for column in ("m", "s", "s_max"):
                if COLUMNS[column] in plain.state[q]:
                    its = bits_of(p, column, bits)
                    assert_stored(optimizer.state[p], p, column, plain.state[q][COLUMNS[column]], its)
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@of_every_implementation
@pytest.mark.parametrize("bits", BITS, ids=str)
@pytest.mark.parametrize("mix", MIXES)
def test_steps_are_those_of_float32_between_codes(mix, bits, implementation, dtype):
    cls, options = MIXES[mix]
    # rows of one block: the mean of a longer one is added up in another order
    shapes = [(40, 256), (70, 100), (10,)] if cls is RangerAdaBelief else SHAPES
    params = parameters(dtype, shapes)
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    optimizer = stepped_between_codes(cls, params, bits, **options, **IMPLEMENTATIONS[implementation])
    if implementation == "fused":  # none of them was left to foreach
        assert not any(part.rest for part in optimizer._plan.parts)


@of_every_implementation
def test_what_is_stored(implementation):
    params = parameters()
    optimizer = made(AdaBelief, params, implementation, state_bits=8, amsgrad=True)
    set_gradients(params, 0)
    optimizer.step()
    for i, p in enumerate(params):
        entry = optimizer.state[p]
        for column in EXPONENTS:
            x, exponents = entry[COLUMNS[column]], entry.get(COLUMNS[EXPONENTS[column]])
            assert x.shape == p.shape
            assert x.dtype == (torch.uint8 if i in CODED else torch.float32)
            assert (exponents is not None) == (i in CODED)
    assert optimizer.state[params[0]]["exp_avg_exponents"].shape == (70, 2)
    assert optimizer.state[params[1]]["exp_avg_exponents"].shape == (20, 1)
    assert "that of 2 of 6 tensors" in repr(optimizer)
    saved = sum(x.numel() * x.element_size() for entry in optimizer.state.values() for x in entry.values())
    assert saved < sum(3.2 * p.numel() for p in params[:5]) + 12.1 * (params[5].numel() + params[2].numel())


@of_every_implementation
@pytest.mark.parametrize(("before", "after"), list(itertools.permutations([32, 16, 8, (16, 8)], 2)), ids=str)
def test_bits_load_into_each_other(before, after, implementation):
    """The optimizer's own option decides, and nothing is further off than a code."""
    params = parameters()
    optimizer = made(AdaBelief, params, implementation, state_bits=before, amsgrad=True)
    for seed in range(3):
        set_gradients(params, seed)
        optimizer.step()
    kept = copy.deepcopy(optimizer.state_dict())
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    other = made(AdaBelief, twins, implementation, state_bits=after)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["state_bits"] == after
    assert other.param_groups[0]["amsgrad"] is True
    torch.testing.assert_close(optimizer.state_dict()["state"], kept["state"], rtol=0, atol=0)
    for p, q in zip(params, twins, strict=True):
        for column in EXPONENTS:
            x, y = floats(optimizer.state[p], p, column), floats(other.state[q], q, column)
            assert storage.bits_in({"m": other.state[q]["exp_avg"], "s": other.state[q]["exp_avg_var"]}) == tuple(
                bits_of(q, name, after) for name in "ms"
            )
            torch.testing.assert_close(x, y, rtol=2**-3, atol=float(x.abs().max()) * 2**-14)
    for each, its in ((optimizer, params), (other, twins)):
        set_gradients(its, 9)
        each.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=5e-3)


@of_every_implementation
@pytest.mark.parametrize("bits", BITS, ids=str)
def test_resume_is_bitwise(bits, implementation, tmp_path):
    params = parameters()
    optimizer = made(AdaBelief, params, implementation, state_bits=bits)
    for seed in range(3):
        set_gradients(params, seed)
        optimizer.step()
    torch.save([params, optimizer.state_dict()], tmp_path / "checkpoint.pt")
    twins, saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = made(AdaBelief, twins, implementation, state_bits=bits)
    other.load_state_dict(saved)
    for seed in range(3, 6):
        for each, its in ((optimizer, params), (other, twins)):
            set_gradients(its, seed)
            each.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)


@of_every_implementation
def test_options_change_in_mid_run(implementation):
    params = parameters()
    optimizer = made(AdaBelief, params, implementation)
    for bits in (32, 8, 16, (8, 16), 32, 8):
        optimizer.param_groups[0]["state_bits"] = bits
        set_gradients(params, 0)
        optimizer.step()
        found = {storage.bits_in({"m": e["exp_avg"], "s": e["exp_avg_var"]}) for e in optimizer.state.values()}
        assert found == {pair(bits), (32, 32)}
        for entry in optimizer.state.values():
            for column, name in EXPONENTS.items():
                stored = entry.get(COLUMNS[column])
                assert (COLUMNS[name] in entry) == (stored is not None and stored.dtype == torch.uint8)


@of_every_implementation
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_no_number_stays_visible(bits, bad, implementation):
    params = parameters(shapes=[(40, 300)])
    optimizer = made(AdaBelief, params, implementation, state_bits=bits)
    set_gradients(params, 0)
    params[0].grad[3, 270] = bad
    for seed in (1, 2):
        optimizer.step()
        assert params[0][3, 270].isnan()
        set_gradients(params, seed)
    others = torch.ones(40, 300, dtype=torch.bool)
    others[3, 256:] = False  # its block
    assert params[0][others].isfinite().all()


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("implementation", ["default", "foreach"])
def test_compiled_steps(implementation):
    """In one graph, with the numbers of steps that are not compiled; rows of 300 end in a short block."""
    torch._dynamo.reset()
    shapes = [(20, 300), (5000,), (10,)]
    params, others = parameters(shapes=shapes), parameters(shapes=shapes)
    optimizer, plain = (made(AdaBelief, each, implementation, state_bits=8) for each in (params, others))
    step = torch.compile(optimizer.step, fullgraph=True)
    for seed in range(3):
        for each, its_step in ((params, step), (others, plain.step)):
            set_gradients(each, seed)
            its_step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)  # a rounding error may decide a code: lr is 1e-2
        assert (p != q).float().mean() < 0.5
        for name, x in optimizer.state[p].items():
            assert (x != plain.state[q][name]).float().mean() < (0.5 if x.dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("bits", BITS, ids=str)
def test_a_probe_sees_what_codes_stand_for(bits):
    from adabelief.torch.probe.sample import stepped

    params = parameters()
    optimizer = AdaBelief(params, state_bits=bits, amsgrad=True)
    set_gradients(params, 0)
    optimizer.step()
    for (_, (p, _, m, s, _)), q in zip(stepped(optimizer), params, strict=True):
        assert p is q
        assert torch.equal(m, floats(optimizer.state[p], p, "m"))
        assert torch.equal(s, floats(optimizer.state[p], p, "s_max"))


def test_memory_order_does_not_matter():
    """Codes go by the order of dimensions: channels_last is stepped by foreach, to the same numbers."""
    params = parameters(shapes=[(16, 32, 5, 5)])
    others = [nn.Parameter(params[0].detach().to(memory_format=torch.channels_last))]
    optimizers = [AdaBelief(each, state_bits=8, foreach=True) for each in (params, others)]
    for seed in range(3):
        for each, optimizer in zip((params, others), optimizers, strict=True):
            set_gradients(each, seed)
            optimizer.step()
    assert torch.equal(params[0], others[0])
    assert torch.equal(optimizers[0].state[params[0]]["exp_avg"], optimizers[1].state[others[0]]["exp_avg"])


@pytest.mark.parametrize("foreach", [True, False])
def test_pieces_do_not_change_the_result(foreach, monkeypatch):
    results = []
    for size in (20_000, 200_000, 2**30):
        monkeypatch.setattr(update, "CPU_BUCKET_BYTES", size)
        params = parameters()
        optimizer = RangerAdaBelief(params, state_bits=8, foreach=foreach)
        for seed in range(3):
            set_gradients(params, seed)
            optimizer.step()
        results.append([*params, *(x for entry in optimizer.state.values() for x in entry.values())])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_every_number_of_threads_has_the_same_codes():
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        params = parameters(shapes=[(70, 300), (100_003,), (1, 5000), (301, 257)])
        optimizer = made(AdaBelief, params, "fused", state_bits=8)
        for seed in range(2):
            set_gradients(params, seed)
            optimizer.step()
        results.append([*params, *(x for entry in optimizer.state.values() for x in entry.values())])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("state_bits", [4, (8, 8, 8), (8,), "8", 8.0, True, None, (8, 64)], ids=str)
def test_bad_bits_are_named(state_bits):
    with pytest.raises(ValueError, match=r"state_bits must be 32, 16 or 8, or a pair"):
        AdaBelief(parameters(), state_bits=state_bits)


def test_autograd_follows_no_codes():
    with pytest.raises(ValueError, match=r"state_bits=8 and differentiable=True exclude each other"):
        AdaBelief(parameters(), state_bits=8, differentiable=True)


@pytest.mark.parametrize("own", [8, 32])
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda entry: entry.pop("exp_avg_exponents"), "exp_avg_exponents of parameter 1"),
        (lambda entry: entry.update(exp_avg_var_exponents=torch.zeros(3, 1).byte()), "exp_avg_var_exponents"),
        (lambda entry: entry.update(exp_avg_exponents=torch.zeros(20, 1)), r"exp_avg_exponents.*float32"),
        (lambda entry: entry.update(exp_avg=torch.zeros(40).byte()), r"exp_avg of parameter 1.*\(40,\)"),
        (lambda entry: entry.update(exp_avg_var=torch.zeros(5000)), r"exp_avg_var of parameter 1.*float32"),
    ],
    ids=["missing", "shape", "type", "codes", "no codes"],
)
def test_a_broken_checkpoint_changes_nothing(broken, named, own):
    params = parameters()
    optimizer = AdaBelief(params, state_bits=8)
    set_gradients(params, 0)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    broken(saved["state"][1])
    other = AdaBelief(parameters(), lr=0.5, state_bits=own)
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(saved)
    assert not other.state
    assert other.param_groups[0]["lr"] == 0.5
