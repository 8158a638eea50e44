"""The Transformer for translation (Vaswani et al., arXiv:1706.03762), pre-norm, and beam search with it."""

from __future__ import annotations

import math
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention

PAD, BOS, EOS = 0, 1, 2
"""Tokens: what fills a row up, what a translation begins with, what every sentence ends with."""

KeysValues = tuple[Tensor, Tensor]
"""(n, heads, length, width / heads), both."""


class Attention(nn.Module):
    """Multi-head attention in two parts, so that keys and values can be kept while a translation grows."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def project(self, memory: Tensor) -> KeysValues:
        """Keys and values of what is attended to, (n, length, width)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor) -> Tensor:
        """What the queries of `x` (n, t, width) find where `mask` (broadcast to (n, heads, t, length)) is true."""
        dropout = self.dropout if self.training else 0.0
        # Not by flash attention: on CPUs, its backward pass in bf16 is many times slower.
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            found = scaled_dot_product_attention(self._split(self.query(x)), *keys_values, mask, dropout)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A layer of the encoder, or with `cross` of the decoder; each part is x + dropout(part(norm(x)))."""

    def __init__(
        self, width: int, inner: int, heads: int, dropout: float, inner_dropout: float, *, cross: bool = False
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, inner_dropout)
        self.cross = Attention(width, heads, inner_dropout) if cross else None
        self.inner = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(inner_dropout), nn.Linear(inner, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        past: KeysValues | None = None,
        memory: KeysValues | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The new x, and keys and values of all positions so far."""
        normed = self.norms[0](x)
        keys, values = self.attention.project(normed)
        if past:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        x = x + self.dropout(self.attention(normed, (keys, values), mask))
        if self.cross:
            x = x + self.dropout(self.cross(self.norms[1](x), memory, memory_mask))
        x = x + self.dropout(self.inner(self.norms[-1](x)))
        return x, (keys, values)


class State(NamedTuple):
    """What the decoder knows of n sentences: the encoded sources, layer by layer, and the tokens that it has seen."""

    mask: Tensor
    memory: tuple[KeysValues, ...]
    past: tuple[KeysValues, ...] = ()

    def select(self, rows: Tensor) -> State:
        """What it knows of these sentences, in this order; one may be taken several times."""
        memory, past = (tuple((k[rows], v[rows]) for k, v in layers) for layers in (self.memory, self.past))
        return State(self.mask[rows], memory, past)


