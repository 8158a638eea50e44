"""The language models of words: what a run of them is made of, and that it can be stopped, split and shared."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from accelerate import Accelerator

from adabelief.lab.data.text import PADDING
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan as plan_runs
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.optimizers import check
from adabelief.lab.task import Request
from adabelief.lab.tasks import language, task
from adabelief.lab.trainer import Moment, Trainer
from tests.lab.running import go, goes_on, numbers
from tests.lab.shared import SURE

PTB, CHARLM = task("ptb-lstm"), task("charlm")


TINY = {name: SURE[name] for name in ("width", "batch_size")}


def plan(which=PTB, changes=TINY, epochs=2, **choices):
    (config,) = plan_runs(which, scale="smoke", changes=changes, epochs=epochs, **choices)
    return config


def make(which=PTB, seed=0, **changes):
    config = plan(which, {**TINY, **changes} if which is PTB else changes)
    torch.manual_seed(0)
    return which.make(Request(config.model, seed, config.batch_size, config.options, None)), config


def trained(which=PTB, **changes):
    workload, config = make(which, **changes)
    return workload, trainer_for(workload, config, Accelerator(cpu=True))


def test_windows_cover_the_text_in_order():
    workload, _ = make()
    inputs, targets, rows = zip(*workload.batches(0), strict=True)
    whole, following = (torch.cat(parts, 1) for parts in (inputs, targets))
    text, n = workload._corpus.train, len(whole)
    assert n == 20
    assert torch.equal(whole.flatten()[: len(text) - 1], text[:-1])
    assert torch.equal(following.flatten()[: len(text) - 1], text[1:])
    assert (following.flatten()[len(text) - 1 :] == PADDING).all()
    assert all(torch.equal(r, torch.arange(n)) for r in rows)


def test_windows_are_of_random_lengths_that_seed_and_epoch_decide():
    def lengths(workload, epoch):
        return [batch.inputs.shape[1] for batch in workload.batches(epoch)]

    first, again, other = (make(seed=seed, batch_size=2)[0] for seed in (0, 0, 1))
    assert lengths(first, 3) == lengths(again, 3)
    assert lengths(first, 3) != lengths(first, 4)
    assert lengths(first, 3) != lengths(other, 3)
    drawn = [n for epoch in range(40) for n in lengths(first, epoch)[:-1]]
    long = [n for n in drawn if n > 52]
    assert 1 - len(long) / len(drawn) == pytest.approx(0.05, abs=0.02)
    assert sum(long) / len(long) == pytest.approx(69.5, abs=0.5)  # rounded down
    assert torch.tensor(long, dtype=torch.float32).std() == pytest.approx(5, abs=0.5)
    assert all(lengths(first, epoch)[-1] >= language.SHORTEST for epoch in range(40))
    assert first.steps_per_epoch == pytest.approx(sum(len(lengths(first, e)) for e in range(40)) / 40, abs=1)


def test_learning_rate_is_in_proportion_to_the_window():
    workload, trainer = trained()
    for batch in itertools.islice(workload.batches(0), 3):
        trainer.set_lr(0.1)
        workload.step(batch, trainer)
        (group,) = trainer.optimizers["model"].param_groups
        assert group["lr"] == pytest.approx(1e-4 * batch.inputs.shape[1] / 70)


def test_the_state_goes_from_window_to_window_without_its_gradients():
    workload, trainer = trained(dropout=0.0)
    for layer in workload.modules["model"].layers:  # with its gates open it forgets nothing
        torch.nn.init.constant_(layer.bias_hh_l0[layer.hidden_size : 2 * layer.hidden_size], 20.0)
    state = torch.zeros_like(workload._state)
    for batch in itertools.islice(workload.batches(0), 3):
        state = workload.modules["model"](batch.inputs, state).state.detach()
        workload.step(batch, trainer)
        assert torch.equal(workload._state, state)
        assert not workload._state.requires_grad
    assert state.any()


def test_an_epoch_begins_with_an_empty_state():
    workload, trainer = trained()
    workload.step(next(iter(workload.batches(0))), trainer)
    assert workload.state_dict()["state"].any()
    workload.evaluate(trainer)
    assert not workload.state_dict()["state"].any()


def test_loss_is_cross_entropy_and_the_two_penalties():
    workload, _ = make(dropout=0.5)
    batch, model = next(iter(workload.batches(0))), workload.modules["model"]
    torch.manual_seed(1)
    loss = workload.loss(batch)
    torch.manual_seed(1)
    said = model(batch.inputs, torch.zeros(20, model.state_size))
    likelihood = said.logits.log_softmax(2).gather(2, batch.targets[:, :, None]).mean()
    steps = said.hidden[:, 1:] - said.hidden[:, :-1]
    torch.testing.assert_close(loss, -likelihood + 2 * (said.dropped**2).mean() + (steps**2).mean())


def test_gradients_are_clipped_by_norm():
    """SGD moves by lr × norm, and the norm is 0.25 where the gradient is larger."""
    workload, config = make(dropout=0.0)
    config = plan(changes={**SURE, "lr": 1.0, "weight_decay": 0.0}, names=["SGD"])
    trainer = trainer_for(workload, config, Accelerator(cpu=True))
    parameters = list(workload.modules["model"].parameters())
    torch.nn.init.normal_(parameters[1])
    before = [p.detach().clone() for p in parameters]
    batch = next(iter(workload.batches(0)))
    trainer.set_lr(1.0)
    workload.step(batch, trainer)
    moved = math.sqrt(sum((p - q).square().sum().item() for p, q in zip(parameters, before, strict=True)))
    assert moved == pytest.approx(0.25 * batch.inputs.shape[1] / 70, rel=1e-4)


def test_perplexity_is_exp_of_the_mean_cross_entropy_of_all_words():
    workload, trainer = trained()
    for p in workload.modules["model"].parameters():  # what it says depends on what it has read
        torch.nn.init.normal_(p, std=0.5)
    measured = workload.evaluate(trainer)
    model = workload.modules["model"].double().eval()
    for part, words in (("validation", workload._corpus.validation), ("test", workload._corpus.test)):
        losses, length = [], -(-(len(words) - 1) // 10)
        for start in range(0, len(words) - 1, length):  # stream by stream, each in one go
            stream = words[start : start + length + 1]
            state = torch.zeros(1, model.state_size, dtype=torch.float64)
            with torch.no_grad():
                logits = model(stream[None, :-1], state).logits[0]
            losses += [-row.log_softmax(0)[word].item() for row, word in zip(logits, stream[1:], strict=True)]
        mean = math.fsum(losses) / len(losses)
        assert measured[f"{part}_examples"] == len(losses) == len(words) - 1
        assert measured[f"{part}_loss"] == pytest.approx(mean, rel=1e-5)
        assert measured[f"{part}_perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)


def test_perplexity_of_a_hopeless_model_is_infinite():
    workload, _ = make()
    assert workload.metric(1e4) == {"perplexity": math.inf}


@pytest.mark.parametrize("at", [3, 7, 8, 12])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 60.0])
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path, at, checkpoint_seconds, whole):
    """In the middle of an epoch, at its last window, at the next one's first; from a checkpoint of then or before."""
    goes_on(tmp_path, plan(), PTB, at, whole=whole, checkpoint_seconds=checkpoint_seconds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    _, folder = go(tmp_path_factory.mktemp("whole"), plan(), PTB)
    lengths = [line["epoch"] for line in numbers(folder) if "lr_factor" in line]
    assert lengths.count(1) == 7  # the stops above are where they should be
    return folder


def test_accumulated_streams_are_one_batch(tmp_path):
    one, parts = (go(tmp_path / str(n), plan(changes=SURE, accumulate=n), PTB)[1] for n in (1, 3))
    for a, b in zip(numbers(one), numbers(parts), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_more_parts_than_streams_are_refused(tmp_path):
    config = plan(changes={**TINY, "batch_size": 4}, accumulate=5)
    with pytest.raises(ValueError, match="batch_size=4: so many streams cannot be split into 5 parts; take fewer"):
        go(tmp_path, config, PTB)


@pytest.mark.xdist_group("torchrun")
def test_two_processes_are_as_good_as_one(tmp_path, two_processes):
    config = plan(changes=SURE, epochs=1)
    session.run(PTB, [config], tmp_path, cpu=True)
    one, two = (RunFolder(out / config.folder) for out in (tmp_path, two_processes / "lstm"))
    assert json.loads(two.environment.read_text())["processes"] == 2
    for a, b in zip(numbers(one), numbers(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("model", PTB.models)
def test_smoke_of_the_lstms(tmp_path, model):
    configs = plan_runs(PTB, model=model, scale="smoke")
    ((config, result),) = session.run(PTB, configs, tmp_path, cpu=True)
    first, *_, last = (line for line in numbers(RunFolder(tmp_path / config.folder)) if "train_loss" in line)
    assert result["last_test"] == last["test_perplexity"] < 300
    assert last["train_loss"] < first["train_loss"]
    assert last["test_perplexity"] == pytest.approx(math.exp(last["test_loss"]))


def test_any_text_will_do(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("to be or not to be\nthat is the question\n" * 30)
    configs = [plan(epochs=1)]
    ((_, result),) = session.run(PTB, configs, tmp_path / "runs", data=tmp_path, cpu=True)
    assert result["test"] < 20


def test_a_text_too_short_is_told(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("to be or not to be\n" * 14)
    with pytest.raises(ValueError, match=r"batch_size=20: the training text has 98 words, too few .*--set batch_size"):
        session.run(PTB, [plan()], tmp_path / "runs", data=tmp_path, cpu=True)


def test_in_bf16_the_state_stays_in_float32():
    states = []
    for precision in ("no", "bf16"):
        with session._own_precision():
            workload, config = make(dropout=0.0)
            trainer = trainer_for(workload, config, Accelerator(cpu=True, mixed_precision=precision))
            try:
                workload.step(next(iter(workload.batches(0))), trainer)
            except ValueError as error:
                if "has no such LSTM on this processor" not in str(error):
                    raise
                pytest.skip(str(error))
            states.append(workload.state_dict()["state"])
            assert workload.evaluate(trainer)["test_loss"] == pytest.approx(math.log(629), rel=0.05)
    assert states[0].dtype == states[1].dtype == torch.float32
    assert not torch.equal(*states)
    torch.testing.assert_close(*states, rtol=0.05, atol=0.01)


def test_a_precision_that_the_processor_lacks_is_told(monkeypatch):
    def refused(*args, **kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr(Trainer, "descend", refused)
    message = "could not create a primitive descriptor for the LSTM forward propagation primitive"
    for precision, error in (("bf16", ValueError), ("no", RuntimeError)):
        with session._own_precision():
            workload, config = make()
            trainer = trainer_for(workload, config, Accelerator(cpu=True, mixed_precision=precision))
            with pytest.raises(error, match="--precision bf16: torch has no" if precision == "bf16" else message):
                workload.step(next(iter(workload.batches(0))), trainer)
    message = "out of memory"
    with session._own_precision():
        workload, config = make()
        trainer = trainer_for(workload, config, Accelerator(cpu=True, mixed_precision="bf16"))
        with pytest.raises(RuntimeError, match=message):
            workload.step(next(iter(workload.batches(0))), trainer)


@pytest.mark.parametrize("which", [PTB, CHARLM])
def test_settings_are_arguments_of_the_optimizers(which):
    for model in which.models or ("",):
        for optimizer, settings in which.settings(model).items():
            check(optimizer, settings)


@pytest.mark.parametrize(
    ("model", "belief", "adam"), [("1-layer", (1e-3, 1e-16), 1e-3), ("2-layer", (1e-2, 1e-12), 1e-2)]
)
def test_settings_are_the_paper_s(model, belief, adam):
    settings = PTB.settings(model)
    assert (settings["AdaBelief"]["lr"], settings["AdaBelief"]["eps"]) == belief
    assert settings["Adam"]["lr"] == adam
    assert settings["SGD"] == {"lr": 30.0, "weight_decay": 1.2e-6}
    assert {s["weight_decay"] for name, s in settings.items() if name not in ("Fromage", "Lion")} == {1.2e-6}


def test_schedule_is_the_paper_s():
    assert PTB.scales("1-layer")["paper"].epochs == 200
    factors = [PTB.schedule(Moment(epoch, 200, 0)) for epoch in range(200)]
    assert [e for e in range(1, 200) if factors[e] != factors[e - 1]] == [100, 145]
    assert factors[-1] == pytest.approx(0.01)
