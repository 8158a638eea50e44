"""What torch promises of its own optimizers about their state and what watches them, beside torch.optim.AdamW."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from adabelief import AdaBelief
from tests.torch.cases import OURS
from tests.torch.infos import (
    SHAPES,
    assert_alike,
    built,
    of_each,
    of_every_case,
    of_every_implementation,
    parameters,
    params_of,
    walk,
)


@of_every_case
def test_state_dict_round_trip(cls, options, implementation):
    """It goes on alike through a file, what was loaded stays as it was, and equal optimizers have equal states."""
    optimizer = built(cls, parameters(), options, implementation)
    walk(optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    kept = copy.deepcopy(saved)
    twin = built(cls, [torch.nn.Parameter(p.detach().clone()) for p in params_of(optimizer)], options, implementation)
    twin.load_state_dict(saved)
    for each in (optimizer, twin):
        walk(each, range(3, 6))
    assert_alike(optimizer, twin)
    if cls is not torch.optim.AdamW:  # torch shares step numbers with what it loads
        torch.testing.assert_close(saved["state"], kept["state"], rtol=0, atol=0)
    assert optimizer.state_dict()["param_groups"] == twin.state_dict()["param_groups"]
    for name, x in optimizer.state[params_of(optimizer)[0]].items():
        assert x.dtype == twin.state[params_of(twin)[0]][name].dtype


@of_every_implementation
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(each, implementation, copied):
    optimizer = each.optim_cls(parameters(), **implementation)
    walk(optimizer, range(2))
    twin = copied(optimizer)
    assert {name for name in vars(optimizer) if name[0] != "_"} == {name for name in vars(twin) if name[0] != "_"}
    for one in (optimizer, twin):
        walk(one, range(2, 4))
    assert_alike(optimizer, twin)


NEW = {"max_update", "skip_nonfinite", "state_bits", "master_weight_bits", "stochastic_rounding"}


@pytest.mark.parametrize("cls", OURS)
def test_pickles_of_version_0_1(cls):
    """Whose defaults have none of the options that came later."""
    optimizer, twin = cls(parameters()), cls(parameters())
    walk(optimizer, range(2))
    walk(twin, range(2))
    for options in (optimizer.defaults, *optimizer.param_groups):
        for name in NEW:
            del options[name]
    optimizer = pickle.loads(pickle.dumps(optimizer))
    for each in (optimizer, twin):
        walk(each, range(2, 4))
    assert_alike(optimizer, twin)
    assert optimizer.defaults == twin.defaults


class Own(AdaBelief):
    """A user's, with an argument that is no option."""

    def __init__(self, params, verbose=False, **options):
        super().__init__(params, **options)


def test_arguments_of_a_users_class_are_no_options():
    optimizer = Own(parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    assert "verbose" not in optimizer.param_groups[0]


@of_every_implementation
@pytest.mark.parametrize("step", [float, int, "tensor"], ids=str)
def test_older_checkpoints(each, implementation, step):
    """Without the flags that came later, and with step numbers that are no tensors."""
    optimizer, twin = (each.optim_cls(parameters(), **implementation) for _ in range(2))
    walk(optimizer, range(2))
    old = copy.deepcopy(optimizer.state_dict())
    for flag in each.not_og_supported_flags:
        del old["param_groups"][0][flag]
    for entry in old["state"].values():
        entry["step"] = entry["step"] if step == "tensor" else step(entry["step"])
    with torch.no_grad():
        for p, q in zip(params_of(twin), params_of(optimizer), strict=True):
            p.copy_(q)
    twin.load_state_dict(old)
    for one in (optimizer, twin):
        walk(one, range(2, 4))
    assert_alike(optimizer, twin, tolerance=1e-12)  # with the flags goes the choice of an implementation


@of_each
def test_names_of_parameters(each):
    names = [f"{i}" for i in range(len(SHAPES))]
    named, unnamed = each.optim_cls(zip(names, parameters(), strict=True)), each.optim_cls(parameters())
    for one, other in ((named, unnamed), (unnamed, named)):
        walk(one, range(2))
        other.load_state_dict(one.state_dict())
    assert named.state_dict()["param_groups"][0]["param_names"] == names
    walk(named, range(1))


@of_each
def test_hooks_of_state_dicts(each):
    """In torch's order, those with prepend first; what they return is what is saved or loaded."""
    optimizer, seen = each.optim_cls(parameters(), lr=0.5), []
    walk(optimizer, range(1))

    def renamed(_, saved):
        seen.append("saved")
        return {"renamed": saved}

    def named_back(_, saved):
        seen.append("loading")
        return saved["renamed"]

    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(renamed)
    other = each.optim_cls(parameters())
    other.register_load_state_dict_pre_hook(named_back)
    other.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    other.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)), prepend=True)
    other.load_state_dict(optimizer.state_dict())
    assert seen == ["saving", "saved", "loading", len(SHAPES), 0.5]


# What watches


@of_every_implementation
def test_step_hooks(each, implementation):
    """The global ones around the optimizer's own, each once in every step."""
    optimizer, seen = each.optim_cls(parameters(), **implementation), []

    def hook(name):
        return lambda *_: seen.append(name)

    handles = [
        register_optimizer_step_pre_hook(hook("all before")),
        register_optimizer_step_post_hook(hook("all after")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
    ]
    try:
        walk(optimizer, range(2))
    finally:
        for handle in handles:
            handle.remove()
    walk(optimizer, range(1))
    assert seen == ["all before", "before", "after", "all after"] * 2


@of_every_implementation
def test_profiles_name_the_optimizer(each, implementation):
    optimizer = each.optim_cls(parameters(), **implementation)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        walk(optimizer, range(1))
        optimizer.zero_grad()
    names = {event.name for event in profile.events()}
    assert {f"Optimizer.step#{each.name}.step", f"Optimizer.zero_grad#{each.name}.zero_grad"} <= names
