"""The language model of characters."""

from __future__ import annotations

import math

import pytest
import torch

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.trainer import Moment
from tests.lab.running import numbers
from tests.lab.tasks.test_language import CHARLM, make, trained


def test_bits_per_character_are_those_of_windows_on_their_own():
    workload, trainer = trained(CHARLM)
    measured = workload.evaluate(trainer)
    model, text = workload.modules["model"].eval(), workload._corpus.test
    windows = -(-(len(text) - 1) // 128)
    length, losses = -(-(len(text) - 1) // windows), []
    for start in range(0, len(text) - 1, length):
        window = text[start : start + length + 1]
        with torch.no_grad():
            chances = model(window[None, :-1])[0].double().softmax(1)
        losses += [-math.log2(row[character]) for row, character in zip(chances, window[1:], strict=True)]
    assert measured["test_examples"] == len(losses) == len(text) - 1
    assert measured["test_bpc"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)


def test_windows_of_characters_cover_the_text_in_random_order():
    workload, _ = make(CHARLM)
    text, seen = bytes(workload._corpus.train.tolist()), []
    for epoch in (0, 1, 0):
        batches = list(workload.batches(epoch))
        assert len(batches) == workload.steps_per_epoch
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        places = [text.find(bytes([*i, t[-1]])) for i, t in zip(inputs.tolist(), targets.tolist(), strict=True)]
        assert sorted(places) == list(range(min(places), len(text) - 128, 128))
        seen.append(places)
    assert seen[0] == seen[2] != sorted(seen[0])
    assert seen[0] != seen[1]


def test_smoke_of_charlm(tmp_path):
    config, *_ = plan(CHARLM, scale="smoke", names=["all"])  # one of them shows it; all are held to their arguments
    ((_, result),) = session.run(CHARLM, [config], tmp_path, cpu=True)
    last = numbers(RunFolder(tmp_path / config.folder))[-1]
    assert result["last_test"] == last["test_bpc"] < 5
    assert last["test_bpc"] == pytest.approx(last["test_loss"] / math.log(2))


def test_a_context_longer_than_the_book_is_told():
    with pytest.raises(
        ValueError, match="context=40000: the training text has 36081 characters; --set context to less"
    ):
        make(CHARLM, context=40_000)


def test_charlm_warms_up_and_cools_down():
    factors = [CHARLM.schedule(Moment(0, 10, step)) for step in (0, 24, 49, 50)]
    assert factors == pytest.approx([0.02, 0.5, 1, 1])
    assert [CHARLM.schedule(Moment(epoch, 10, 999)) for epoch in (5, 10)] == pytest.approx([0.55, 0.1])
