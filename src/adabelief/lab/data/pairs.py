"""Sentence pairs for the lab: read from text files or the hub, cut into subwords, and put into batches by tokens."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adabelief.lab.data import hub
from adabelief.lab.models.transformer import BOS, EOS, PAD

HUB: Mapping[str, str] = {"iwslt14": "bbaaaa/iwslt14-de-en-preprocess", "multi30k": "bentrevett/multi30k"}
"""Corpora that can be downloaded, with their repositories on the Hugging Face hub."""

SPECIAL = ("<pad>", "<s>", "</s>")
"""The tokens PAD, BOS and EOS, in this order."""

STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("valid", "val", "validation", "dev"),
    "test": ("test", "test_2016_flickr"),
}
"""What the files of a part may be called, before the language."""


class Pairs(NamedTuple):
    """Sentences in German and English, in the same order."""

    source: list[str]
    target: list[str]


class ParallelCorpus(NamedTuple):
    """The three parts."""

    train: Pairs
    validation: Pairs
    test: Pairs


def corpus(name: str, data: Path | None = None) -> ParallelCorpus:
    """German-English sentence pairs, in lower case, as the published experiment has them.

    Args:
        name: "embedded" for the generated ones; else "iwslt14" or "multi30k", which come from the hub without `data`.
        data: A folder with train, valid (or val, validation, dev) and test (or test_2016_flickr) as text files, a
            sentence a line: .de and .en, or the same with .gz.

    Raises:
        FileNotFoundError: If there is no such folder, a file is missing, or the hub is out of reach.
        ValueError: If there is no such corpus, or files cannot be read, are empty or of unequal length.

    Example:
        >>> pairs = corpus("embedded").test
        >>> print(pairs.source[0], "=", pairs.target[0])
        heute sucht der müde hund das junge pferd = today the tired dog looks for the young horse
    """
    if name == "embedded":
        return embedded()
    if name not in HUB:
        raise ValueError(f"corpus={name!r}: there are embedded, {', '.join(HUB)}; choose with --set corpus=...")
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"data={str(data)!r} is no folder; name one that is there, with --data FOLDER")
    read = (_downloaded(name, part) if data is None else _pairs(data, part) for part in STEMS)
    return ParallelCorpus(*(Pairs(_lower(source), _lower(target)) for source, target in read))


def _lower(sentences: Iterable[str]) -> list[str]:
    return [text.lower().strip() for text in sentences]


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-pair encoding of the texts' bytes, with the special tokens; no text is unknown to it.

    Args:
        texts: What the merges are learnt from, sources and targets alike.
        vocabulary: At most so many tokens; few texts give fewer.

    Raises:
        ValueError: If it has no room for the special tokens and all bytes.

    Example:
        >>> bpe = train_bpe(["ein haus und noch ein haus"], 300)
        >>> bpe.decode(bpe.encode("ein neues haus").ids).strip()
        'ein neues haus'
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL)
    if vocabulary < least:
        raise ValueError(f"vocabulary={vocabulary} is too small: {least} tokens are needed before the first merge")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    texts = list(texts)
    room = min(vocabulary, least + sum(map(len, texts)))  # no more merges; it takes memory for all that it is told
    trainer = trainers.BpeTrainer(
        vocab_size=room, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # "</s>" in a text is text
    return tokenizer


class Encoded(NamedTuple):
    """Pairs as tokens: sources that end with EOS, targets that begin with BOS and end with EOS."""

    source: list[Tensor]
    target: list[Tensor]

    def rows(self, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Sources (n, s) and targets (n, t) of some pairs, padded."""
        chosen = list(indices)
        source, target = (pad_sequence([side[i] for i in chosen], batch_first=True, padding_value=PAD) for side in self)
        return source, target


def encode(bpe: Tokenizer, pairs: Pairs) -> Encoded:
    """The pairs as tokens."""
    source, target = ([encoding.ids for encoding in bpe.encode_batch(side)] for side in pairs)
    return Encoded(
        [torch.tensor([*ids, EOS]) for ids in source],
        [torch.tensor([BOS, *ids, EOS]) for ids in target],
    )


