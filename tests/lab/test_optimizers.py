import inspect
import math

import pytest
import torch
from torch import nn

from adabelief import AdaBelief
from adabelief.lab import optimizers
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks import task
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
    more = ["EAdamW", "RangerAdaBelief", "Lion", "Muon", "SGD-Nesterov"]
    assert list(METHODS) == [*paper, "RMSprop", "EAdam", "AdamW-same-decay", *more]
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


@pytest.mark.parametrize(("name", "eps"), [("EAdam", 1e-8), ("EAdam", 1e-3), ("EAdamW", 1e-3)])
def test_eadam_is_adam_with_eps_kept_in_v(name, eps):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": eps, "weight_decay": 0.01}
    optimizer = optimizers.build(name, [weight], settings)
    p, m, v = weight.detach().clone(), 0.0, 0.0
    for t in range(1, 8):
        weight.grad = torch.randn(6, generator=generator, dtype=torch.float64)
        if name == "EAdamW":
            p, g = (1 - 0.1 * 0.01) * p, weight.grad
        else:
            g = weight.grad + 0.01 * p
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2 + eps
        p = p - 0.1 / (1 - 0.8**t) * m / ((v / (1 - 0.95**t)).sqrt() + eps)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), p, rtol=1e-12, atol=1e-14)


def floor(settings, default=(0.9, 0.999)):
    return math.sqrt(settings["eps"] / (1 - settings.get("betas", default)[1]))


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if name not in ("toy", "keras-cnn")])
def test_eadam_is_a_control_at_adabelief_s_floor(name):
    """And with its decay, EAdam's coupled, EAdamW's decoupled."""
    found = task(name)
    for model in found.models or ("",):
        settings = found.settings(model)
        belief = settings["AdaBelief"]
        for control in settings.keys() & {"EAdam", "EAdamW"}:
            assert floor(settings[control]) == pytest.approx(floor(belief)), control
            assert settings[control]["lr"] == pytest.approx(settings["Adam"]["lr"]) or control == "EAdamW"
        if "EAdamW" in settings and belief["weight_decouple"]:
            assert settings["EAdamW"]["weight_decay"] == belief["weight_decay"]


class Layers(nn.Module):
    """A table, a convolution, a matrix and vectors."""

    def __init__(self):
        super().__init__()
        self.table, self.kernel, self.matrix = nn.Embedding(5, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.matrix(self.kernel(self.table(tokens).mT).mT.tanh())


def walk(module, optimizer, steps):
    for seed in range(steps):
        tokens = torch.randint(5, (8, 6), generator=torch.Generator().manual_seed(seed))
        module(tokens).square().mean().backward()
        for one in optimizer if isinstance(optimizer, list) else [optimizer]:
            one.step()
            one.zero_grad()


def two(seed=0):
    for _ in range(2):
        torch.manual_seed(seed)
        yield Layers()


MUON = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}


def muon(module):
    return optimizers.build("Muon", optimizers.params_of("Muon", module), MUON)


def test_muon_is_torch_s_on_matrices_and_adamw_on_the_rest():
    ours, theirs = two()
    walk(ours, muon(ours), 5)
    rest = [p for name, p in theirs.named_parameters() if name != "matrix.weight"]
    by_hand = [
        torch.optim.Muon(
            [theirs.matrix.weight], lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, fused=True),
    ]
    walk(theirs, by_hand, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_muon_goes_on_from_its_state_and_follows_the_learning_rate():
    whole, parts = two()
    walk(whole, muon(whole), 6)
    first = muon(parts)
    walk(parts, first, 3)
    second = muon(parts)
    second.load_state_dict(first.state_dict())
    tokens = torch.arange(5)[None]
    for seed in range(3, 6):
        tokens = torch.randint(5, (8, 6), generator=torch.Generator().manual_seed(seed))
        parts(tokens).square().mean().backward()
        second.step()
        second.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    before = [p.clone() for p in parts.parameters()]
    for group in second.param_groups:
        group["lr"] = 0.0
    walk(parts, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, parts.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "settings", "changed"),
    [
        ("AdamW", {"betas": (0.9, 0.99), "eps": 1e-8}, {"betas": (0.9, 0.99**4)}),
        ("RMSprop", {"alpha": 0.99}, {"alpha": 0.99**4}),
        ("EAdam", {"betas": (0.9, 0.99), "eps": 1e-8}, {"betas": (0.9, 0.99**4), "eps": 1e-6 * (1 - 0.99**4)}),
        ("AdaBelief", {"betas": (0.9, 0.99)}, {"betas": (0.9, 0.99**4), "eps": 1e-14 * (1 - 0.99**4)}),
        ("Lion", {"betas": (0.9, 0.99)}, {}),
        ("SGD", {"momentum": 0.9}, {}),
        ("MSVAG", {"beta": 0.9}, {}),
    ],
)
def test_a_half_life_in_examples_keeps_the_floor(name, settings, changed):
    found = optimizers.with_batches(name, settings, 4)
    assert found.keys() == {**settings, **changed}.keys()
    for key, value in {**settings, **changed}.items():
        assert found[key] == pytest.approx(value), key


@methods
def test_a_rival_runs_in_the_fastest_form_that_its_package_has(name):
    """One that a package has is taken; and what is asked for instead is."""
    method = METHODS[name]
    if method.library == "adabelief":  # which chooses by itself
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


@pytest.mark.parametrize(("given", "bits"), [(8, 8), ([16, 8], (16, 8)), ((32, 8), (32, 8))])
def test_bits_of_state_are_a_setting_like_any_other(given, bits):
    assert optimizers.check("AdaBelief", {"state_bits": given}) == {"state_bits": bits}
    (group,) = optimizers.build("AdaBelief", [nn.Parameter(torch.zeros(2, 4096))], {"state_bits": given}).param_groups
    assert group["state_bits"] == bits
