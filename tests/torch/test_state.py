"""Saving, resuming, precision through loading, and other packages' checkpoints."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import os
from pathlib import Path

import adabelief_pytorch
import pytest
import ranger_adabelief
import timm.optim
import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.oracle import set_gradients

SHAPES = [(3, 4), (5,), (), (2, 3, 3, 3)]


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def walk(optimizer, seeds, scale=1.0):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for seed in seeds:
        set_gradients(params, seed)
        for p in params:
            p.grad *= scale
        optimizer.step()
    return params


def quietly(cls, *args, **options):
    with contextlib.redirect_stdout(io.StringIO()):  # the published packages print a banner
        return cls(*args, **options)


def twins(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("saved_at", [0, 1, 7])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (AdaBelief, {"amsgrad": True}),
        (AdaBelief, {"rectify": True, "foreach": False}),
        (AdaBeliefW, {}),
        (RangerAdaBelief, {}),
    ],
)
def test_resume_is_bitwise(cls, options, saved_at, dtype, capturable, tmp_path):
    params = parameters(dtype)
    optimizer = cls(params, lr=0.01, capturable=capturable, **options)
    walk(optimizer, range(saved_at))
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    walk(optimizer, range(saved_at, saved_at + 8))

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = saved["params"]
    other = cls(resumed, lr=0.5)  # the options come from the checkpoint
    other.load_state_dict(saved["optimizer"])
    walk(other, range(saved_at, saved_at + 8))
    assert all(torch.equal(p, q) for p, q in zip(params, resumed, strict=True))
    for p, q in zip(params, resumed, strict=True):
        assert optimizer.state[p].keys() == other.state[q].keys()
        for name, x in optimizer.state[p].items():
            assert torch.equal(x, other.state[q][name])
            assert x.dtype == other.state[q][name].dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_tiny_variances_of_half_precision_survive_loading(cls, dtype):
    """At gradients of 1e-3 variances are near 1e-9: zeros, if they were cast to float16 as torch's default does."""
    params = parameters(dtype)
    optimizer = cls(params, lr=0.01)
    walk(optimizer, range(7), scale=1e-3)
    loaded = cls(twins(params), lr=0.01)
    loaded.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, loaded.param_groups[0]["params"], strict=True):
        assert loaded.state[q]["exp_avg_var"].dtype == torch.float32
        assert (loaded.state[q]["exp_avg_var"] > 0).all()
        assert torch.equal(optimizer.state[p]["exp_avg_var"], loaded.state[q]["exp_avg_var"])


def test_loaded_state_is_a_copy():
    optimizer = AdaBelief(parameters())
    walk(optimizer, range(2))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    loaded = AdaBelief(parameters())
    loaded.load_state_dict(saved)
    walk(loaded, range(3))
    for i, entry in kept["state"].items():
        assert all(torch.equal(x, saved["state"][i][name]) for name, x in entry.items())


def test_state_moves_to_wider_parameters():
    optimizer = AdaBelief(parameters(torch.bfloat16))
    walk(optimizer, range(2))
    wide = AdaBelief(parameters(torch.float64))
    wide.load_state_dict(optimizer.state_dict())
    walk(wide, range(2))
    assert all(entry["exp_avg_var"].dtype == torch.float64 for entry in wide.state.values())


