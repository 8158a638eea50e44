"""The published rows, and what is said of those that do not exist."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import get_args

import pytest
import torch

import adabelief.optax
from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief, eps_for_floor, eps_from_adam, recommended
from adabelief.rule import denominator_floor
from adabelief.settings import SETTINGS, TaskName

PUBLISHED = {
    "cifar": (1e-3, (0.9, 0.999), 1e-8, 5e-4, False, False),
    "imagenet": (1e-3, (0.9, 0.999), 1e-8, 1e-2, True, False),
    "gan-small": (2e-4, (0.5, 0.999), 1e-12, 0.0, False, False),
    "sn-gan": (2e-4, (0.5, 0.999), 1e-16, 0.0, False, True),
    "transformer": (1.5e-3, (0.9, 0.98), 1e-12, 1e-4, True, True),
    "lstm-1": (1e-3, (0.9, 0.999), 1e-16, 1.2e-6, False, False),
    "lstm-2": (1e-2, (0.9, 0.999), 1e-12, 1.2e-6, False, False),
    "lstm-3": (1e-2, (0.9, 0.999), 1e-12, 1.2e-6, False, False),
    "detection": (1e-4, (0.9, 0.999), 1e-8, 1e-4, False, False),
    "transformer-fairseq": (5e-4, (0.9, 0.999), 1e-16, 1e-4, True, True),
    "rl-rainbow": (1e-4, (0.9, 0.999), 1e-10, 0.0, False, True),
    "rl-halfcheetah": (1e-3, (0.9, 0.999), 1e-12, 0.0, False, True),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_rows(task):
    names = ("lr", "betas", "eps", "weight_decay", "weight_decouple", "rectify")
    assert recommended(task) == dict(zip(names, PUBLISHED[task], strict=True))
    group = AdaBelief([torch.nn.Parameter(torch.ones(1))], **recommended(task)).param_groups[0]
    assert {name: group[name] for name in names} == recommended(task)
    assert SETTINGS[task].source


def test_nothing_else_is_recommended():
    assert get_args(TaskName) == tuple(SETTINGS) == tuple(PUBLISHED)


TORCH = {AdaBelief: "either", AdaBeliefW: "decoupled", RangerAdaBelief: "either"}
OPTAX = {
    adabelief.optax.adabelief: "coupled",
    adabelief.optax.adabeliefw: "decoupled",
    adabelief.optax.ranger_adabelief: "either",
}
KERAS = """
import json, sys
from adabelief import keras, recommended
optimizers = keras.AdaBelief, keras.AdaBeliefW, keras.RangerAdaBelief
found = {}
for task in json.loads(sys.argv[1]):
    for optimizer in optimizers:
        try:
            config = optimizer(**recommended(task, optimizer)).get_config()
        except ValueError as error:
            config = str(error)
        found[f"{task} {optimizer.__name__}"] = config
print(json.dumps(found))
"""


def taken(task, decay, names):
    """A row as an optimizer of such a decay takes it, or why it cannot; `names` are its own."""
    lr, (beta1, beta2), eps, weight_decay, decoupled, rectify = PUBLISHED[task]
    if weight_decay and decay not in ("either", "decoupled" if decoupled else "coupled"):
        return None
    values = (lr, beta1, beta2, eps, weight_decay, decoupled, rectify)
    return dict(zip((*names, "weight_decay", "weight_decouple", "rectify"), values, strict=True))


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.parametrize("optimizer", [*TORCH, *OPTAX], ids=lambda optimizer: optimizer.__name__)
def test_a_row_fits_every_optimizer_or_says_why_not(task, optimizer):
    in_torch = optimizer in TORCH
    expected = taken(
        task,
        (TORCH | OPTAX)[optimizer],
        ("lr", "beta1", "beta2", "eps") if in_torch else ("learning_rate", "b1", "b2", "eps"),
    )
    if expected is None:
        with pytest.raises(ValueError, match=rf"weight decay of '{task}' is .* use [Aa]da[Bb]elief"):
            recommended(task, optimizer)
        return
    arguments = recommended(task, optimizer)
    optimizer([torch.nn.Parameter(torch.ones(1))], **arguments) if in_torch else optimizer(**arguments)
    if in_torch:
        arguments["beta1"], arguments["beta2"] = arguments.pop("betas")
    assert arguments.items() <= expected.items()
    assert expected.keys() - arguments.keys() <= {"weight_decouple", "rectify"}


def test_a_row_fits_every_optimizer_of_keras():
    done = subprocess.run(
        [sys.executable, "-c", KERAS, json.dumps(list(PUBLISHED))], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for case, config in json.loads(done.stdout).items():
        task, name = case.split()
        decay = "decoupled" if name == "AdaBeliefW" else "either"
        expected = taken(task, decay, ("learning_rate", "beta_1", "beta_2", "epsilon"))
        if expected is None:
            assert f"the weight decay of '{task}' is coupled" in config
        else:
            assert {key: config[key] for key in expected if key in config} == pytest.approx(
                {key: expected[key] for key in expected if key in config}
            )
            assert expected.keys() - config.keys() <= {"weight_decouple", "rectify"}


@pytest.mark.parametrize("other", [torch.optim.AdamW, dict, adabelief.optax.scale_by_belief, "AdaBelief"])
def test_other_optimizers_are_refused(other):
    with pytest.raises(ValueError, match="takes other arguments; give AdaBelief"):
        recommended("cifar", other)


@pytest.mark.parametrize(("name", "close"), [("resnet", "$"), ("Imagnet", "; did you mean imagenet\\?$")])
def test_unknown_task_lists_what_there_is(name, close):
    with pytest.raises(ValueError, match=rf"'{name}'.*cifar, imagenet, .*lstm-3.*{close}"):
        recommended(name)


def test_eps_from_adam():
    assert eps_from_adam(1e-8) == pytest.approx(1e-16)
    assert eps_from_adam(1e-5) == pytest.approx(1e-10)
    # Adam's eps bounds its denominator; the squared one bounds AdaBelief's, up to the factor of the average
    assert denominator_floor(eps_from_adam(1e-4), 0.999) == pytest.approx(1e-4 / 0.001**0.5, rel=1e-3)
    assert eps_from_adam(torch.tensor(1e-8)) == pytest.approx(1e-16)
    for eps in (-1, "1e-8", None, math.nan):
        with pytest.raises(ValueError, match=re.escape(f"eps must be a finite number, at least 0, got {eps!r}")):
            eps_from_adam(eps)


def test_eps_for_floor():
    for floor, beta2 in ((1e-8, 0.999), (1e-3, 0.9), (0.0, 0.99)):
        eps = eps_for_floor(floor, beta2)
        assert denominator_floor(eps, beta2) == pytest.approx(floor + eps)
    for floor, beta2, name in (
        (-1.0, 0.9, "floor"),
        (float("inf"), 0.9, "floor"),
        (1e-8, 1.0, "beta2"),
        (1e-8, "0.9", "beta2"),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be"):
            eps_for_floor(floor, beta2)
