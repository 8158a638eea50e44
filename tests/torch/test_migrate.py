"""States of torch_optimizer, pytorch_optimizer, optax and Adam: layouts written by hand, and files of the packages."""

from __future__ import annotations

import copy
import io
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.rule import reference_step
from adabelief.torch import from_adam, from_optax
from tests.oracle import Oracle, array, rule_options, set_gradients

SHAPES = {"weight": (3, 4), "bias": (5,), "scale": (), "filter": (2, 3, 3, 3)}
STEPS = 7


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES.values()]


def walk(optimizer, seeds):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for seed in seeds:
        set_gradients(params, seed)
        optimizer.step()
    return params


def twins(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


# Layouts, written by hand


def reference_states(params, options):
    """The reference's state of every parameter after some steps, and the parameters moved to where it then is."""
    states = []
    for p in params:
        value, state = array(p), {}
        for seed in range(STEPS):
            gradient = np.random.default_rng(seed).normal(size=p.shape)
            value, state = reference_step(value, gradient, state, **options)
        p.data.copy_(torch.as_tensor(value))
        states.append(state)
    return states


def tensors(state):
    return {name: torch.as_tensor(x) for name, x in state.items() if name != "step"}


def of_torch_optimizer(states, options):
    saved = {i: {"rho_inf": 1999.0, "rho_t": 6.9, "step": s["step"], **tensors(s)} for i, s in enumerate(states)}
    names = ("lr", "betas", "eps", "weight_decay", "amsgrad")
    return {"state": saved, "param_groups": [{n: options[n] for n in names} | {"params": list(saved)}]}


def of_pytorch_optimizer(states, options):
    saved = {i: tensors(s) for i, s in enumerate(states)}
    group = {"ams_bound" if n == "amsgrad" else n: x for n, x in options.items()}
    group |= {"step": STEPS, "foreach": True, "adanorm": False, "adam_debias": False, "params": list(saved)}
    return {"state": saved, "param_groups": [group]}


def of_optax(states, options, optimizer):
    means = {
        name: {which: state[key] for which, state in zip(SHAPES, states, strict=True)}
        for name, key in (("mu", "exp_avg"), ("nu", "exp_avg_var"))
    }
    return from_optax(({"count": np.int32(STEPS), **means}, {}), optimizer)


PLAIN = dict(lr=0.01, betas=(0.8, 0.99), eps=1e-10, weight_decay=0.1, amsgrad=False)
SAID = dict(weight_decouple=True, fixed_decay=False, rectify=False)
LAYOUTS = {
    "torch_optimizer": (of_torch_optimizer, PLAIN, SAID),
    "torch_optimizer-rectify": (of_torch_optimizer, PLAIN, SAID | {"rectify": True}),
    "pytorch_optimizer": (of_pytorch_optimizer, PLAIN | SAID | {"amsgrad": True}, {}),
    "pytorch_optimizer-coupled": (of_pytorch_optimizer, PLAIN | SAID | {"weight_decouple": False, "rectify": True}, {}),
    "optax": (of_optax, {}, PLAIN | SAID),
}
"""What writes the layout, which options are in it, and which the new optimizer is constructed with."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_goes_on(layout):
    """The step after loading is the reference's own next step, through whatever kernel there is."""
    write, saved, constructed = LAYOUTS[layout]
    params = parameters()
    states = reference_states(params, saved | constructed)
    optimizer = AdaBelief(list(zip(SHAPES, params, strict=True)), **constructed)
    file = io.BytesIO()
    torch.save(write(states, saved, *([optimizer] if write is of_optax else [])), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    (group,) = optimizer.param_groups
    assert group.keys() == AdaBelief(list(zip(SHAPES, twins(params), strict=True))).param_groups[0].keys()
    assert rule_options(group).items() >= (saved | constructed).items()
    assert group["foreach"] is None
    oracle = Oracle(optimizer)
    oracle.states = dict(zip(params, states, strict=True))
    for seed in range(3):
        set_gradients(params, seed)
        oracle.step()


def test_optax_arrays_may_be_renamed_and_transposed():
    model = torch.nn.Linear(3, 2)
    optimizer = AdaBelief(model.named_parameters())
    means = [{"Dense_0": {"kernel": np.full((3, 2), x, np.float16), "bias": torch.zeros(2)}} for x in (1.0, 2.0)]
    State = namedtuple("ScaleByBeliefState", "count mu nu")

    def convert(tree):
        return {"weight": np.asarray(tree["Dense_0"]["kernel"]).T, "bias": tree["Dense_0"]["bias"]}

    optimizer.load_state_dict(from_optax([[State(3, *means)], ()], optimizer, convert))
    entry = optimizer.state[model.weight]
    assert entry["exp_avg_var"].dtype == torch.float32
    assert (float(entry["step"]), float(entry["exp_avg"].mean()), float(entry["exp_avg_var"].mean())) == (3, 1, 2)


# The packages' own, where they are installed


def theirs(package):
    return pytest.importorskip(package, reason=f"needs {package} itself; its layout is tested by hand").AdaBelief


MIXES = [
    {},
    {"weight_decouple": True, "weight_decay": 0.1},
    {"weight_decouple": False, "weight_decay": 0.1},
    {"weight_decouple": True, "weight_decay": 0.1, "fixed_decay": True},
    {"rectify": True},
]


@pytest.mark.filterwarnings("ignore:This overload of add:UserWarning", "ignore:This overload of addc:UserWarning")
@pytest.mark.parametrize("options", MIXES, ids=str)
@pytest.mark.parametrize("package", ["torch_optimizer", "pytorch_optimizer"])
def test_their_files_go_on(package, options, tmp_path):
    """Rectified steps of torch_optimizer have the outer eps elsewhere, which the tolerance covers."""
    params = parameters()
    published = theirs(package)(params, lr=0.01, eps=1e-12, **options)
    walk(published, range(STEPS))
    torch.save(published.state_dict(), tmp_path / "optimizer.pt")
    ours = AdaBelief(twins(params), weight_decouple=package == "pytorch_optimizer")
    for name, value in options.items():
        ours.param_groups[0][name] = value
    ours.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    walk(published, range(STEPS, STEPS + 10))
    rtol = 1e-8 if "rectify" in options else 1e-10
    for p, q in zip(params, walk(ours, range(STEPS, STEPS + 10)), strict=True):
        torch.testing.assert_close(q, p, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("options", [{"ams_bound": True}, {"foreach": False}, {"rectify": True}], ids=str)
def test_pytorch_optimizer_with_options_of_its_own(options):
    params = parameters()
    published = theirs("pytorch_optimizer")(params, lr=0.01, **options)
    walk(published, range(STEPS))
    ours = AdaBelief(twins(params))
    ours.load_state_dict(published.state_dict())
    assert ours.param_groups[0]["amsgrad"] == options.get("ams_bound", False)
    walk(published, range(STEPS, STEPS + 10))
    for p, q in zip(params, walk(ours, range(STEPS, STEPS + 10)), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)


# What does not go on


def saved(**changes):
    """A sound checkpoint, and what is changed in the state of its second parameter."""
    optimizer = AdaBelief(parameters())
    walk(optimizer, range(2))
    whole = optimizer.state_dict()
    entry = whole["state"][1]
    for name, value in changes.items():
        if value is None:
            del entry[name]
        else:
            entry[name] = value
    return whole


def momentum():
    sgd = torch.optim.SGD(parameters(), momentum=0.9)
    walk(sgd, range(1))
    return sgd.state_dict()


def variant(name):
    whole = saved()
    whole["param_groups"][0] |= {name: True, "step": 2}
    return whole


UNUSABLE = {
    "SGD": (momentum, r"parameter 0 has momentum_buffer and no step; load"),
    "a key less": (partial(saved, exp_avg_var=None), r"parameter 1 has no exp_avg_var; load"),
    "shape": (partial(saved, exp_avg=torch.ones(4)), r"exp_avg of parameter 1 .*\(5,\), got shape \(4,\)"),
    "no tensor": (partial(saved, exp_avg_var=[1.0]), r"exp_avg_var of parameter 1 must be a tensor .*got \[1.0\]"),
    "largest": (partial(saved, max_exp_avg_var=torch.ones(1)), r"max_exp_avg_var of parameter 1"),
    "step": (partial(saved, step="seven"), r"step of parameter 1 must be a number, got 'seven'"),
    "Adam": (partial(saved, exp_avg_sq=torch.ones(5)), r"an Adam.*load adabelief.torch.from_adam"),
    "AdaNorm": (partial(variant, "adanorm"), r"adanorm=True of group 0 .* delete it"),
    "AdamD": (partial(variant, "adam_debias"), r"adam_debias=True of group 0 .* delete it"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_unusable_is_named_and_leaves_the_optimizer_as_it_was(case):
    make, message = UNUSABLE[case]
    optimizer = AdaBelief(parameters(), lr=0.5)
    walk(optimizer, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(make())
    assert str(optimizer.state_dict()) == str(before)


Adam = namedtuple("ScaleByAdamState", "count mu nu")
SOUND = {"count": 1, "mu": {"w": np.zeros(2)}, "nu": {"w": np.zeros(2)}}


@pytest.mark.parametrize(
    ("state", "names", "message"),
    [
        (Adam(**SOUND), ["w"], "ScaleByAdamState is not of optax.adabelief"),
        (({"trace": 1},), ["w"], "must hold one state of optax.adabelief.* and holds 0"),
        ((SOUND, SOUND), ["w"], "and holds 2"),
        (SOUND, ["v"], "there is no 'v' for exp_avg in what it returns, but w"),
        (SOUND, None, "must be made of named parameters"),
    ],
)
def test_what_is_no_state_of_optax_is_refused(state, names, message):
    params = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = AdaBelief(params if names is None else list(zip(names, params, strict=True)))
    with pytest.raises(ValueError, match=message):
        from_optax(state, optimizer)


# Adam


def continued(adam, **options):
    with pytest.warns(UserWarning, match="exp_avg_var begins as the estimate") as caught:
        state_dict = from_adam(adam.state_dict(), **options)
    assert len(caught) == 1
    return state_dict


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
@pytest.mark.parametrize(
    "of", [torch.optim.Adam, partial(torch.optim.AdamW, amsgrad=True)], ids=["Adam", "AdamW-amsgrad"]
)
def test_an_adam_goes_on_with_its_momentum(of, cls):
    params = parameters()
    adam = of(params, lr=0.02, betas=(0.8, 0.99), weight_decay=0.03)
    walk(adam, range(3))
    kept = copy.deepcopy(adam.state_dict())
    optimizer = cls(params, eps=1e-12)
    optimizer.load_state_dict(continued(adam, eps=1e-12))
    assert str(kept) == str(adam.state_dict())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (0.02, (0.8, 0.99), 0.03, 1e-12)
    oracle, c = Oracle(optimizer), 1 - 0.99**3
    for p in params:
        m, v = (array(adam.state[p][name]) for name in ("exp_avg", "exp_avg_sq"))
        s = 0.8 * np.maximum(v - c * (m / (1 - 0.8**3)) ** 2, 0.2 * v) + 1e-12 * c / 0.01
        state = {"step": 3, "exp_avg": m, "exp_avg_var": s}
        oracle.states[p] = state | ({"slow_buffer": array(p)} if cls is RangerAdaBelief else {})
    for seed in range(3, 8):
        set_gradients(params, seed)
        oracle.step()


def both_ways(betas, gradient, steps):
    """What s begins as after so many steps of Adam, and what AdaBelief's own s then is."""
    p, q = (torch.nn.Parameter(torch.zeros_like(gradient(0))) for _ in range(2))
    adam, belief = torch.optim.Adam([p], lr=0.0, betas=betas), AdaBelief([q], lr=0.0, betas=betas)
    for i in range(steps):
        p.grad = gradient(i)
        q.grad = p.grad.clone()
        adam.step()
        belief.step()
    return continued(adam)["state"][0]["exp_avg_var"], belief.state[q]["exp_avg_var"]


def noise(mean, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return lambda i: mean + torch.randn(3000, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_with_equal_betas_s_begins_as_what_adabelief_would_have_measured(dtype):
    estimated, measured = both_ways((0.9, 0.9), noise(0.0, dtype), steps=400)
    estimated, measured = (torch.view_as_real(x) if x.is_complex() else x for x in (estimated, measured))
    bounded = estimated > measured * (1 + 1e-9)  # where v − m² is next to nothing
    torch.testing.assert_close(estimated[~bounded], measured[~bounded], rtol=1e-9, atol=0)
    assert bounded.double().mean() < 0.01


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_with_other_betas_it_begins_as_that_on_average(mean):
    """Where Adam's v would be up to 2.3 times of it."""
    estimated, measured = both_ways((0.9, 0.99), noise(mean), steps=600)
    assert float(estimated.mean()) == pytest.approx(float(measured.mean()), rel=0.03)


def test_what_is_no_adam_is_refused():
    with pytest.raises(ValueError, match=r"not of an Adam.*momentum_buffer"):
        from_adam(momentum())


def test_from_adam_looks_at_eps():
    with pytest.raises(ValueError, match=r"eps must be a finite number, at least 0, got -1"):
        from_adam(torch.optim.Adam(parameters()).state_dict(), eps=-1)
