"""Texts: from folders, the hub and the embedded book."""

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adabelief.lab.data import text


def write(folder, names=("train.txt", "valid.txt", "test.txt"), lines=("a b a\nb\u2028<unk>\n", "b c\n", "a\n\nd\n")):
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, lines, strict=True):
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def spelled(corpus, numbers):
    return [[numbers[i] for i in part.tolist()] for part in corpus[:3]]


@pytest.mark.parametrize("pattern", ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens"])
def test_a_folder_is_read_word_by_word(tmp_path, pattern):
    corpus = text.words(data=write(tmp_path, [pattern.format(part) for part in ("train", "valid", "test")]))
    assert corpus.vocabulary == 4
    train, validation, test = spelled(corpus, ["a", "b", "<unk>", "<eos>"])
    assert train == ["a", "b", "a", "<eos>", "b", "<unk>", "<eos>"]
    assert validation == ["b", "<unk>", "<eos>"]
    assert test == ["a", "<eos>", "<eos>", "<unk>", "<eos>"]
    assert {part.dtype for part in corpus[:3]} == {torch.int64}


def test_without_marks_of_its_own_a_word_that_comes_once_is_unknown(tmp_path):
    corpus = text.words(data=write(tmp_path, lines=("a b a\n", "a b\n", "c\n")))
    assert spelled(corpus, ["a", "<unk>", "<eos>"]) == [
        ["a", "<unk>", "a", "<eos>"],
        ["a", "<unk>", "<eos>"],
        ["<unk>", "<eos>"],
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "valid.txt").unlink(), FileNotFoundError, r"folder has no valid.txt; .*--data FOLDER"),
        (
            lambda f: (f / "my.train.txt").write_text("a"),
            ValueError,
            "several texts for train: my.train.txt, train.txt",
        ),
        (lambda f: (f / "test.txt").write_text(" \n\n"), ValueError, r"test.txt has no words; give a text that has"),
        (lambda f: (f / "test.txt").write_bytes(b"\xff\xfe"), ValueError, r"test.txt is no text in UTF-8 .*convert it"),
        (
            lambda f: (f / "train.txt").write_text("<unk> " + " ".join(map(str, range(12)))),
            ValueError,
            r"train.txt has 14 different words, more than vocabulary=10; allow them with --set vocabulary=14",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(tmp_path, change, error, message):
    folder = write(tmp_path / "folder")
    change(folder)
    with pytest.raises(error, match=message):
        text.words(data=folder, vocabulary=10)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' is no folder; name one that is there, with --data FOLDER"):
        text.words(data=tmp_path / "nowhere")


def test_a_text_that_there_is_not_is_told():
    with pytest.raises(ValueError, match="there is no 'genesis'; there are penn, wikitext-2 and alice; or name --data"):
        text.words("genesis")


@pytest.mark.parametrize(
    ("name", "column", "asked"),
    [
        ("penn", "sentence", ("ptb-text-only/ptb_text_only", {"revision": "refs/convert/parquet"})),
        ("wikitext-2", "text", ("Salesforce/wikitext", {"name": "wikitext-2-v1"})),
    ],
)
def test_the_hub_s_texts_are_those_of_a_folder(tmp_path, monkeypatch, name, column, asked):
    def load_dataset(repository, **which):
        assert (repository, which) == asked
        parts = {"train": [" a b a ", "b <unk>"], "validation": ["b c"], "test": ["a", "", "d"]}
        return {part: {column: lines} for part, lines in parts.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for ours, theirs in zip(text.words(name)[:3], text.words(data=write(tmp_path))[:3], strict=True):
        assert torch.equal(ours, theirs)


def test_a_line_that_is_null_is_named(monkeypatch):
    lines = {"sentence": ["a b", None]}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: dict.fromkeys(("train", "validation", "test"), lines)
    )
    with pytest.raises(ValueError, match="penn, train, row 1 has no text: None in the column sentence; download it"):
        text.words("penn")


def test_no_hub_no_text(monkeypatch):
    def load_dataset(repository, **which):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(no route to the hub\); .*--data FOLDER"):
        text.words()


def test_the_book_in_words():
    corpus = text.words("alice")
    parts = [part.tolist() for part in corpus[:3]]
    assert corpus.vocabulary == len(set(parts[0]))
    lines = (sum(part.count(corpus.vocabulary - 1) for part in parts), len(text._book().splitlines()))
    assert lines[0] == lines[1] == 153  # <eos> has the last number, and stands after every line
    assert len(parts[1]) > 500
    assert len(parts[2]) > 500


def test_the_book_in_characters():
    corpus, content = text.characters(), text._book()
    characters = sorted(set(content))
    assert content.isascii()
    assert 25_000 < len(content) < 60_000
    assert corpus.vocabulary == len(characters)
    assert "".join(characters[i] for i in torch.cat(corpus[:3])) == content
    assert [round(10 * len(part) / len(content)) for part in corpus[:3]] == [8, 1, 1]


@given(length=st.integers(2, 60), n=st.integers(1, 12))
def test_streams_have_every_token_once_before_the_one_that_follows(length, n):
    tokens = torch.randperm(1000)[:length]
    inputs, targets = text.streams(tokens, n)
    assert inputs.shape == targets.shape == (n, -(-(length - 1) // n))
    there = targets != text.PADDING
    assert torch.equal(inputs[there], tokens[:-1])
    assert torch.equal(targets[there], tokens[1:])
    assert there.flatten().diff().sum() <= 1  # what is missing is missing at the end
