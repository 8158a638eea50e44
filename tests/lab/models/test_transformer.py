"""The Transformer against torch's, and beam search against all there is."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from adabelief.lab.models.transformer import BOS, EOS, PAD, Attention, Transformer, beam_search


def transformer(vocabulary=12, **shape) -> Transformer:
    torch.manual_seed(1)
    shape = {"layers": 2, "width": 16, "inner": 24, "heads": 2, **shape}
    return Transformer(vocabulary, **shape).eval()


def test_parameters_are_the_published_ones():
    """fairseq's log has 39,469,056 for the same layers with two embeddings, of 8,848 and 6,632, and no last norms."""
    with torch.device("meta"):
        model = Transformer(10_000)
    layers_alone = 39_469_056 - (8_848 + 6_632) * 512
    assert sum(p.numel() for p in model.parameters()) == layers_alone + 10_000 * 512 + 2 * 2 * 512


def test_embeddings_are_tied():
    model = transformer()
    assert [tuple(p.shape) for p in model.parameters()].count((12, 16)) == 1
    source, target = torch.tensor([[5, EOS]]), torch.tensor([[BOS, 7]])
    before = model(source, target)
    with torch.no_grad():
        model.embedding.weight[9] += 1.0
    changed = (model(source, target) != before).any(1)[0]
    assert changed.tolist() == [i == 9 for i in range(12)]


def copied(attention: Attention, theirs: nn.MultiheadAttention) -> None:
    parts = (attention.query, attention.key, attention.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(attention.out.state_dict())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_it_is_torch_s_transformer():
    """Between embedding and output, with the same weights; the embedding as the paper has it."""
    ours = transformer(heads=4)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.5)
    theirs = nn.Transformer(16, 4, 2, 2, 24, batch_first=True, norm_first=True).eval()
    for half, stack, norm in ((ours.encoder, theirs.encoder, 0), (ours.decoder, theirs.decoder, 1)):
        stack.norm.load_state_dict(ours.norms[norm].state_dict())
        for layer, copy in zip(half, stack.layers, strict=True):
            copied(layer.attention, copy.self_attn)
            if layer.cross:
                copied(layer.cross, copy.multihead_attn)
            copy.linear1.load_state_dict(layer.inner[0].state_dict())
            copy.linear2.load_state_dict(layer.inner[3].state_dict())
            for i, own in enumerate(layer.norms, 1):
                getattr(copy, f"norm{i}").load_state_dict(own.state_dict())
    source, target = torch.tensor([[4, 5, 6, EOS], [7, EOS, PAD, PAD]]), torch.tensor([[BOS, 8, 9], [BOS, 3, 3]])
    padding, causal = source == PAD, ~torch.ones(3, 3, dtype=torch.bool).tril()
    out = theirs(
        *(embedded(ours, source), embedded(ours, target)),
        **{"tgt_mask": causal, "src_key_padding_mask": padding, "memory_key_padding_mask": padding},
    )
    torch.testing.assert_close(ours(source, target), out @ ours.embedding.weight.T, rtol=1e-4, atol=1e-4)


