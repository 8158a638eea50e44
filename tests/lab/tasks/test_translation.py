"""The task of translation: its loss, its evaluation, its settings, and runs of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from sacrebleu import BLEU
from torch import nn

from adabelief.lab.engine.config import plan
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.models.transformer import EOS, PAD
from adabelief.lab.optimizers import check
from adabelief.lab.task import Request
from adabelief.lab.tasks import task
from adabelief.lab.tasks.translation import SIGNATURE, Translation, bleu, mean
from adabelief.lab.trainer import Moment, Trainer, _split
from tests.lab.data.test_pairs import few
from tests.lab.running import go, goes_on, numbers

TASK = task("translation")


TINY = {"layers": 1, "width": 16, "inner": 32, "heads": 2, "vocabulary": 300, "dropout": 0.0, "inner_dropout": 0.0}


def workload(**options) -> Translation:
    torch.manual_seed(0)
    options = {**TASK.scales("")["smoke"].options, **TINY, **options}
    return Translation(Request("", 0, 128, options, None), few())


def test_batches_differ_from_epoch_to_epoch():
    made = workload()
    first, again, second = (list(made.batches(epoch)) for epoch in (0, 0, 1))
    assert len(first) == len(second) == made.steps_per_epoch > 3
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [len(batch.source) for batch in first] != [len(batch.source) for batch in second]


def test_loss_is_torch_s_on_the_tokens_that_are_no_padding():
    made = workload()
    batch = max(made.batches(0), key=lambda batch: int((batch.target == PAD).sum()))
    assert (batch.target == PAD).any()
    logits = made.modules["model"](batch.source, batch.target[:, :-1])
    kept = batch.target[:, 1:] != PAD
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(logits[kept], batch.target[:, 1:][kept])
    torch.testing.assert_close(made.loss(batch), expected)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_weighted_by_their_sentences_are_the_batch(parts):
    made = workload()
    batch = max(made.batches(0), key=lambda batch: int((batch.target == PAD).sum()))
    split = list(_split(batch, parts))
    assert len({int((part.target != PAD).sum()) / len(part.target) for part in split}) > 1
    total = sum(made.loss(part) * len(part.source) / len(batch.source) for part in split)
    torch.testing.assert_close(total, made.loss(batch))


def test_schedule():
    factors = {step: TASK.schedule(Moment(0, 55, step - 1)) for step in (1, 4000, 8000, 32_000)}
    assert factors == pytest.approx({1: 1 / 8000, 4000: 0.5, 8000: 1.0, 32_000: 0.5})
    assert TASK.schedule(Moment(0, 11, 1599)) == pytest.approx(1.0)  # a fifth of the epochs, a fifth of the warm-up


def test_settings():
    settings = TASK.settings("")
    for name, own in settings.items():
        check(name, own)
    assert settings["AdaBelief"]["rectify"]
    other = {"SGD", "SGD-Nesterov", "Lion"}  # whose steps are of another size
    assert {own["lr"] for name, own in settings.items() if name not in other} == {1.5e-3}


def test_bleu_is_what_the_signature_says():
    scorer = BLEU(lowercase=True)
    ours, theirs = ["ein hund läuft .", "The cat sat on the mat."], ["ein Hund läuft .", "the cat sat on a mat."]
    assert bleu(ours, theirs) == scorer.corpus_score(ours, [theirs]).score > 40
    assert str(scorer.get_signature()).rpartition("|")[0] == SIGNATURE
    assert SIGNATURE in TASK.summary


def trainer(made: Translation) -> Trainer:
    (config,) = plan(TASK, scale="smoke", epochs=7)
    return trainer_for(made, config, Accelerator(cpu=True))


def test_bleu_is_of_the_mean_of_the_last_weights(monkeypatch):
    made = workload(average=3)
    seen = []
    monkeypatch.setattr(made, "_translate", lambda pairs, trainer: seen.append(snapshot(model)) or [""] * 40)
    model, trained_by = made.modules["model"], trainer(made)
    trail = []
    for epoch in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(epoch)))
        trail.append(snapshot(model))
        made.evaluate(trained_by)
        assert all(torch.equal(x, y) for x, y in zip(trail[-1], snapshot(model), strict=True))
        expected = [torch.stack(last).double().mean(0).float() for last in zip(*trail[-3:], strict=True)]
        for weights in seen[-2:]:
            torch.testing.assert_close(weights, expected)
    kept = workload(average=3)
    kept.load_state_dict(made.state_dict())
    torch.testing.assert_close(list(mean(kept._recent).values()), expected)


def snapshot(model: nn.Module) -> list[torch.Tensor]:
    return [x.clone() for x in model.state_dict().values()]


def test_losses_are_means_over_tokens():
    made = workload()
    measured = made.evaluate(trainer(made))
    losses = []
    for source, target in zip(*made._held["test"], strict=True):
        logits = made.modules["model"].eval()(source[None], target[None, :-1])[0]
        losses.append(nn.functional.cross_entropy(logits, target[1:], reduction="none"))
    assert measured["test_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert (measured["validation_examples"], measured["test_examples"]) == (40, 40)


def test_weights_that_are_no_numbers_are_measured_too():
    made = workload()
    with torch.no_grad():
        made.modules["model"].embedding.weight.fill_(math.nan)
    measured = made.evaluate(trainer(made))
    assert math.isnan(measured["validation_loss"])
    assert measured["test_BLEU"] == 0


def test_translations_keep_the_order_of_the_sources(monkeypatch):
    made = workload()
    model = trainer(made)
    monkeypatch.setattr(
        "adabelief.lab.tasks.translation.beam_search",
        lambda model, source, beam: [[t for t in row if t not in (PAD, EOS)] for row in source.tolist()],
    )
    assert made._translate(made._held["test"], model) == few().test.source


@pytest.mark.parametrize("at", [2, 13])
def test_a_run_that_stops_ends_with_the_same_bits(tmp_path, at):
    short = replace(TASK, make=lambda request: Translation(request, few()))
    (config,) = plan(short, scale="smoke", epochs=3, changes={**TINY, "dropout": 0.2, "beam": 2})
    result, whole = go(tmp_path / "whole", config, short)
    again = goes_on(tmp_path / "parts", config, short, at, whole=whole)
    assert len(numbers(whole)) > at + 3
    assert again["test"] == result["test"]


def test_smoke(tmp_path):
    (config,) = plan(TASK, scale="smoke")
    result, folder = go(tmp_path, config, TASK)
    epochs = [line for line in numbers(folder) if "train_loss" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["validation_loss"] < 1.0 < 4.0 < epochs[0]["validation_loss"]
    assert result["test"] > 20
    assert epochs[-1]["test_examples"] == 100
