"""Language models of characters: a small GPT and a small LSTM, on the embedded book or on Penn Treebank's text."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adabelief.lab.catalogue import about
from adabelief.lab.data.text import BOOK, Streams, TokenCorpus, characters, streams
from adabelief.lab.models.gpt import GPT
from adabelief.lab.models.lstm import CharLSTM
from adabelief.lab.schedules import cosine, warm_up_and_cosine
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Task, untuned_settings
from adabelief.lab.tasks.language import LanguageModel, mean_loss

EVALUATION_WINDOWS = 64
"""Windows of characters that are evaluated at a time."""

WARM_UP_STEPS = 50
"""Steps in which the learning rate of the GPT rises, but in a study."""


class Causal(LanguageModel):
    """A network on windows of `context` characters in random order, none of which knows of the others.

    Args:
        request: Seed, batch size; `context` among the options, and `steps` of an epoch, None for the text once.
        corpus: The characters.
        model: The network.

    Raises:
        ValueError: If `context` is longer than the training text.
    """

    def __init__(self, request: Request, corpus: TokenCorpus, model: nn.Module) -> None:
        super().__init__(corpus, model)
        self._seed, self._batch_size, self._context = request.seed, request.batch_size, request.options["context"]
        if len(corpus.train) <= self._context:
            raise ValueError(
                f"context={self._context}: the training text has {len(corpus.train)} characters; --set context to less"
            )
        self._windows = (len(corpus.train) - 1) // self._context
        whole = math.ceil(self._windows / self._batch_size)
        self.steps_per_epoch = min(request.options["steps"] or whole, whole)

    def batches(self, epoch: int) -> Iterator[Streams]:
        """Windows side by side from a random start, each whole, in random order; the last batch may be smaller."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        tokens, length = self._corpus.train, self._windows * self._context
        start = int(torch.randint(len(tokens) - length, (), generator=generator))
        inputs, targets = streams(tokens[start : start + length + 1], self._windows)
        order = torch.randperm(self._windows, generator=generator)
        for rows in torch.split(order, self._batch_size)[: self.steps_per_epoch]:
            yield Streams(inputs[rows], targets[rows])

    def loss(self, batch: Streams) -> Tensor:
        """Mean cross-entropy."""
        return mean_loss(self.modules["model"](batch.inputs), batch.targets)

    def metric(self, loss: float) -> dict[str, float]:
        """Bits per character."""
        return {"bpc": loss / math.log(2)}

    def cut(self, tokens: Tensor) -> Streams:
        """Windows of `context` characters, or a few less."""
        return streams(tokens, math.ceil((len(tokens) - 1) / self._context))

    def predictions(self, model: nn.Module, text: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        """Some windows at a time."""
        for inputs, targets in zip(*(torch.split(x, EVALUATION_WINDOWS) for x in text), strict=True):
            yield model(inputs), targets


def _corpus(request: Request) -> TokenCorpus:
    options = request.options
    return characters(options["text"], request.data, held_out=options["held_out"])


def _make_gpt(request: Request) -> Causal:
    corpus, options = _corpus(request), request.options
    shape = {name: options[name] for name in ("context", "width", "layers", "heads", "dropout")}
    return Causal(request, corpus, GPT(corpus.vocabulary, **shape))


def _make_lstm(request: Request) -> Causal:
    corpus, options = _corpus(request), request.options
    return Causal(request, corpus, CharLSTM(corpus.vocabulary, options["width"], options["layers"], options["dropout"]))


_BOOK = {"text": BOOK, "held_out": None, "steps": None}
_PENN = {"text": "penn", "held_out": 100_000}
_GPT = {"context": 128, "width": 96, "layers": 3, "heads": 4, "dropout": 0.2}
_HELD_OUT = "the first 100,000 characters of the validation text and of the test text"
_BPC = Metric("bpc", "bits per character", higher_is_better=False, title="cross-entropy")
_LSTM_STUDY = Scale(
    epochs=10,
    batch_size=32,
    options={
        **_PENN,
        **{"steps": 200, "context": 64, "width": 128, "layers": 1, "dropout": 0.0, **QUESTIONS, "max_norm": 1.0},
    },
    note=f"one layer of 128, 2,000 steps, a cosine with warm-up; {_HELD_OUT}",
    target=2.1,
    threads=1,
)

TASKS = {
    "charlm": Task(
        **about("charlm"),
        metric=_BPC,
        scales=lambda model: {
            "smoke": Scale(
                epochs=2,
                batch_size=8,
                options={**_BOOK, **_GPT, "width": 32, "layers": 2},
                note="a network of a tenth of the size, 2 epochs instead of 60",
            ),
            "small": Scale(epochs=60, batch_size=8, options={**_BOOK, **_GPT}),
            "study": Scale(
                epochs=5,
                batch_size=16,
                options={**_PENN, **_GPT, "steps": 200, "width": 64, "layers": 2, "dropout": 0.0, **QUESTIONS},
                note=f"two layers of 64, Penn Treebank's text, 1,000 steps, a cosine with warm-up; {_HELD_OUT}",
                target=2.7,
                threads=1,
            ),
        },
        settings=lambda model: untuned_settings(weight_decay=1e-2),
        make=_make_gpt,
        schedule=warm_up_and_cosine(WARM_UP_STEPS),
    ),
    "char-lstm": Task(
        **about("char-lstm"),
        metric=_BPC,
        scales=lambda model: {
            "smoke": Scale(
                epochs=2,
                batch_size=16,
                options={
                    **_BOOK,
                    **{"context": 32, "width": 32, "layers": 1, "dropout": 0.0, **QUESTIONS, "max_norm": 1.0},
                },
                note="the embedded book, one layer of 32, 2 epochs: it shows that everything runs",
            ),
            "small": _LSTM_STUDY,
            "study": _LSTM_STUDY,
        },
        settings=lambda model: untuned_settings(weight_decay=1e-2),
        make=_make_lstm,
        schedule=cosine(),
    ),
}
