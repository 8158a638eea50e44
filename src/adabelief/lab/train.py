"""One training run: epochs, validation after each, test accuracy at the epoch that validation picked."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adabelief.lab import optimizers
from adabelief.lab.tasks import Classification, Examples

WARM_UP = 3
"""Steps at the start of a run whose times are not counted."""


class Epoch(NamedTuple):
    """What one epoch left: the mean training loss over its steps, and the validation set after it."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Run:
    """A finished run. Accuracies are fractions; `best_epoch` counts from 1; seconds are medians over the steps.

    The best epoch has the highest validation accuracy; among equals, the lowest validation loss.
    """

    task: str
    optimizer: str
    seed: int
    settings: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    best_epoch: int
    test_accuracy: float
    last_test_accuracy: float
    optimizer_seconds: float
    step_seconds: float

    @property
    def best(self) -> Epoch:
        """The epoch that validation picked."""
        return self.epochs[self.best_epoch - 1]


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: for layers this small a second one costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def initial_model(task: Classification, seed: int) -> nn.Module:
    """The model at its initial weights: the same for every optimizer that runs with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.model()


def batches(examples: Examples, batch_size: int, generator: torch.Generator) -> Iterator[Examples]:
    """The examples in an order drawn from the generator, a batch at a time; the last one may be smaller."""
    order = torch.randperm(len(examples.labels), generator=generator)
    for indices in torch.split(order, batch_size):
        yield Examples(examples.inputs[indices], examples.labels[indices])


def train(
    task: Classification,
    optimizer: str,
    seed: int,
    *,
    epochs: int | None = None,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Run:
    """Trains one model with one optimizer.

    Initial weights and the order of the examples depend on the seed alone, so runs that differ in the optimizer only
    start from the same point and see the same batches.

    Args:
        task: What to train on.
        optimizer: A name in `optimizers.METHODS` for which the task has settings.
        seed: Of the initial weights and of the order of the examples.
        epochs: How many, instead of the task's own number.
        after_epoch: Called after every epoch.
    """
    epochs = epochs or task.epochs
    settings = task.settings[optimizer]
    model = initial_model(task, seed)
    stepper = optimizers.build(optimizer, model.parameters(), settings)
    schedule = torch.optim.lr_scheduler.MultiStepLR(stepper, [decay_epoch(task, epochs)], gamma=0.1)
    order = torch.Generator().manual_seed(seed)
    history: list[Epoch] = []
    timings: list[tuple[float, float]] = []
    best_epoch, best_rank, best_weights = 0, (-1.0, -math.inf), {}
    for number in range(1, epochs + 1):
        model.train()
        losses = []
        for batch in batches(task.train, task.batch_size, order):
            loss, timing = step(model, stepper, batch)
            losses.append(loss)
            timings.append(timing)
        schedule.step()
        validation_loss, validation_accuracy = evaluate(model, task.validation)
        history.append(Epoch(statistics.fmean(losses), validation_loss, validation_accuracy))
        rank = (validation_accuracy, -validation_loss if math.isfinite(validation_loss) else -math.inf)
        if number == 1 or rank > best_rank:
            best_epoch, best_rank, best_weights = number, rank, copy.deepcopy(model.state_dict())
        after_epoch(history[-1])
    _, last_test_accuracy = evaluate(model, task.test)
    model.load_state_dict(best_weights)
    _, test_accuracy = evaluate(model, task.test)
    optimizer_seconds, step_seconds = map(statistics.median, zip(*timings[WARM_UP:], strict=True))
    return Run(
        task=task.name,
        optimizer=optimizer,
        seed=seed,
        settings=optimizers.METHODS[optimizer].arguments(settings),
        epochs=tuple(history),
        best_epoch=best_epoch,
        test_accuracy=test_accuracy,
        last_test_accuracy=last_test_accuracy,
        optimizer_seconds=optimizer_seconds,
        step_seconds=step_seconds,
    )


def decay_epoch(task: Classification, epochs: int) -> int:
    """The epoch after which the learning rate is divided by 10."""
    return round(task.decay_at * epochs)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Examples) -> tuple[float, tuple[float, float]]:
    """One training step: its loss, and the seconds of `optimizer.step()` and of the whole."""
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = cross_entropy(model(batch.inputs), batch.labels)
    torch.autograd.backward(loss)
    before = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    return loss.item(), (end - before, end - start)


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """The model's mean loss and its accuracy, a fraction, on the examples."""
    model.eval()
    outputs: Tensor = model(examples.inputs)
    correct = outputs.argmax(1) == examples.labels
    return cross_entropy(outputs, examples.labels).item(), correct.double().mean().item()
