"""Texts for the lab as tokens: words from a folder, the hub or the embedded book, and the characters of that book.

The book, `alice.txt`, is chapters I to IV of Lewis Carroll's Alice's Adventures in Wonderland (1865), in the public
domain; a line is a paragraph or a line of verse.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from adabelief.lab.data import hub

PARTS = ("train", "valid", "test")
SUFFIXES = (".txt", ".tokens")
END, UNKNOWN = "<eos>", "<unk>"
PADDING = -100
"""Where a target is missing; what `torch.nn.functional.cross_entropy` passes over."""

BOOK = "alice"
HUB: Mapping[str, tuple[str, Mapping[str, str], str]] = {
    "penn": ("ptb-text-only/ptb_text_only", {"revision": "refs/convert/parquet"}, "sentence"),
    "wikitext-2": ("Salesforce/wikitext", {"name": "wikitext-2-v1"}, "text"),
}
"""Texts of the Hugging Face hub: the repository, which of its texts, and the column of lines."""

T = TypeVar("T")


class TokenCorpus(NamedTuple):
    """The tokens (n,) of the three parts in int64, and how many different ones there are."""

    train: Tensor
    validation: Tensor
    test: Tensor
    vocabulary: int


class Streams(NamedTuple):
    """A text cut into n of equal length: inputs (n, t), and the token that follows each, (n, t)."""

    inputs: Tensor
    targets: Tensor


class _Part(NamedTuple):
    name: str
    sentences: Sequence[Sequence[str]]


def words(text: str = "penn", data: Path | None = None, *, vocabulary: int = 10_000) -> TokenCorpus:
    """The words of a text, `<eos>` after each of its lines, numbered as they first come up in its training part.

    A text whose training part has `<unk>` is taken as it is. In any other, `<unk>` stands for the words that its
    training part has but once. In both it stands for the words that are in the other parts only.

    Args:
        text: "penn" (Penn Treebank) or "wikitext-2", from the hub; or "alice", the embedded book.
        data: A folder with train.txt, valid.txt and test.txt (or train.tokens, ptb.train.txt, wiki.train.tokens and
            so on), of words with spaces between. Where it is given, it is read instead of `text`.
        vocabulary: How many different tokens there may be.

    Raises:
        FileNotFoundError: If a file is missing, or the hub cannot be reached.
        ValueError: If there is no such text, a file has no text, or there are more different tokens.

    Example:
        >>> corpus = words("alice")
        >>> corpus.vocabulary, len(corpus.train)
        (629, 8651)
    """
    train, validation, test = _read(text) if data is None else [_file(data, part) for part in PARTS]
    counts = Counter(word for sentence in train.sentences for word in sentence)
    least = 1 if UNKNOWN in counts else 2
    known = [word for word, count in counts.items() if count >= least]
    numbers = {word: i for i, word in enumerate(dict.fromkeys((*known, UNKNOWN, END)))}
    if len(numbers) > vocabulary:
        raise ValueError(
            f"{train.name} has {len(numbers):,} different words, more than vocabulary={vocabulary}; "
            f"allow them with --set vocabulary={len(numbers)}"
        )
    return TokenCorpus(
        _numbered(train, numbers), _numbered(validation, numbers), _numbered(test, numbers), len(numbers)
    )


def characters(text: str = BOOK, data: Path | None = None, *, held_out: int | None = None) -> TokenCorpus:
    """The characters of a text, numbered in their order.

    Of the embedded book the first 80 % are for training, then 10 % for validation, 10 % for the test. Of another text
    they are those of its words with single spaces between, and a line feed after each of its lines.

    Args:
        text: "alice", the embedded book, or a text of `words`.
        data: A folder as `words` takes it; read instead of `text`, unless that is the book.
        held_out: Keep only the first so many characters of the validation text and of the test text; None for all.

    Raises:
        FileNotFoundError: If a file is missing, or the hub cannot be reached.
        ValueError: If there is no such text, a file has no text, or `held_out` is less than 2.

    Example:
        >>> corpus = characters()
        >>> corpus.vocabulary, len(corpus.train)
        (64, 36081)
    """
    if held_out is not None and held_out < 2:
        raise ValueError(f"held_out={held_out}: give at least 2 characters, or none for all, with --set held_out=N")
    if text == BOOK:
        train, *others = map("".join, _by_position(_book()))
    else:
        parts = _read(text) if data is None else [_file(data, part) for part in PARTS]
        train, *others = ("".join(" ".join(line) + "\n" for line in part.sentences) for part in parts)
        for part, content in zip(parts, (train, *others), strict=True):
            if not content.strip():
                raise ValueError(f"{part.name} has no words; give a text that has")
    numbers = {character: i for i, character in enumerate(sorted(set(train).union(*others)))}
    kept = (train, *(content[:held_out] for content in others))
    train_tokens, validation, test = (torch.tensor([numbers[character] for character in part]) for part in kept)
    return TokenCorpus(train_tokens, validation, test, len(numbers))


def streams(tokens: Tensor, n: int) -> Streams:
    """Cuts a text into n streams. Every token but the first is a target once; what is missing at the end is `PADDING`.

    Args:
        tokens: (m,), at least 2.
        n: How many.

    Example:
        >>> streams(torch.arange(6), 2)
        Streams(inputs=tensor([[0, 1, 2],
                [3, 4, 0]]), targets=tensor([[   1,    2,    3],
                [   4,    5, -100]]))
    """
    targets = len(tokens) - 1
    missing = -targets % n
    return Streams(
        pad(tokens[:-1], (0, missing)).view(n, -1),
        pad(tokens[1:], (0, missing), value=PADDING).view(n, -1),
    )


def _numbered(part: _Part, numbers: Mapping[str, int]) -> Tensor:
    if not any(part.sentences):
        raise ValueError(f"{part.name} has no words; give a text that has")
    unknown = numbers[UNKNOWN]
    return torch.tensor([numbers.get(word, unknown) for sentence in part.sentences for word in (*sentence, END)])


def _read(text: str) -> list[_Part]:
    if text == BOOK:
        lines = [re.findall(r"\w+(?:['-]\w+)*|[^\w\s]", line.lower()) for line in _book().splitlines()]
        return [_Part(f"{BOOK}, {part}", lines) for part, lines in zip(PARTS, _by_position(lines), strict=True)]
    if text not in HUB:
        raise ValueError(f"text: there is no {text!r}; there are {', '.join(HUB)} and {BOOK}; or name --data FOLDER")
    return _hub(text)


def _hub(text: str) -> list[_Part]:
    repository, which, column = HUB[text]
    parts = hub.load(repository, **which, or_else="train.txt, valid.txt and test.txt")
    found = []
    for part in ("train", "validation", "test"):
        name = f"{text}, {part}"
        found.append(_Part(name, [line.split() for line in hub.texts(parts[part], column, name)]))
    return found


def _file(folder: Path, part: str) -> _Part:
    if not folder.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r} is no folder; name one that is there, with --data FOLDER")
    found = sorted(path for path in folder.iterdir() if part in path.name and path.suffix in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{folder} has no {part}.txt; name a folder that has, with --data FOLDER")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several texts for {part}: {names}; leave one of them")
    try:
        with found[0].open(encoding="utf-8") as lines:
            return _Part(str(found[0]), [line.split() for line in lines])
    except UnicodeDecodeError as error:
        raise ValueError(f"{found[0]} is no text in UTF-8 ({error}); convert it") from error


def _book() -> str:
    return resources.files("adabelief.lab.data").joinpath("alice.txt").read_text(encoding="utf-8")


def _by_position(sequence: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
    n = len(sequence)
    return sequence[: 8 * n // 10], sequence[8 * n // 10 : 9 * n // 10], sequence[9 * n // 10 :]
