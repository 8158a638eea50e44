"""A small GPT: a Transformer that predicts the next token (Radford et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from adabelief.lab.models.transformer import Layer


class GPT(nn.Module):
    """Pre-normalized layers with causal attention, learned positions, and the embedding as the output matrix.

    Every weight starts from a normal distribution of standard deviation 0.02.

    Args:
        vocabulary: Different tokens.
        context: How many tokens it sees at most.
        width: Features of every token; the hidden layers have 4 times as many.
        layers: How many.
        heads: Heads of each attention.
        dropout: Rate after the embedding and each part of a layer.

    Raises:
        ValueError: If a number is less than 1, or the heads cannot share the width evenly.

    Example:
        >>> GPT(vocabulary=50, context=16, width=32)(torch.zeros(3, 16, dtype=torch.int64)).shape
        torch.Size([3, 16, 50])
    """

    def __init__(
        self, vocabulary: int, context: int, width: int = 128, layers: int = 4, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if min(context, layers, heads) < 1 or width % heads:
            raise ValueError(
                f"context={context}, layers={layers} and heads={heads} have to be at least 1, and width={width} a "
                "multiple of heads"
            )
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, 4 * width, heads, dropout, 0.0) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, t, vocabulary) of what follows each of the tokens (n, t), at most `context` of them."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embedding(tokens) + self.positions(places))
        causal = places[:, None] >= places
        for layer in self.layers:
            x, _ = layer(x, causal)
        return linear(self.norm(x), self.embedding.weight)
