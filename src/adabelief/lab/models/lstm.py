"""A plain LSTM, and AWD-LSTM of Merity, Keskar and Socher (Regularizing and Optimizing LSTM Language Models, 2018)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import dropout, linear

EMBEDDING, HIDDEN = 400, 1150
WORDS, INPUT, BETWEEN, OUTPUT, RECURRENT = 0.1, 0.4, 0.25, 0.4, 0.5
"""Rates of dropout: of words, of the first layer's input, between layers, of the last one's output, of weights."""


class Prediction(NamedTuple):
    """What the network says of a window of text.

    Attributes:
        logits: Scores of the next word, (n, t, vocabulary).
        state: After the window, (n, state_size).
        hidden: The last layer's output, (n, t, embedding).
        dropped: The same after dropout.
    """

    logits: Tensor
    state: Tensor
    hidden: Tensor
    dropped: Tensor


class AWDLSTM(nn.Module):
    """A stack of LSTMs over words whose recurrent weights are dropped, the embedding being the output matrix too.

    In training, words are dropped from the vocabulary, features of every layer's input and of the last one's output
    (the same ones at all times of a window), and single entries of the matrices from hidden state to hidden state: all
    drawn anew for every window.

    Args:
        vocabulary: Different words.
        layers: 1,150 units in each, but as many as the embedding has, 400, in the last.
        width: Factor on 400 and 1,150.
        dropout: Factor on the rates of dropout; 0 is none.

    Attributes:
        state_size: Numbers in the state of one stream: every layer's hidden state and cell.

    Raises:
        ValueError: If `layers` is less than 1, `width` leaves nothing of a layer, or `dropout` is no factor for rates.

    Example:
        >>> model = AWDLSTM(vocabulary=50, layers=2, width=0.05)
        >>> tokens = torch.zeros(3, 7, dtype=torch.int64)
        >>> model(tokens, torch.zeros(3, model.state_size)).logits.shape
        torch.Size([3, 7, 50])
    """

    def __init__(self, vocabulary: int, layers: int = 3, width: float = 1.0, dropout: float = 1.0) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: give at least 1")
        if not (math.isfinite(width) and round(EMBEDDING * width) >= 1):
            raise ValueError(f"width={width} leaves nothing of a layer of {EMBEDDING}; 1 is the published network")
        if not 0 <= dropout < 1 / RECURRENT:
            raise ValueError(f"dropout={dropout}: give a factor from 0 to less than {1 / RECURRENT:g}; 1 is published")
        embedding, hidden = round(EMBEDDING * width), round(HIDDEN * width)
        sizes = [embedding, *[hidden] * (layers - 1), embedding]
        self._factor = dropout
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.layers = nn.ModuleList(nn.LSTM(inputs, outputs, batch_first=True) for inputs, outputs in pairwise(sizes))
        self.state_sizes = [size for size in sizes[1:] for _ in ("hidden", "cell")]
        self.state_size = sum(self.state_sizes)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, state: Tensor) -> Prediction:
        """Reads a window of every stream, (n, t), from the state that the one before left, (n, state_size)."""
        kept = dropout(tokens.new_ones(len(self.bias), 1, dtype=torch.float32), self._rate(WORDS), self.training)
        x = locked_dropout(self.embedding(tokens) * kept[tokens], self._rate(INPUT), self.training)
        before, after = torch.split(state, self.state_sizes, 1), []
        for i, layer in enumerate(self.layers):
            weight = dropout(layer.weight_hh_l0, self._rate(RECURRENT), self.training)  # type: ignore[arg-type]
            h, c = (part[None].contiguous() for part in before[2 * i : 2 * i + 2])
            hidden, (h, c) = functional_call(layer, {"weight_hh_l0": weight}, (x, (h, c)))
            after += [h[0], c[0]]
            last = i + 1 == len(self.layers)
            x = locked_dropout(hidden, self._rate(OUTPUT if last else BETWEEN), self.training)
        return Prediction(linear(x, self.embedding.weight, self.bias), torch.cat(after, 1), hidden, x)

    def _rate(self, published: float) -> float:
        return self._factor * published


class CharLSTM(nn.Module):
    """Embedding, LSTM and a linear layer, from an empty state.

    Args:
        vocabulary: Different tokens.
        width: Features of the embedding and of every layer.
        layers: How many.
        dropout: Rate before the linear layer.

    Raises:
        ValueError: If there is no layer or it has no width, or the rate is no share.

    Example:
        >>> CharLSTM(vocabulary=50, width=16)(torch.zeros(3, 7, dtype=torch.int64)).shape
        torch.Size([3, 7, 50])
    """

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if min(width, layers) < 1:
            raise ValueError(f"width={width} and layers={layers} have to be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: give a rate, at least 0 and below 1")
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, t, vocabulary) of what follows each of the tokens (n, t)."""
        hidden, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.out(self.dropout(hidden))
        return logits


def locked_dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Drops features of each of n sequences, (n, t, features): the same ones at all times."""
    return x * dropout(x.new_ones(len(x), 1, x.shape[2]), rate, training)
