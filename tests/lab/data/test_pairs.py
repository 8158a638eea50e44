"""Sentence pairs: from folders and the hub, as subwords, in batches."""

from __future__ import annotations

import gzip
from itertools import pairwise, product

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adabelief.lab.data import pairs
from adabelief.lab.data.pairs import Encoded, Pairs, ParallelCorpus, by_tokens, corpus, train_bpe
from adabelief.lab.models.transformer import BOS, EOS, PAD


def few(n=40) -> ParallelCorpus:
    return ParallelCorpus(*(Pairs(part.source[:n], part.target[:n]) for part in corpus("embedded")))


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


def test_a_row_without_a_text_is_named(monkeypatch):
    table = datasets.Dataset.from_list([{"de": "Haus", "en": "House"}, {"de": None, "en": "Tree"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    with pytest.raises(ValueError, match="multi30k, train, row 1 has no text: None in the column de; download it"):
        corpus("multi30k")


def test_a_download_that_fails_names_the_remedy(monkeypatch):
    def unreachable(name, split):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match=r"multi30k is not in the cache.*\(no route\).*--data FOLDER"):
        corpus("multi30k")


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


def test_a_sentence_above_the_limit_is_refused():
    with pytest.raises(ValueError, match="batch_size=8 tokens: there is a sentence of 9; --set batch_size"):
        by_tokens(Encoded([torch.ones(9)], [torch.ones(3)]), 8)