def test_users_hooks_see_and_change_what_is_loaded():
    optimizer = AdaBelief(parameters())
    walk(optimizer, range(2))
    other, seen = AdaBelief(parameters()), []

    def halve(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        state_dict["state"][0]["exp_avg"] *= 0.5
        return state_dict

    other.register_load_state_dict_pre_hook(halve)
    other.register_load_state_dict_post_hook(lambda o: seen.append(o.state[o.param_groups[0]["params"][0]]["exp_avg"]))
    other.load_state_dict(optimizer.state_dict())
    expected = optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"] * 0.5
    assert torch.equal(seen[0], expected)
    assert len(other._optimizer_load_state_dict_pre_hooks) == 1
    assert len(other._optimizer_load_state_dict_post_hooks) == 1


def test_loading_before_the_first_step():
    """As accelerate does when it prepares an optimizer."""
    optimizer = AdaBelief(parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    walk(optimizer, range(1))


def test_wrong_number_of_groups_is_torchs_error():
    with pytest.raises(ValueError, match="different number of parameter groups"):
        AdaBelief([{"params": parameters()}, {"params": parameters()}]).load_state_dict(
            AdaBelief(parameters()).state_dict()
        )


def test_options_that_can_be_turned_on_later():
    optimizer = AdaBelief(parameters(), lr=0.01)
    walk(optimizer, range(3))
    optimizer.param_groups[0]["amsgrad"] = True
    walk(optimizer, range(3, 5))
    assert all("max_exp_avg_var" in entry for entry in optimizer.state.values())


# Checkpoints of other packages

MIXES = [
    {"weight_decouple": False, "rectify": False, "weight_decay": 0.1},
    {"weight_decouple": True, "rectify": True, "weight_decay": 0.1},
    {"weight_decouple": True, "rectify": True, "degenerated_to_sgd": False},
    {"weight_decouple": False, "rectify": False, "amsgrad": True},
]


@pytest.mark.parametrize("saved_at", [1, 3, 12])
@pytest.mark.parametrize("options", MIXES)
def test_goes_on_from_adabelief_pytorch(options, saved_at, tmp_path):
    params = parameters(torch.float64)
    published = quietly(adabelief_pytorch.AdaBelief, params, lr=0.01, print_change_log=False, **options)
    walk(published, range(saved_at))
    torch.save(published.state_dict(), tmp_path / "checkpoint.pt")
    own = AdaBelief(twins(params), lr=1.0, **options)
    own.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert own.param_groups[0]["lr"] == 0.01
    assert "buffer" not in own.param_groups[0]
    walk(published, range(saved_at, saved_at + 10))
    for p, q in zip(params, walk(own, range(saved_at, saved_at + 10)), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def adabelief_005():
    folder = os.environ.get("ADABELIEF_PYTORCH_005", "")
    if not folder:
        pytest.skip("needs adabelief-pytorch 0.0.5 in a folder named by ADABELIEF_PYTORCH_005; make test installs it")
    spec = importlib.util.spec_from_file_location("adabelief_005", Path(folder) / "adabelief_pytorch" / "AdaBelief.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AdaBelief


@pytest.mark.filterwarnings("ignore:This overload of add:UserWarning", "ignore:This overload of addc:UserWarning")
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("weight_decouple", [False, True])
def test_goes_on_from_adabelief_pytorch_005(adabelief_005, weight_decouple, rectify, tmp_path):
    """Version 0.0.5 has another rectified warm-up (4 steps, without bias correction); then it is the same but for where
    the outer eps stands, which the tolerance covers."""
    options = {"weight_decouple": weight_decouple, "rectify": rectify, "weight_decay": 0.1}
    params = parameters(torch.float64)
    published = quietly(adabelief_005, params, lr=0.01, eps=1e-10, **options)
    walk(published, range(7))
    torch.save(published.state_dict(), tmp_path / "checkpoint.pt")
    own = AdaBelief(twins(params), **options)
    own.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert own.param_groups[0]["eps"] == 1e-10
    assert all(set(entry) == {"step", "exp_avg", "exp_avg_var"} for entry in own.state.values())
    walk(published, range(7, 17))
    for p, q in zip(params, walk(own, range(7, 17)), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-8 if rectify else 1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"decoupled_decay": False, "rectify": False, "weight_decay": 0.1}])
def test_goes_on_from_timm(options):
    params = parameters(torch.float64)
    published = timm.optim.adabelief.AdaBelief(params, lr=0.01, **options)
    walk(published, range(7))
    own = AdaBelief(twins(params))
    own.load_state_dict(published.state_dict())  # timm saves every option
    walk(published, range(7, 17))
    for p, q in zip(params, walk(own, range(7, 17)), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("saved_at", [1, 4, 13])
def test_goes_on_from_ranger_adabelief(saved_at):
    params = parameters()
    published = quietly(ranger_adabelief.RangerAdaBelief, params, lr=0.01)
    walk(published, range(saved_at))
    own = RangerAdaBelief(twins(params))
    own.load_state_dict(published.state_dict())
    assert own.param_groups[0]["rectify"] is True
    assert "step_counter" not in own.param_groups[0]
    walk(published, range(saved_at, saved_at + 10))
    for p, q in zip(params, walk(own, range(saved_at, saved_at + 10)), strict=True):
        torch.testing.assert_close(q, p, rtol=3e-5, atol=1e-6)


def test_decoupled_stays_decoupled():
    plain, decoupled = AdaBelief(parameters(), weight_decay=0.1), AdaBeliefW(parameters())
    decoupled.load_state_dict(plain.state_dict())
    assert decoupled.param_groups[0]["weight_decouple"] is True
    assert decoupled.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
def test_adams_checkpoint_is_refused_with_the_reason(cls):
    adam = cls(parameters())
    walk(adam, range(2))
    own = AdaBelief(parameters())
    with pytest.raises(ValueError, match=r"Adam.*exp_avg_sq.*start a new optimizer"):
        own.load_state_dict(adam.state_dict())
    assert not own.state
