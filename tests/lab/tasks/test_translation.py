"""Translation: pairs, subwords, batches, the Transformer against torch's, beam search against all there is, a run."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from itertools import pairwise, product

import datasets
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import BLEU
from torch import nn

from adabelief.lab.data import pairs
from adabelief.lab.data.pairs import Encoded, Pairs, ParallelCorpus, by_tokens, corpus, train_bpe
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.models.transformer import BOS, EOS, PAD, Attention, Transformer, beam_search
from adabelief.lab.optimizers import check
from adabelief.lab.task import Request
from adabelief.lab.tasks import task
from adabelief.lab.tasks.translation import SIGNATURE, Translation, bleu, mean
from adabelief.lab.trainer import Moment, Trainer, _split
from tests.lab.running import go, goes_on, numbers

TASK = task("translation")
TINY = {"layers": 1, "width": 16, "inner": 32, "heads": 2, "vocabulary": 300, "dropout": 0.0, "inner_dropout": 0.0}


def few(n=40) -> ParallelCorpus:
    return ParallelCorpus(*(Pairs(part.source[:n], part.target[:n]) for part in corpus("embedded")))


def workload(**options) -> Translation:
    torch.manual_seed(0)
    options = {**TASK.scales("")["smoke"].options, **TINY, **options}
    return Translation(Request("", 0, 128, options, None), few())


def transformer(vocabulary=12, **shape) -> Transformer:
    torch.manual_seed(1)
    shape = {"layers": 2, "width": 16, "inner": 24, "heads": 2, **shape}
    return Transformer(vocabulary, **shape).eval()


# Pairs


def test_embedded_pairs_are_translations_and_in_one_part_each():
    parts = corpus("embedded")
    assert [len(part.source) for part in parts] == [len(part.target) for part in parts] == [1000, 100, 100]
    whole = [pair for part in parts for pair in zip(*part, strict=True)]
    assert len(set(whole)) == len({german for german, _ in whole}) == 1200
    told = dict(whole)
    assert "today" in next(english for german, english in told.items() if german.startswith("heute"))
    assert all(
        ("den " in german) == any(f"den {a}en " in german for a in ("alt", "jung", "klein", "müd")) for german in told
    )


@pytest.mark.parametrize(("stem", "suffix"), [("val", ".gz"), ("valid", ""), ("dev", "")])
def test_folder(tmp_path, stem, suffix):
    for part, n in (("train", 3), (stem, 2), ("test", 1)):
        for language, text in (("de", "Ein Haus\u2028und Ähren "), ("en", "A house\r")):
            content = "".join(f"{text}{i}\r\n" for i in range(n)).encode()
            content = gzip.compress(content) if suffix else content
            (tmp_path / f"{part}.{language}{suffix}").write_bytes(content)
    found = corpus("multi30k", tmp_path)
    assert [len(part.source) for part in found] == [3, 2, 1]
    assert found.train.source[1] == "ein haus\u2028und ähren 1"
    assert found.train.target[2] == "a house\r2"


def break_folder(folder, how):
    if how == "no split":
        (folder / "test.en").unlink()
    elif how == "unequal":
        (folder / "valid.en").write_text("one\n")
    elif how == "empty":
        (folder / "test.en").write_text("")
        (folder / "test.de").write_text("")
    elif how == "latin":
        (folder / "train.de").write_bytes("Mädchen\nKind\n".encode("latin-1"))
    elif how == "gzip":
        (folder / "train.de").unlink()
        (folder / "train.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n")[:-6])


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("no split", FileNotFoundError, r"has no test\.en or test_2016_flickr\.en \(nor .*\.gz\).*--data FOLDER"),
        ("unequal", ValueError, r"valid\.de has 2 and .*valid\.en has 1 lines: they have to be translations"),
        ("empty", ValueError, r"test\.de is empty; put a sentence on each line"),
        ("latin", ValueError, r"train\.de is not in UTF-8 .* convert it"),
        ("gzip", ValueError, r"train\.de\.gz is no readable gzip file .* get it again"),
    ],
)
def test_a_folder_that_is_not_right_is_refused(tmp_path, how, error, message):
    for part, language in product(("train", "valid", "test"), ("de", "en")):
        (tmp_path / f"{part}.{language}").write_text("one\ntwo\n")
    corpus("iwslt14", tmp_path)
    break_folder(tmp_path, how)
    with pytest.raises(error, match=message):
        corpus("iwslt14", tmp_path)


def test_there_is_no_such_folder_or_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data='.*nothing' is no folder.*--data FOLDER"):
        corpus("iwslt14", tmp_path / "nothing")
    with pytest.raises(ValueError, match="corpus='wmt14': there are embedded, iwslt14, multi30k"):
        corpus("wmt14")


@pytest.mark.parametrize("nested", [True, False])
def test_download(monkeypatch, nested):
    rows = [{"de": f"Haus {i}", "en": f"House {i}"} for i in range(3)]
    table = datasets.Dataset.from_list(rows)
    if nested:
        features = datasets.Features(translation=datasets.Translation(["de", "en"]))
        table = datasets.Dataset.from_list([{"translation": row} for row in rows], features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table)
    found = corpus("iwslt14")
    assert asked == [(pairs.HUB["iwslt14"], part) for part in ("train", "validation", "test")]
    assert found.test == Pairs([f"haus {i}" for i in range(3)], [f"house {i}" for i in range(3)])


def test_a_download_that_fails_names_the_remedy(monkeypatch):
    def unreachable(name, split):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match=r"multi30k is not in the cache.*\(no route\).*--data FOLDER"):
        corpus("multi30k")


# Subwords


@pytest.fixture(scope="module")
def bpe():
    return train_bpe((text for side in few().train for text in side), 400)


@given(st.text().map(str.strip))
def test_every_text_survives_the_subwords(bpe, text):
    assert bpe.decode(bpe.encode(text).ids).removeprefix(" ") == text


def test_subwords(bpe):
    assert 260 < bpe.get_vocab_size() <= 400
    assert [bpe.token_to_id(token) for token in pairs.SPECIAL] == [PAD, BOS, EOS]
    assert not {PAD, BOS, EOS} & set(bpe.encode("a </s> <pad> b").ids)
    assert len(bpe.encode("der junge hund sieht").ids) < len("der junge hund sieht") / 2
    again = train_bpe((text for side in few().train for text in side), 400)
    assert again.to_str() == bpe.to_str()


def test_a_vocabulary_without_room_is_refused():
    assert train_bpe(["a"], 259).get_vocab_size() == 259
    with pytest.raises(ValueError, match="vocabulary=258 is too small: 259 tokens are needed"):
        train_bpe(["a"], 258)


# Batches


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60),
    st.integers(9, 40),
    st.integers(0, 5),
)
def test_batches_by_tokens(lengths, limit, seed):
    encoded = Encoded([torch.ones(s) for s, _ in lengths], [torch.ones(t + 1) for _, t in lengths])
    drawn, again, other = (by_tokens(encoded, limit, torch.Generator().manual_seed(s)) for s in (seed, seed, seed + 1))
    plain = by_tokens(encoded, limit)
    assert drawn == again
    assert len(drawn) == len(other) == len(plain)
    for batches in (drawn, other, plain):
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert all(len(batch) * max(max(lengths[i]) for i in batch) <= limit for batch in batches)
    # Greedy: the first pair of a batch had no room in the one before.
    for batch, following in pairwise(plain):
        widest = max(max(lengths[i]) for i in [*batch, following[0]])
        assert (len(batch) + 1) * widest > limit


def test_batches_differ_from_epoch_to_epoch():
    made = workload()
    first, again, second = (list(made.batches(epoch)) for epoch in (0, 0, 1))
    assert len(first) == len(second) == made.steps_per_epoch > 3
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [len(batch.source) for batch in first] != [len(batch.source) for batch in second]


def test_a_sentence_above_the_limit_is_refused():
    with pytest.raises(ValueError, match="batch_size=8 tokens: there is a sentence of 9; --set batch_size"):
        by_tokens(Encoded([torch.ones(9)], [torch.ones(3)]), 8)


# Loss


def test_loss_is_torch_s_on_the_tokens_that_are_no_padding():
    made = workload()
    batch = max(made.batches(0), key=lambda batch: int((batch.target == PAD).sum()))
    assert (batch.target == PAD).any()
    logits = made.modules["model"](batch.source, batch.target[:, :-1])
    kept = batch.target[:, 1:] != PAD
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(logits[kept], batch.target[:, 1:][kept])
    torch.testing.assert_close(made.loss(batch), expected)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_weighted_by_their_sentences_are_the_batch(parts):
    made = workload()
    batch = max(made.batches(0), key=lambda batch: int((batch.target == PAD).sum()))
    split = list(_split(batch, parts))
    assert len({int((part.target != PAD).sum()) / len(part.target) for part in split}) > 1
    total = sum(made.loss(part) * len(part.source) / len(batch.source) for part in split)
    torch.testing.assert_close(total, made.loss(batch))


# The model


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


# Beam search


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


# The task


def test_schedule():
    factors = {step: TASK.schedule(Moment(0, 55, step - 1)) for step in (1, 4000, 8000, 32_000)}
    assert factors == pytest.approx({1: 1 / 8000, 4000: 0.5, 8000: 1.0, 32_000: 0.5})
    assert TASK.schedule(Moment(0, 11, 1599)) == pytest.approx(1.0)  # a fifth of the epochs, a fifth of the warm-up


def test_settings():
    settings = TASK.settings("")
    for name, own in settings.items():
        check(name, own)
    assert settings["AdaBelief"]["rectify"]
    assert {own["lr"] for name, own in settings.items() if name != "SGD"} == {1.5e-3}


def test_bleu_is_what_the_signature_says():
    scorer = BLEU(lowercase=True)
    ours, theirs = ["ein hund läuft .", "The cat sat on the mat."], ["ein Hund läuft .", "the cat sat on a mat."]
    assert bleu(ours, theirs) == scorer.corpus_score(ours, [theirs]).score > 40
    assert str(scorer.get_signature()).rpartition("|")[0] == SIGNATURE
    assert SIGNATURE in TASK.summary


def trainer(made: Translation) -> Trainer:
    (config,) = plan(TASK, scale="smoke", epochs=7)
    return trainer_for(made, config, Accelerator(cpu=True))


def test_bleu_is_of_the_mean_of_the_last_weights(monkeypatch):
    made = workload(average=3)
    seen = []
    monkeypatch.setattr(made, "_translate", lambda pairs, trainer: seen.append(snapshot(model)) or [""] * 40)
    model, trained_by = made.modules["model"], trainer(made)
    trail = []
    for epoch in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(epoch)))
        trail.append(snapshot(model))
        made.evaluate(trained_by)
        assert all(torch.equal(x, y) for x, y in zip(trail[-1], snapshot(model), strict=True))
        expected = [torch.stack(last).double().mean(0).float() for last in zip(*trail[-3:], strict=True)]
        for weights in seen[-2:]:
            torch.testing.assert_close(weights, expected)
    kept = workload(average=3)
    kept.load_state_dict(made.state_dict())
    torch.testing.assert_close(list(mean(kept._recent).values()), expected)


def snapshot(model: nn.Module) -> list[torch.Tensor]:
    return [x.clone() for x in model.state_dict().values()]


def test_losses_are_means_over_tokens():
    made = workload()
    measured = made.evaluate(trainer(made))
    losses = []
    for source, target in zip(*made._held["test"], strict=True):
        logits = made.modules["model"].eval()(source[None], target[None, :-1])[0]
        losses.append(nn.functional.cross_entropy(logits, target[1:], reduction="none"))
    assert measured["test_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert (measured["validation_examples"], measured["test_examples"]) == (40, 40)


def test_weights_that_are_no_numbers_are_measured_too():
    made = workload()
    with torch.no_grad():
        made.modules["model"].embedding.weight.fill_(math.nan)
    measured = made.evaluate(trainer(made))
    assert math.isnan(measured["validation_loss"])
    assert measured["test_BLEU"] == 0


def test_translations_keep_the_order_of_the_sources(monkeypatch):
    made = workload()
    model = trainer(made)
    monkeypatch.setattr(
        "adabelief.lab.tasks.translation.beam_search",
        lambda model, source, beam: [[t for t in row if t not in (PAD, EOS)] for row in source.tolist()],
    )
    assert made._translate(made._held["test"], model) == few().test.source


@pytest.mark.parametrize("name", ["beam", "average"])
def test_options_below_one_are_refused(name):
    options = {**TASK.scales("")["smoke"].options, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TASK.make(Request("", 0, 128, options, None))


# Runs


@pytest.mark.parametrize("at", [2, 13])
def test_a_run_that_stops_ends_with_the_same_bits(tmp_path, at):
    short = replace(TASK, make=lambda request: Translation(request, few()))
    (config,) = plan(short, scale="smoke", epochs=3, changes={**TINY, "dropout": 0.2, "beam": 2})
    result, whole = go(tmp_path / "whole", config, short)
    again = goes_on(tmp_path / "parts", config, short, at, whole=whole)
    assert len(numbers(whole)) > at + 3
    assert again["test"] == result["test"]


def test_smoke(tmp_path):
    (config,) = plan(TASK, scale="smoke")
    result, folder = go(tmp_path, config, TASK)
    epochs = [line for line in numbers(folder) if "train_loss" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["validation_loss"] < 1.0 < 4.0 < epochs[0]["validation_loss"]
    assert result["test"] > 20
    assert epochs[-1]["test_examples"] == 100