def by_tokens(pairs: Encoded, limit: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """Puts every pair into one batch of pairs of similar length.

    A batch of n pairs has at most `limit` places for tokens on either side: n × the length of its longest sentence.
    The number of batches does not depend on the generator.

    Args:
        pairs: What is to be put into batches.
        limit: Tokens of a batch at most, padding included.
        generator: Which of the pairs of the same lengths go together, and the order of the batches; None for the pairs
            as they come, the shortest first.

    Returns:
        The indices of each batch.

    Raises:
        ValueError: If a pair alone is above the limit.
    """
    # A target is one token longer than what the decoder sees of it, or has to say.
    lengths = torch.tensor([[len(s), len(t) - 1] for s, t in zip(*pairs, strict=True)])
    if (longest := int(lengths.max())) > limit:
        raise ValueError(
            f"batch_size={limit} tokens: there is a sentence of {longest}; --set batch_size to that or more"
        )
    order = torch.arange(len(lengths)) if generator is None else torch.randperm(len(lengths), generator=generator)
    for side in (1, 0):
        order = order[lengths[order, side].argsort(stable=True)]
    batches: list[list[int]] = []
    widest = 0
    for index, length in zip(order.tolist(), lengths[order].amax(1).tolist(), strict=True):
        widest = max(widest, length)
        if not batches or (len(batches[-1]) + 1) * widest > limit:
            batches.append([])
            widest = length
        batches[-1].append(index)
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def embedded() -> ParallelCorpus:
    """1,000, 100 and 100 pairs of a toy German and English: who does what to whom, when; no pair is in two parts.

    The order of words, the cases of articles and adjectives, and one word for two differ between the languages.
    """
    articles = {
        **dict.fromkeys(("hund", "mann", "vogel"), "der"),
        **dict.fromkeys(("katze", "frau"), "die"),
        **dict.fromkeys(("kind", "pferd"), "das"),
    }
    nouns = dict(zip(articles, ("dog", "man", "bird", "cat", "woman", "child", "horse"), strict=True))
    adjectives = {"alt": "old", "jung": "young", "klein": "little", "müd": "tired"}
    verbs = {"sieht": "sees", "hört": "hears", "sucht": "looks for", "findet": "finds"}
    pairs = []
    choices = list(product(nouns, adjectives, verbs, adjectives, nouns, (True, False)))
    for subject, trait, verb, other, thing, today in random.Random(0).sample(choices, 1200):
        article, ending = ("den", "en") if articles[thing] == "der" else (articles[thing], "e")
        who, whom = f"{articles[subject]} {trait}e {subject}", f"{article} {other}{ending} {thing}"
        does = f"the {adjectives[trait]} {nouns[subject]} {verbs[verb]} the {adjectives[other]} {nouns[thing]}"
        pairs.append((f"heute {verb} {who} {whom}", f"today {does}") if today else (f"{who} {verb} {whom}", does))
    source, target = ([pair[side] for pair in pairs] for side in (0, 1))
    parts = (slice(1000), slice(1000, 1100), slice(1100, None))
    return ParallelCorpus(*(Pairs(source[part], target[part]) for part in parts))


def _pairs(folder: Path, part: str) -> Pairs:
    files = [_file(folder, part, language) for language in ("de", "en")]
    sides = [_lines(file) for file in files]
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(f"{file} has {len(side):,}" for file, side in zip(files, sides, strict=True))
        raise ValueError(f"{counts} lines: they have to be translations, line by line; get both from one source")
    if not sides[0]:
        raise ValueError(f"{files[0]} is empty; put a sentence on each line")
    return Pairs(*sides)


def _file(folder: Path, part: str, language: str) -> Path:
    names = [f"{stem}.{language}" for stem in STEMS[part]]
    for file in (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{folder} has no {' or '.join(names)} (nor one of them with .gz); name a folder that has, with --data FOLDER"
    )


def _lines(file: Path) -> list[str]:
    """The lines of a text file; only line feeds end them, or the two languages might come apart."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content.decode()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is no readable gzip file ({error}); get it again") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in UTF-8 ({error}); convert it, with iconv for example") from error
    return text.removesuffix("\n").split("\n") if text else []


def _downloaded(name: str, part: str) -> Pairs:
    rows = hub.load(HUB[name], split=part, or_else="its texts, as train.de, train.en and so on")
    if "translation" in rows.features:
        rows = rows.flatten().rename_columns({f"translation.{language}": language for language in ("de", "en")})
    source, target = (hub.texts(rows, language, f"{name}, {part}") for language in ("de", "en"))
    return Pairs(source, target)
