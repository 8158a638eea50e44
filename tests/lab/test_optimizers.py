import inspect
import math

import pytest
import torch

from adabelief import AdaBelief
from adabelief.lab import optimizers
from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks.images import cifar_settings

SETTINGS = {**cifar_settings(), "RMSprop": {"lr": 1e-3}}
methods = pytest.mark.parametrize("name", METHODS)


def problem():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 5, generator=generator)
    weight = torch.nn.Parameter(torch.randn(5, generator=generator))
    target = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    return weight, lambda: ((inputs @ weight - target) ** 2).mean()


@methods
def test_a_step_lowers_the_loss(name):
    weight, loss = problem()
    optimizer = optimizers.build(name, [weight], SETTINGS[name])
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


def test_the_paper_s_nine_and_more():
    paper = ["AdaBelief", "SGD", "Adam", "AdamW", "RAdam", "AdaBound", "Yogi", "MSVAG", "Fromage"]
    assert list(METHODS) == [*paper, "RMSprop", "EAdam", "AdamW-same-decay"]
    assert METHODS["AdaBelief"].make is AdaBelief


@methods
def test_settings_arrive(name):
    weight, _ = problem()
    (group,) = optimizers.build(name, [weight], SETTINGS[name]).param_groups
    expected = METHODS[name].arguments(SETTINGS[name])
    if name == "MSVAG":
        del expected["weight_decay"]  # the hook's: see below
    assert {key: group[key] for key in expected} == expected


# One step from p = 1 with gradient 0 is the decay alone; coupled decay of an adaptive method becomes a step of about
# lr, whatever the decay; a decoupled one is lr * weight_decay; MSVAG's first step is lr times the gradient.
@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("SGD", 0.1 * 5e-4),
        ("Adam", 1e-3),
        ("AdamW", 1e-3 * 1e-2),
        ("AdaBound", 1e-3),
        ("MSVAG", 0.1 * 5e-4),
        ("Fromage", 1 - 1 / math.sqrt(1 + 0.01**2)),
    ],
)
def test_decay_is_coupled_as_in_the_paper_s_code(name, moved):
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    optimizers.build(name, [weight], SETTINGS[name]).step()
    assert 1 - weight.item() == pytest.approx(moved, rel=1e-3)


def test_radam_decouples_its_decay():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    optimizer = optimizers.build("RAdam", [weight], SETTINGS["RAdam"])
    for _ in range(10):  # of which the last ones are adaptive
        optimizer.step()
    assert 1 - weight.item() == pytest.approx(10 * 1e-3 * 5e-4, rel=1e-3)


def test_yogi_couples_its_decay():
    moves = []
    for scale in (1.0, 2.0):
        weight = torch.nn.Parameter(torch.full((1,), scale, dtype=torch.float64))
        weight.grad = torch.zeros_like(weight)
        optimizers.build("Yogi", [weight], {**SETTINGS["Yogi"], "weight_decay": 0.5}).step()
        moves.append(scale - weight.item())
    assert moves[0] == pytest.approx(moves[1], rel=0.05), "decoupled decay would move the second twice as far"


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_eadam_is_adam_with_eps_kept_in_v(eps):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    optimizer = optimizers.EAdam([weight], lr=0.1, betas=(0.8, 0.95), eps=eps, weight_decay=0.01)
    p, m, v = weight.detach().clone(), 0.0, 0.0
    for t in range(1, 8):
        weight.grad = torch.randn(6, generator=generator, dtype=torch.float64)
        g = weight.grad + 0.01 * p
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2 + eps
        p = p - 0.1 / (1 - 0.8**t) * m / ((v / (1 - 0.95**t)).sqrt() + eps)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), p, rtol=1e-12, atol=1e-14)


@methods
def test_a_rival_runs_in_the_fastest_form_that_its_package_has(name):
    """One that a package has is taken; and what is asked for instead is."""
    method = METHODS[name]
    if name == "AdaBelief":  # which chooses by itself
        assert not method.form
        return
    found = [form for form in optimizers.FORMS if form in inspect.signature(method.make).parameters]
    assert method.form == ({found[0]: True} if found else {})
    for form in found:
        assert method.arguments({form: False}).keys() & set(optimizers.FORMS) == {form}


def test_same_decay_is_adabelief_s():
    assert SETTINGS["AdamW-same-decay"]["weight_decay"] == SETTINGS["AdaBelief"]["weight_decay"] == 5e-4


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"'Adma'.*AdaBelief, SGD"):
        optimizers.build("Adma", [torch.nn.Parameter(torch.ones(1))], {})


def test_unknown_argument():
    with pytest.raises(ValueError, match="Fromage of pytorch_optimizer has no argument weight_decay"):
        optimizers.build("Fromage", [torch.nn.Parameter(torch.ones(1))], {"lr": 0.01, "weight_decay": 1e-2})


def test_describe():
    assert optimizers.describe("Yogi", {"lr": 1e-3, "eps": 1e-3}) == (
        "lr=0.001, eps=0.001, foreach=True, weight_decouple=False"
    )