def embedded(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    width = model.embedding.embedding_dim
    angles = [[place / 10_000 ** (2 * i / width) for i in range(width // 2)] for place in range(tokens.shape[1])]
    places = torch.tensor([[*map(math.sin, row), *map(math.cos, row)] for row in angles])
    return model.embedding.weight[tokens] * width**0.5 + places


def test_what_follows_does_not_change_what_came_before():
    model, source = transformer(), torch.tensor([[4, 5, 6, EOS]])
    target = torch.tensor([[BOS, 7, 8, 9, 10]])
    for at in range(1, 5):
        other = target.clone()
        other[0, at] = 3
        a, b = model(source, target), model(source, other)
        torch.testing.assert_close(a[:, :at], b[:, :at], rtol=0, atol=0)
        assert not torch.allclose(a[:, at:], b[:, at:])


def test_padding_changes_nothing():
    model = transformer()
    source, target = torch.tensor([[4, 5, EOS]]), torch.tensor([[BOS, 7, 8]])
    alone = model(source, target)
    sources = torch.tensor([[4, 5, EOS, PAD, PAD], [4, 5, 6, 7, EOS]])
    targets = torch.tensor([[BOS, 7, 8, EOS, PAD], [BOS, 9, 9, 9, 9]])
    torch.testing.assert_close(model(sources, targets)[:1, :3], alone)


def test_word_order_matters():
    model, target = transformer(), torch.tensor([[BOS, 7]])
    a, b = (model(torch.tensor([source]), target) for source in ([4, 5, EOS], [5, 4, EOS]))
    assert not torch.allclose(a, b)


def test_decoding_token_by_token_is_decoding_at_once():
    model = transformer()
    source, target = torch.tensor([[4, 5, EOS], [6, EOS, PAD]]), torch.tensor([[BOS, 7, 8, 9], [BOS, 3, 4, 5]])
    state, steps = model.encode(source), []
    for column in target.split([1, 2, 1], dim=1):
        logits, state = model.decode(column, state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), model(source, target))


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width=10 has to be even, and a multiple of heads=4"):
        Transformer(10, width=10, heads=4)


def peaked(seed: int, vocabulary: int) -> Transformer:
    """Random weights whose predictions differ much from place to place."""
    torch.manual_seed(seed)
    model = Transformer(vocabulary, layers=1, width=8, inner=8, heads=2).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.8)
    return model


@torch.no_grad()
def everything(model: Transformer, source: torch.Tensor, words: list[int], penalty: float) -> list[int]:
    """The best of all translations up to the limit, each judged by the whole model."""
    most = 2 * source.shape[1] + 10 - 1
    rows = torch.tensor(list(product(words, repeat=most)))
    targets = torch.cat([torch.full((len(rows), 1), BOS), rows], 1)
    logs = model(source.expand(len(rows), -1), targets).log_softmax(-1)
    so_far = torch.cat([torch.zeros(len(rows), 1), logs[:, :-1].gather(2, rows[..., None])[..., 0].cumsum(1)], 1)
    lengths = torch.arange(1, most + 2)
    scores = (so_far + logs[..., EOS]) / lengths**penalty
    row, words_kept = divmod(int(scores.argmax()), most + 1)
    return rows[row, :words_kept].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best(seed, penalty):
    model, source = peaked(seed, 5), torch.tensor([[4, EOS]])
    assert beam_search(model, source, beam=2**13, penalty=penalty) == [everything(model, source, [3, 4], penalty)]


@torch.no_grad()
def greedy(model: Transformer, source: torch.Tensor) -> list[int]:
    tokens, limit = [BOS], 2 * source.shape[1] + 10
    while len(tokens) < limit:
        logits = model(source, torch.tensor([tokens]))[0, -1]
        logits[[PAD, BOS]] = -math.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == EOS:
            return tokens[1:-1]
    return tokens[1:]


SOURCES = [[4, 5, EOS], [6, EOS], [7, 8, 9, 4, EOS], [9, 9, EOS], [5, EOS], [3, 11, 10, EOS]]


def padded(sources):
    return nn.utils.rnn.pad_sequence(list(map(torch.tensor, sources)), batch_first=True, padding_value=PAD)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed):
    model = peaked(seed, 12)
    assert beam_search(model, padded(SOURCES), beam=1) == [greedy(model, torch.tensor([row])) for row in SOURCES]


def test_greedy_translations_are_not_all_at_the_limit():
    lengths = {
        len(greedy(peaked(seed, 12), torch.tensor([row]))) < 2 * len(row) + 9 for seed in range(5) for row in SOURCES
    }
    assert lengths == {True, False}


@pytest.mark.parametrize("seed", range(3))
def test_the_others_of_a_batch_make_no_difference(seed):
    model = peaked(seed, 12)
    together = beam_search(model, padded(SOURCES), beam=4)
    assert together == [beam_search(model, torch.tensor([row]), beam=4)[0] for row in SOURCES]
    assert all(not {PAD, BOS, EOS} & set(tokens) for tokens in together)
