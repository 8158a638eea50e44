from dataclasses import replace

import pytest
import torch

from adabelief.lab import train as training
from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks import Examples, digits
from adabelief.lab.train import batches, initial_model, one_thread, train


@pytest.fixture(scope="module")
def task():
    full = digits.task()
    return replace(full, train=Examples(full.train.inputs[:256], full.train.labels[:256]))


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


def numbers(run):
    return run.epochs, run.best_epoch, run.test_accuracy, run.last_test_accuracy


def test_same_seed_same_numbers(task):
    first = train(task, "AdaBelief", 3, epochs=2)
    torch.manual_seed(99)
    torch.rand(5)
    assert numbers(train(task, "AdaBelief", 3, epochs=2)) == numbers(first)
    assert numbers(train(task, "AdaBelief", 4, epochs=2)) != numbers(first)


def test_training_leaves_the_random_state_alone(task):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(task, "SGD", 0, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_all_optimizers_see_the_same_weights_and_batches(task, monkeypatch):
    seen = {}
    step = training.step

    def spy(model, optimizer, batch):
        record = seen.setdefault(name, ([p.detach().clone() for p in model.parameters()], []))
        record[1].append(batch)
        return step(model, optimizer, batch)

    monkeypatch.setattr(training, "step", spy)
    for name in METHODS:
        train(task, name, 1, epochs=2)
    weights, steps = seen.pop("AdaBelief")
    assert len(steps) == 2 * 4
    assert not torch.equal(steps[0].labels, steps[4].labels), "the second epoch has another order"
    assert len(seen) == 8
    for other_weights, other_steps in seen.values():
        assert all(map(torch.equal, weights, other_weights))
        for batch, other in zip(steps, other_steps, strict=True):
            assert torch.equal(batch.inputs, other.inputs)
            assert torch.equal(batch.labels, other.labels)


def test_batches_cover_the_examples_once(task):
    labels = torch.arange(100)
    drawn = [b.labels for b in batches(Examples(labels, labels), 32, torch.Generator().manual_seed(0))]
    assert [len(b) for b in drawn] == [32, 32, 32, 4]
    assert torch.equal(torch.cat(drawn).sort().values, labels)
    assert not torch.equal(torch.cat(drawn), labels)


def test_seed_decides_the_weights(task):
    one, same, other = (next(initial_model(task, seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 0.9), (0.1, 0.8), (0.2, 0.7)], 1),
        ([(0.5, 0.9), (0.4, 0.9), (0.3, 0.8)], 2),  # a tie goes to the lower loss
        ([(0.5, 0.8), (0.5, 0.9), (0.5, 0.9)], 2),  # and then to the earlier epoch
        ([(float("nan"), 0.9), (0.5, 0.9), (float("nan"), 0.9)], 2),
        ([(float("nan"), 0.1)] * 3, 1),
    ],
)
def test_validation_picks_the_epoch_and_the_test_is_read_there(task, monkeypatch, scores, best):
    validations = iter(scores)
    weights = []

    def evaluate(model, examples):
        now = [p.detach().clone() for p in model.parameters()]
        if examples is task.validation:
            weights.append(now)
            return next(validations)
        (epoch,) = (i for i, then in enumerate(weights, 1) if all(map(torch.equal, now, then)))
        return 0.0, epoch / 10

    monkeypatch.setattr(training, "evaluate", evaluate)
    run = train(task, "Adam", 0, epochs=3)
    assert run.best_epoch == best
    assert run.test_accuracy == best / 10
    assert run.last_test_accuracy == 0.3


def test_learning_rate_drops_once(task, monkeypatch):
    rates = []
    step = training.step

    def spy(model, optimizer, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(model, optimizer, batch)

    monkeypatch.setattr(training, "step", spy)
    train(task, "SGD", 0, epochs=4)
    assert rates == pytest.approx([0.1] * 12 + [0.01] * 4)


def test_times_are_of_this_run(task):
    run = train(task, "SGD", 0, epochs=1)
    assert 0 < run.optimizer_seconds < run.step_seconds < 1


def test_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_training_learns():
    run = train(digits.task(), "AdaBelief", 0, epochs=3)
    assert run.test_accuracy > 0.9
    assert run.epochs[2].train_loss < run.epochs[0].train_loss / 3
