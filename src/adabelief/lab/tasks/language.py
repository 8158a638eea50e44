"""Language models: AWD-LSTMs on the words of Penn Treebank, as in the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adabelief.lab.catalogue import about
from adabelief.lab.data.text import BOOK, PADDING, Streams, TokenCorpus, streams, words
from adabelief.lab.models.lstm import AWDLSTM, Prediction
from adabelief.lab.schedules import divide_at
from adabelief.lab.task import Metric, Request, Scale, Settings, Task, Workload, and_rivals
from adabelief.lab.trainer import Trainer
from adabelief.settings import SETTINGS

BPTT, SHORTEST = 70, 5
"""Words of a window, as a rule, and at least."""

ACTIVATION, SLOWNESS = 2.0, 1.0
"""Factors of the penalties on the last layer's output and on its changes."""

EVALUATION_STREAMS = 10
"""Streams in which a text of words is evaluated."""

LAYERS = {"1-layer": 1, "2-layer": 2, "3-layer": 3}


class Window(NamedTuple):
    """What all streams read in a step: words (n, t), the ones that follow, and which streams they are, (n,)."""

    inputs: Tensor
    targets: Tensor
    rows: Tensor


class LanguageModel(Workload):
    """What these tasks and those of characters share: judged by the mean loss of all tokens but the first."""

    def __init__(self, corpus: TokenCorpus, model: nn.Module) -> None:
        self.modules = {"model": model}
        self._corpus = corpus

    def metric(self, loss: float) -> dict[str, float]:
        """The task's metric, from the mean cross-entropy in nats."""
        raise NotImplementedError

    def cut(self, tokens: Tensor) -> Streams:
        """A text in the streams in which it is evaluated."""
        raise NotImplementedError

    def predictions(self, model: nn.Module, text: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (n, t, vocabulary) and targets (n, t) until all of some streams is read."""
        raise NotImplementedError

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Loss and metric on the parts that are asked for, and how many tokens were predicted."""
        measured: dict[str, float] = {}
        for part in trainer.held_out:
            tokens = {"validation": self._corpus.validation, "test": self._corpus.test}[part]
            loss = self._measure(tokens, trainer)
            values = {"loss": loss, **self.metric(loss), "examples": len(tokens) - 1}
            measured.update({f"{part}_{name}": value for name, value in values.items()})
        return measured

    def _measure(self, tokens: Tensor, trainer: Trainer) -> float:
        """The mean over the tokens, every process reading its share of the streams."""
        processes, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        own, total = trainer.to_device(Streams(*(x[rank::processes] for x in self.cut(tokens)))), 0.0
        with trainer.evaluating() as modules:
            for logits, targets in self.predictions(modules["model"], own):
                total += total_loss(logits.float(), targets).item()
        return trainer.sum(torch.tensor(total, dtype=torch.float64)).item() / (len(tokens) - 1)


class Recurrent(LanguageModel):
    """An LSTM that reads as many streams of text as a batch has rows, window by window, each from where it was.

    Args:
        request: Seed, batch size; `width` and `dropout` among the options.
        corpus: The words.
        model: The network.

    Raises:
        ValueError: If the training text is too short for so many streams.
    """

    def __init__(self, request: Request, corpus: TokenCorpus, model: AWDLSTM) -> None:
        super().__init__(corpus, model)
        if len(corpus.train) <= SHORTEST * request.batch_size:
            raise ValueError(
                f"batch_size={request.batch_size}: the training text has {len(corpus.train)} words, too few for so "
                f"many streams of {SHORTEST}; give a longer one with --data FOLDER, or --set batch_size to less"
            )
        self._seed = request.seed
        self._streams = streams(corpus.train, request.batch_size)
        self._state = self._read = torch.zeros(request.batch_size, model.state_size)
        self.steps_per_epoch = math.ceil(self._streams.inputs.shape[1] / (0.95 * BPTT + 0.05 * BPTT / 2))

    def batches(self, epoch: int) -> Iterator[Window]:
        """The text once, in windows of random length: about 70 words, and about 35 in one case of 20."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        inputs, targets = self._streams
        start, end, rows = 0, inputs.shape[1], torch.arange(len(inputs))
        while start < end:
            bptt = BPTT if torch.rand((), generator=generator) < 0.95 else BPTT / 2
            length = max(SHORTEST, int(torch.normal(bptt, 5.0, (), generator=generator)))
            stop = start + length if start + length + SHORTEST <= end else end
            yield Window(inputs[:, start:stop], targets[:, start:stop], rows)
            start = stop

    def loss(self, batch: Window) -> Tensor:
        """Mean cross-entropy, plus 2 × the mean square of the output and 1 × that of its change from word to word."""
        said: Prediction = self.modules["model"](batch.inputs, self._state[batch.rows])
        self._read[batch.rows] = said.state.detach().float()
        penalty = ACTIVATION * said.dropped.square().mean() + SLOWNESS * said.hidden.diff(dim=1).square().mean()
        return mean_loss(said.logits, batch.targets) + penalty

    def step(self, batch: Window, trainer: Trainer) -> Tensor:
        """A step with the learning rate in proportion to the window's length."""
        parts = trainer.accelerator.num_processes * trainer.accumulate
        if parts > len(batch.rows):
            raise ValueError(
                f"batch_size={len(batch.rows)}: so many streams cannot be split into {parts} parts; take fewer "
                "processes, a smaller --accumulate, or --set batch_size to more"
            )
        for group in trainer.optimizers["model"].param_groups:
            group["lr"] *= batch.inputs.shape[1] / BPTT
        self._state = self._state.to(trainer.accelerator.device)
        self._read = torch.zeros_like(self._state)
        try:
            loss = trainer.descend("model", batch, self.loss)
        except RuntimeError as error:  # of oneDNN, which has LSTMs in bf16 with AVX-512 only
            precision = trainer.accelerator.mixed_precision
            if precision == "no" or "could not create a primitive" not in str(error):
                raise
            raise ValueError(
                f"--precision {precision}: torch has no such LSTM on this processor; leave it away"
            ) from error
        self._state = trainer.sum(self._read)  # every process has read its own streams
        return loss

    def metric(self, loss: float) -> dict[str, float]:
        """exp(loss)."""
        return {"perplexity": torch.tensor(loss, dtype=torch.float64).exp().item()}

    def cut(self, tokens: Tensor) -> Streams:
        """Ten streams."""
        return streams(tokens, EVALUATION_STREAMS)

    def predictions(self, model: nn.Module, text: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        """Window by window, from an empty state."""
        n = len(text.inputs)
        state = torch.zeros(n, self._state.shape[1], device=text.inputs.device)
        for inputs, targets in zip(*(torch.split(x, BPTT, 1) for x in text), strict=True) if n else ():
            logits, state, *_ = model(inputs, state)
            yield logits, targets

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """As for every language model; the next epoch begins at the beginning of the text, with an empty state."""
        self._state = torch.zeros_like(self._state)
        return super().evaluate(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The state of the streams."""
        return {"state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it up again."""
        self._state = state["state"]


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (n, t, vocabulary).

    What is missing at the end of a text counts as words without loss: parts of a batch weigh what they hold.
    """
    return total_loss(logits, targets) / targets.numel()


def total_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Its sum over the targets (n, t) that are there."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="sum")


def ptb_settings(model: str) -> Settings:
    """What the authors ran on Penn Treebank, from their scripts and their code, which drops some options of these.

    Fromage, which their scripts lack, is that of the reproduction (ReScience C, 2022). AdamW and RAdam have the
    learning rate that the paper's figure agrees with, and the reproduction: with 1e-2, which the scripts have for two
    and three layers, their own logs end 16 to 35 points of perplexity above the figure. EAdam, with AdaBelief's eps,
    and those behind it are ours.
    """
    layers, decay = LAYERS[model], {"weight_decay": 1.2e-6}
    lr = 1e-3 if layers == 1 else 1e-2
    adam = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, **decay}
    belief = SETTINGS[f"lstm-{layers}"].as_arguments()
    published = {
        "AdaBelief": belief,
        "SGD": {"lr": 30.0, **decay},
        "Adam": adam,
        "AdamW": {**adam, "lr": 1e-3},
        "RAdam": {**adam, "lr": 1e-3},
        "AdaBound": {**adam, "lr": 1e-2, "final_lr": 30.0, "gamma": 1e-3},
        "Yogi": {**adam, "lr": 1e-2, "eps": 1e-3, "initial_accumulator": 1e-6},
        "MSVAG": {"lr": 30.0, "beta": 0.9, **decay},
        "Fromage": {"lr": 1e-2},
        "EAdam": {**adam, "eps": belief["eps"]},
    }
    return and_rivals(published, **decay)


def _make_ptb(request: Request) -> Recurrent:
    options = request.options
    corpus = words(options["text"], request.data, vocabulary=options["vocabulary"])
    model = AWDLSTM(corpus.vocabulary, LAYERS[request.model], options["width"], options["dropout"])
    return Recurrent(request, corpus, model)


_PENN = {
    **{"text": "penn", "vocabulary": 10_000, "width": 1.0, "dropout": 1.0},
    **{"half_life": "steps", "max_norm": 0.25, "clip_value": 0.0},
}
_OTHERWISE = (
    "the validation set picks the epoch, for which the authors took the test set; SGD stays as it is, where their code "
    "may switch to averaged SGD, whose averages it does not use; the test text is read in 10 streams, each from an "
    "empty state, where theirs is read in 1"
)

TASKS = {
    "ptb-lstm": Task(
        **about("ptb-lstm"),
        metric=Metric("perplexity", higher_is_better=False),
        scales=lambda model: {
            "smoke": Scale(
                epochs=4,
                batch_size=4,
                options={**_PENN, "text": BOOK, "width": 0.1},
                note="four chapters of a book, batches of 4 instead of 20, a tenth of the width, 4 epochs: it shows "
                "that everything runs",
            ),
            "small": Scale(
                epochs=4,
                batch_size=20,
                options={**_PENN, "width": 0.15, "dropout": 0.25},
                note=f"0.15 of the width, a quarter of the rates of dropout, 4 epochs instead of 200; {_OTHERWISE}",
            ),
            "paper": Scale(
                epochs=200,
                batch_size=20,
                options=_PENN,
                note=_OTHERWISE,
            ),
        },
        settings=ptb_settings,
        make=_make_ptb,
        schedule=divide_at(100 / 200, 145 / 200),
        training_loss="training loss with its penalties",
    ),
}