class Transformer(nn.Module):
    """Encoder and decoder, with one embedding for sources, targets and the output.

    Positions are sinusoids, so a sentence may be of any length.

    Args:
        vocabulary: How many tokens there are.
        layers: Layers of the encoder, and as many of the decoder.
        width: Features of the embedding and between layers.
        inner: Features within the feed-forward parts.
        heads: Heads of attention; they share the width.
        dropout: After embedding, attention and feed-forward parts.
        inner_dropout: Dropout of attention's weights, and within feed-forward parts.

    Raises:
        ValueError: If the heads cannot share the width evenly, or it is odd.

    Example:
        >>> model = Transformer(100, layers=1, width=16, inner=32, heads=2)
        >>> model(torch.tensor([[7, 5, EOS]]), torch.tensor([[BOS, 9]])).shape
        torch.Size([1, 2, 100])
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        layers: int = 6,
        width: int = 512,
        inner: int = 1024,
        heads: int = 4,
        dropout: float = 0.3,
        inner_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"width={width} has to be even, and a multiple of heads={heads}")
        shape = (width, inner, heads, dropout, inner_dropout)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.encoder = nn.ModuleList(Layer(*shape) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(*shape, cross=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (n, t, vocabulary) of what follows every position of `target` (n, t), which begins with BOS.

        Args:
            source: (n, s) tokens; every row ends with EOS, and then PAD.
            target: (n, t) tokens.
        """
        return self.decode(target, self.encode(source))[0]

    def encode(self, source: Tensor) -> State:
        """What the decoder needs of the sources (n, s)."""
        x, mask = self._embed(source, 0), (source != PAD)[:, None, None]
        for layer in self.encoder:
            x, _ = layer(x, mask)
        x = self.norms[0](x)
        return State(mask, tuple(layer.cross.project(x) for layer in self.decoder))  # type: ignore[operator, union-attr]

    def decode(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of what follows each of some more tokens (n, t), and the state after them."""
        before = state.past[0][0].shape[2] if state.past else 0
        t = tokens.shape[1]
        causal = torch.ones(t, before + t, dtype=torch.bool, device=tokens.device).tril(before)
        x, past = self._embed(tokens, before), []
        for i, layer in enumerate(self.decoder):
            x, seen = layer(x, causal, state.past[i] if state.past else None, state.memory[i], state.mask)
            past.append(seen)
        return linear(self.norms[1](x), self.embedding.weight), state._replace(past=tuple(past))

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        width = self.embedding.embedding_dim
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        frequencies = torch.exp(torch.arange(0, width, 2, device=tokens.device) * (-math.log(1e4) / width))
        angles = places[:, None] * frequencies
        embedded: Tensor = self.dropout(
            self.embedding(tokens) * math.sqrt(width) + torch.cat([angles.sin(), angles.cos()], 1)
        )
        return embedded


@torch.no_grad()
def beam_search(model: Transformer, source: Tensor, beam: int = 5, penalty: float = 1.0) -> list[list[int]]:
    """The best translations that a beam finds, judged by log-probability / length^penalty.

    The length counts EOS. Every step extends the `beam` best unfinished translations of a sentence; those of the best
    extended ones that end are finished. A sentence is done when `beam` translations are, or at twice its own length
    plus 10 tokens, where they have to end: what else is in the batch makes no difference. A beam of 1 is greedy.

    Args:
        model: In evaluation mode.
        source: (n, s) tokens as `Transformer.forward` takes them.
        beam: How many unfinished translations are kept.
        penalty: 0 prefers short translations, 1 judges by the mean over the tokens.

    Returns:
        The tokens of n translations, without BOS and EOS.
    """
    n, device = len(source), source.device
    limits = 2 * (source != PAD).sum(1) + 10
    state = model.encode(source).select(torch.arange(n, device=device).repeat_interleave(beam))
    tokens = torch.full((n * beam, 1), BOS, device=device)
    scores = torch.full((n, beam), -math.inf, device=device)
    scores[:, 0] = 0.0  # all beams of a sentence are alike at first
    active, finished = torch.arange(n, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    best, found = [-math.inf] * n, [[] for _ in range(n)]  # type: tuple[list[float], list[list[int]]]
    for length in count(1):
        logits, state = model.decode(tokens[:, -1:], state)
        steps = logits.float().log_softmax(-1).view(len(active), beam, -1)
        steps[..., [PAD, BOS]] = -math.inf
        steps[limits == length, :, EOS + 1 :] = -math.inf
        vocabulary = steps.shape[-1]
        # Of twice as many candidates no more than half can end, one for each beam.
        candidates, chosen = (scores[..., None] + steps).flatten(1).topk(2 * beam)
        origin, token = chosen // vocabulary, chosen % vocabulary
        ends = (token == EOS) & (candidates > -math.inf)
        ending = ends[:, :beam]
        ended, which = torch.where(ending, candidates[:, :beam] / length**penalty, -math.inf).max(1)
        rows = torch.arange(len(active), device=device) * beam
        endings = tokens[rows + origin.gather(1, which[:, None])[:, 0], 1:].tolist()
        for sentence, score, ending_tokens in zip(active.tolist(), ended.tolist(), endings, strict=True):
            if score > best[sentence]:
                best[sentence], found[sentence] = score, ending_tokens
        finished += ending.sum(1)
        on = (finished < beam) & (length < limits)
        if not on.any():
            return found
        scores, kept = candidates.masked_fill(ends, -math.inf).topk(beam)
        origin, token = origin.gather(1, kept), token.gather(1, kept)
        sources = (rows[:, None] + origin)[on].flatten()
        tokens = torch.cat([tokens[sources], token[on].flatten()[:, None]], 1)
        state = state.select(sources)
        scores, active, finished, limits = scores[on], active[on], finished[on], limits[on]
    raise AssertionError("count never ends")
