"""The workloads of the scale study: their sizes, what they can be asked, and that they run on their real data."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from adabelief.lab.data.examples import Examples, mislabelled
from adabelief.lab.data.text import characters
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.schedules import SCHEDULES
from adabelief.lab.task import Request, schedule_of
from adabelief.lab.tasks import task
from adabelief.lab.trainer import Moment
from tests.lab.running import go, goes_on, numbers

# Epochs, steps, validation and test examples, parameters; and which file of ADABELIEF_DATA it needs.
WORKLOADS = {
    "fashion-mnist": (2, 430, 5000, 10_000, 29_178, "fashion-mnist/train-images-idx3-ubyte.gz"),
    "cifar10-cnn": (8, 79, 5000, 10_000, 33_946, "cifar10/train.parquet"),
    "vit": (8, 79, 5000, 10_000, 148_170, "cifar10/train.parquet"),
    "char-lstm": (10, 200, 99_999, 99_999, 144_946, "penn/train.txt"),
    "charlm": (5, 200, 99_999, 99_999, 111_488, "penn/train.txt"),
    "translation": (3, 300, 1014, 1000, 489_728, "multi30k/train.de.gz"),
}
workloads = pytest.mark.parametrize("name", WORKLOADS)


def config_of(name, scale="study", **choices):
    (config,) = plan(task(name), scale=scale, **{"names": ["AdamW"], **choices})
    return config


@workloads
def test_a_study_is_one_thread_with_a_target_and_a_cosine(name):
    config, scale = config_of(name), task(name).scales("")["study"]
    assert (config.epochs, config.precision, scale.threads) == (WORKLOADS[name][0], "no", 1)
    assert scale.target is not None
    factors = [schedule_of(task(name), config.options)(Moment(0, 4, step, 400)) for step in range(400)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[19:] == sorted(factors[19:], reverse=True)
    assert 0 < factors[-1] < 1e-3


@workloads
def test_a_study_on_its_real_data(name):
    *_, steps, validation, test, parameters, file = WORKLOADS[name]
    path = Path(os.environ.get("ADABELIEF_DATA", "")) / file
    if not path.exists():
        pytest.skip(f"ADABELIEF_DATA names no folder with {file}")
    config = config_of(name)
    torch.manual_seed(0)
    made = task(name).make(Request(config.model, 0, config.batch_size, config.options, path.parent))
    assert made.steps_per_epoch == steps
    assert sum(p.numel() for p in made.modules["model"].parameters()) == parameters
    trainer = trainer_for(made, config, Accelerator(cpu=True))
    losses = [float(made.step(batch, trainer)) for batch in itertools.islice(made.batches(0), 4)]
    assert losses[-1] < losses[0]
    assert sum(1 for _ in made.batches(1)) == steps
    held = made.held_out if hasattr(made, "held_out") else None
    if held:
        assert [sum(len(x.labels) for x in held(part)) for part in ("validation", "test")] == [validation, test]
    elif name == "translation":
        assert [len(made._held[part].source) for part in ("validation", "test")] == [validation, test]
    else:
        assert [len(part) - 1 for part in made._corpus[1:3]] == [validation, test]


@pytest.mark.parametrize(("name", "drops"), [("30/60", (30, 60)), ("70/80", (70, 80)), ("3/4", (67.5,))])
def test_the_learning_rate_can_be_divided_when_asked(name, drops):
    config = config_of("fashion-mnist", changes={"schedule": name})
    schedule = schedule_of(task("fashion-mnist"), config.options)
    for epoch in (0, 29, 30, 59, 60, 67, 68, 69, 70, 79, 80, 89):
        expected = 0.1 ** sum(epoch >= drop for drop in drops)
        assert schedule(Moment(epoch, 90, 10 * epoch, 900)) == pytest.approx(expected), epoch


def test_imagenet_can_be_asked_for_the_earlier_decay():
    config = config_of("imagenet", scale="paper", changes={"schedule": "30/60"})
    assert schedule_of(task("imagenet"), config.options) is SCHEDULES["30/60"]
    usual = schedule_of(task("imagenet"), config_of("imagenet", scale="paper").options)
    assert [usual(Moment(epoch, 90, epoch, 90)) for epoch in (69, 70, 80)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "30/6"}, r"schedule: there is no '30/6'.*cosine, constant, 3/4, 30/60, 70/80"),
        ({"half_life": "words"}, "half_life: there is no 'words' here; there are steps, examples"),
        ({"clip_value": -1}, "clip_value must be a finite number, at least 0"),
        ({"noise": "much"}, "noise must be a finite number"),
    ],
)
def test_an_option_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of("digits", scale="smoke", changes=changes)


def test_noise_makes_a_share_of_the_training_labels_wrong_alike_for_all_runs():
    clean, *noisy = (
        task("digits").make(
            Request("", seed, 64, config_of("digits", scale="smoke", changes={"noise": noise}).options, None)
        )
        for seed, noise in ((0, 0.0), (0, 0.2), (1, 0.2))
    )
    labels = [workload._split.train.labels for workload in (clean, *noisy)]
    assert torch.equal(labels[1], labels[2])
    assert int((labels[0] != labels[1]).sum()) == round(0.2 * 1197)
    for part in ("validation", "test"):
        assert torch.equal(getattr(clean._split, part).labels, getattr(noisy[0]._split, part).labels)


def test_wrong_labels_are_any_other_class():
    labels = torch.arange(5).repeat(2000)
    changed = mislabelled(Examples(torch.zeros(10_000, 1), labels), 0.5).labels
    wrong = labels != changed
    assert int(wrong.sum()) == 5000
    pairs = torch.bincount(5 * labels[wrong] + changed[wrong], minlength=25).view(5, 5)
    assert (pairs.diagonal() == 0).all()
    assert pairs[~torch.eye(5, dtype=torch.bool)].double() == pytest.approx(torch.full((20,), 250.0), abs=60)
    with pytest.raises(ValueError, match=r"noise=1.0: give the share of wrong labels"):
        mislabelled(Examples(torch.zeros(5, 1), torch.arange(5)), 1.0)


@pytest.mark.parametrize("changes", [{}, {"max_norm": 0.01}, {"clip_value": 1e-4}])
def test_gradients_are_clipped_as_asked(changes):
    config = config_of("digits", scale="smoke", names=["SGD"], changes={"lr": 1.0, "momentum": 0, **changes})
    torch.manual_seed(0)
    made = task("digits").make(Request("", 0, 64, config.options, None))
    trainer, model = trainer_for(made, config, Accelerator(cpu=True)), made.modules["model"]
    before = [p.detach().clone() for p in model.parameters()]
    batch = next(iter(made.batches(0)))
    made.loss(batch).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    made.step(batch, trainer)
    moved = [old - p.detach() - 5e-4 * old for old, p in zip(before, model.parameters(), strict=True)]
    if "max_norm" in changes:
        norm = torch.stack([g.norm() for g in grads]).norm()
        grads = [g * 0.01 / norm for g in grads]
    if "clip_value" in changes:
        grads = [g.clamp(-1e-4, 1e-4) for g in grads]
    for g, move in zip(grads, moved, strict=True):
        torch.testing.assert_close(move, g, rtol=1e-3, atol=1e-6)


def test_a_half_life_in_examples_is_resolved_in_the_configuration():
    changes = {"batch_size": 256, "half_life": "examples"}
    config = config_of("digits", scale="smoke", changes=changes)
    assert config.settings["betas"] == (0.9, pytest.approx(0.999**4))
    assert config.changes == changes
    assert config_of("digits", scale="smoke", changes={"batch_size": 256}).settings["betas"] == (0.9, 0.999)
    assert config_of("digits", scale="smoke", changes={"half_life": "examples"}).settings["betas"] == (0.9, 0.999)


def test_characters_of_a_folder_are_those_of_its_words(tmp_path):
    for part, text in (("train", " ab  <unk> \n c\n"), ("valid", "a b\n"), ("test", "b " * 50)):
        (tmp_path / f"{part}.txt").write_text(text)
    corpus = characters("penn", tmp_path, held_out=9)
    known = sorted(set("ab <unk>\nc\n"))
    read = ["".join(known[i] for i in tokens.tolist()) for tokens in corpus[:3]]
    assert read == ["ab <unk>\nc\n", "a b\n", "b b b b b"]
    with pytest.raises(ValueError, match="held_out=1: give at least 2"):
        characters("penn", tmp_path, held_out=1)


@pytest.mark.parametrize("name", ["fashion-mnist", "char-lstm"])
def test_a_smoke_run_goes_on_where_it_stopped(tmp_path, name):
    changes = {"steps": 8} if name == "char-lstm" else {}
    (config,) = plan(task(name), scale="smoke", names=["Muon"], changes=changes)
    result, whole = go(tmp_path / "whole", config, task(name))
    goes_on(tmp_path / "parts", config, task(name), 10, whole=whole)
    metric = task(name).metric.name
    tests = [line[f"test_{metric}"] for line in numbers(whole) if "train_loss" in line]
    assert result["worst_test"] == (min(tests) if name == "fashion-mnist" else max(tests))


def test_bleu_can_wait_for_the_last_epoch(tmp_path):
    translation = task("translation")
    changes = {"bleu": "last", "steps": 2, "beam": 1, "width": 8, "inner": 8, "vocabulary": 300}
    (config,) = plan(translation, scale="smoke", epochs=2, changes=changes)
    result, folder = go(tmp_path, config, translation)
    epochs = [line for line in numbers(folder) if "train_loss" in line]
    assert [("test_BLEU" in line, line["step"]) for line in epochs] == [(False, 2), (True, 4)]
    assert result["last_test"] == epochs[-1]["test_loss"]
    metric = translation.metric.of(config.options)
    assert (metric.name, metric.higher_is_better) == ("loss", False)
    assert translation.metric.of({"bleu": "always"}).name == "BLEU"
    with pytest.raises(ValueError, match="bleu='sometimes': there are always, last, never"):
        translation.make(Request("", 0, 128, {**config.options, "bleu": "sometimes"}, None))
