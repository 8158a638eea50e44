"""What cannot be is refused in one message, which names the option and the remedy; nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adabelief.lab.engine import observers
from tests.lab.engine.commanded import content, refused, succeeds, train

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.mark.parametrize(
    ("optimizer", "change", "words"),
    [
        ("AdaBelief", "rectify=maybe", ["rectify must be true or false, got 'maybe'"]),
        ("AdaBelief", "rectify=1", ["rectify must be true or false, got 1"]),
        ("AdaBelief", "weight_decouple=b'x'", ["weight_decouple must be true or false, got b'x'"]),
        ("AdaBelief", "params=3", ["AdaBelief of adabelief has no argument params; it has lr"]),
        ("AdaBelief", "epz=1e-8", ["no argument epz", "did you mean eps?"]),
        ("AdaBelief", "Batchsize=8", ["no argument batchsize", "did you mean batch_size?"]),
        ("AdaBelief", "lr=1e400", ["lr must be a finite number, at least 0, got inf"]),
        ("AdaBelief", "lr=None", ["lr must be a finite number, at least 0, got None"]),
        ("EAdam", "lr=-1", ["lr must be a finite number, at least 0, got -1"]),
        ("EAdam", "lr=1j", ["lr must be", "got 1j"]),
        ("EAdam", "betas=(2,3)", ["betas[0] must be a number in [0, 1), got 2"]),
        ("EAdam", "betas=0.9", ["betas must be a pair, each a number in [0, 1), got 0.9"]),
        ("EAdam", "betas={'a':1,'b':2}", ["betas must be a pair"]),
        ("AdaBelief", "state_bits=4", ["state_bits must be", "got 4"]),
        ("AdaBelief", "state_bits=(16,8,8)", ["state_bits must be", "got (16, 8, 8)"]),
        ("AdaBelief", "state_bits=(16,x)", ["state_bits must be"]),
        ("SGD", "lr=abc", ["lr must be a finite number, at least 0, got 'abc'"]),
        ("SGD", "lr=True", ["lr must be", "got True"]),
        ("SGD", "momentum=-1", ["momentum must be", "got -1"]),
        ("SGD", f"lr={'9' * 400}", ["lr must be a finite number"]),
        ("SGD", "dampening=0.5,nesterov=true", ["dampening must be", "got '0.5,nesterov=true'"]),
        ("RMSprop", "alpha=1.5", ["alpha must be a number in [0, 1), got 1.5"]),
        ("MSVAG", "beta=2", ["beta must be a number in [0, 1), got 2"]),
        ("Yogi", "betas=[0.9,2]", ["betas[1] must be a number in [0, 1), got 2"]),
        ("Fromage", "p_bound=x", ["p_bound must be a finite number, at least 0 or none, got 'x'"]),
        ("Fromage", "weight_decay=0.1", ["Fromage of pytorch_optimizer has no argument weight_decay"]),
        ("AdaBelief,SGD", "betas=(0.9,0.99)", ["SGD of torch.optim has no argument betas"]),
        *[
            ("AdaBelief", f"batch_size={value}", ["batch_size must be a whole number, at least"])
            for value in ("True", "abc", "0", "1.5", "-4", "1j", "b'8'", str(10**30), "nan")
        ],
        *[("AdaBelief", f"width={value}", ["width must be a finite number"]) for value in ("abc", "True", "-1", "nan")],
        ("AdaBelief", "layers=1.5", ["layers must be a whole number", "got 1.5"]),
        ("AdaBelief", "workers=abc", ["workers must be a whole number", "got 'abc'"]),
        ("AdaBelief", "images=5", ["images must be a text, got 5"]),
        ("AdaBelief", "train_examples=1.5", ["train_examples must be a whole number", "or none, got 1.5"]),
        # What only the network or the data knows.
        ("AdaBelief", "images=mnist", ["images='mnist': there are random and more"]),
        ("AdaBelief", "images=more", ["the option 'more_examples' would be needed", "(with --set images=more)"]),
        ("AdaBelief", "heads=3", ["(with --set heads=3)", "adabelief tasks reading"]),
        ("AdaBelief", "images=none", ["an epoch has no step", "(with --set images=none)"]),
        ("AdaBelief", "images=huge", ["there is not enough memory for batch_size=32, images=huge: --set"]),
        (
            "SGD",
            "nesterov=true --set momentum=0",
            ["--set lr=0.1, momentum=0.0, nesterov=True", ": SGD refuses that (Nesterov"],
        ),
    ],
)
def test_a_value_that_cannot_be(optimizer, change, words):
    refused(train("--optimizer", optimizer, "--set", *change.split(" ")), *words)
    assert content() == {}
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("change", "where", "name", "value"),
    [
        ("rectify=false", "settings", "rectify", False),
        ("rectify=TRUE", "settings", "rectify", True),
        ("Weight-Decouple=true", "settings", "weight_decouple", True),
        ("LR=1", "settings", "lr", 1.0),
        ("betas=[0.5,0.75]", "settings", "betas", [0.5, 0.75]),
        ("foreach=none", "settings", "foreach", None),
        ("width=2", "options", "width", 2.0),
        ("train_examples=4e1", "options", "train_examples", 40),
        ("Train_Examples=none", "options", "train_examples", None),
    ],
)
def test_values_are_of_the_kind_that_their_name_takes(change, where, name, value):
    succeeds(train("--set", change))
    (path,) = Path("runs").rglob("config.json")
    found = json.loads(path.read_text())[where][name]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("values", "runs"), [(["0.1234567", "0.1234568"], 2), (["0.5", "5e-1", "0.50"], 1), (["1", "1.0"], 1)]
)
def test_values_of_a_grid_that_are_nearly_equal(values, runs):
    succeeds(train(*(word for value in values for word in ("--set", f"lr={value}"))))
    assert len(list(Path("runs").rglob("result.json"))) == runs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "; did you mean tensorboard?"),
        ("Aim", "--log-with aim needs the package aim: pip install aim"),
    ],
)
def test_trackers_that_are_not_there(name, words, monkeypatch):
    monkeypatch.setattr(observers, "get_available_trackers", lambda: ["tensorboard"])
    refused(train("--log-with", name), words)
    assert content() == {}
