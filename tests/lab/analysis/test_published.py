import re
from collections import Counter

import pytest

from adabelief.lab.analysis.published import (
    BEST,
    BLEU,
    FID_BEST,
    FID_FINAL,
    FINAL,
    HIGHER_IS_BETTER,
    PERPLEXITY_FINAL,
    PUBLISHED,
    REPORTED,
    RETURN_FINAL,
    SOURCES,
    published,
)
from adabelief.lab.models.images import MODELS
from adabelief.lab.optimizers import METHODS

PAPER = ("AdaBelief", "SGD", "Adam", "AdamW", "RAdam", "AdaBound", "Yogi", "MSVAG", "Fromage")


def test_all_rows_are_read():
    assert len(PUBLISHED) == 357
    assert len(SOURCES) == 25
    spreads = {(row.task, row.source) for row in PUBLISHED if row.spread is not None}
    assert spreads == {("sngan", "paper-fids"), *((task, "rescience") for task in ("wgan", "wgan-gp", "sngan"))}
    (row,) = (row for row in published("sngan", "", "AdaBelief") if row.source == "paper-fids")
    assert (row.value, row.spread) == (12.52, 0.16)


def test_rows_are_unique():
    keys = Counter((row.task, row.model, row.optimizer, row.metric, row.source, row.note) for row in PUBLISHED)
    assert max(keys.values()) == 1


def test_every_source_is_defined_and_used():
    assert {row.source for row in PUBLISHED} == SOURCES.keys()
    for source in SOURCES.values():
        assert re.search(
            r"arXiv:\d{4}\.\d{5}|doi:10\.\d+/|https://github\.com/.*/(issues|pull)/\d+|/curve", source.citation
        )
    assert [tag for tag, source in SOURCES.items() if source.read_off] == [
        *("paper-figure", "paper-boxes", "paper-perplexity", "authors-sac", "authors-rainbow-figure")
    ]


def test_every_metric_has_a_direction():
    assert {row.metric for row in PUBLISHED} == HIGHER_IS_BETTER.keys()


def test_values_are_possible():
    possible = {"cifar10": (85, 100), "cifar100": (55, 100), "imagenet": (60, 100)}
    possible |= {
        "wgan": (80, 500),
        "wgan-gp": (55, 300),
        "sngan": (12, 60),
        "ptb-lstm": (60, 105),
        "translation": (34, 36),
        "keras-cnn": (97, 98),
        "rl-sac": (4000, 16_000),
        "rl-atari": (400, 420),
    }
    for row in PUBLISHED:
        assert possible[row.task][0] < row.value < possible[row.task][1], row
        assert row.spread is None or row.spread > 0, row


def test_names_are_those_of_the_lab():
    assert {row.optimizer for row in PUBLISHED} - METHODS.keys() == {"ACProp"}
    others = {"resnet18", "resnet110", "resnext50", "efficientnet_b0", ""}
    others |= {"1-layer", "2-layer", "3-layer"} | {"HalfCheetah-v5", "Walker2d-v5", "SpaceInvaders"}
    assert {row.model for row in PUBLISHED} == MODELS.keys() | others


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("task", "metric", "source"),
    [
        ("cifar10", FINAL, "authors-logs"),
        ("cifar10", BEST, "authors-logs"),
        ("cifar10", BEST, "rescience-logs"),
        ("cifar100", FINAL, "paper-figure"),
    ],
)
def test_the_paper_s_comparisons_are_complete(task, model, metric, source):
    found = [row.optimizer for row in published(task, model) if (row.metric, row.source) == (metric, source)]
    # The figure's peak of SGD is a row of BEST; a comparison has every optimizer once.
    assert sorted(found) == sorted(PAPER)


@pytest.mark.parametrize("source", ["authors-logs", "rescience-logs"])
def test_no_run_ends_above_its_best_epoch(source):
    final, best = (
        {
            (row.task, row.model, row.optimizer): row.value
            for row in PUBLISHED
            if (row.metric, row.source) == (m, source)
        }
        for m in (FINAL, BEST)
    )
    assert final
    for key, value in final.items():
        assert value <= best[key] < value + 5, key


@pytest.mark.parametrize(
    ("task", "model", "optimizer", "metric", "source", "value"),
    [
        ("cifar10", "vgg11", "AdaBelief", FINAL, "authors-logs", 91.17),
        ("cifar10", "vgg11", "SGD", BEST, "authors-logs", 90.11),
        ("cifar10", "resnet34", "MSVAG", FINAL, "authors-logs", 94.44),
        ("cifar10", "densenet121", "Fromage", BEST, "authors-logs", 95.10),
        ("cifar10", "resnet34", "AdaBound", BEST, "rescience-logs", 95.12),
        ("cifar100", "vgg11", "Yogi", FINAL, "paper-figure", 66),
        ("cifar100", "resnet34", "Adam", FINAL, "paper-figure", 71.6),
        ("cifar100", "resnet34", "SGD", BEST, "paper-figure", 77),
        ("cifar100", "resnet34", "AdaBelief", BEST, "rescience", 77.48),
        ("cifar100", "densenet121", "SGD", FINAL, "rescience-logs", 74.43),
        ("cifar100", "densenet121", "AdaBelief", BEST, "rescience-logs", 78.66),
        ("imagenet", "resnet18", "AdaBelief", REPORTED, "paper-table", 70.08),
        ("imagenet", "resnet18", "SGD", REPORTED, "padam", 70.23),
        ("imagenet", "resnet18", "Adam", REPORTED, "radam", 66.54),
        ("imagenet", "resnet18", "AdamW", REPORTED, "issue-11", 69.73),
        ("wgan", "", "AdaBelief", FID_FINAL, "paper-boxes", 81),
        ("wgan", "", "RMSprop", FID_FINAL, "paper-boxes", 94.5),
        ("wgan-gp", "", "Adam", FID_FINAL, "rescience", 71.87),
        ("sngan", "", "AdaBelief", FID_BEST, "paper-fids", 12.52),
        ("sngan", "", "RMSprop", FID_BEST, "rescience", 12.86),
        ("ptb-lstm", "1-layer", "MSVAG", PERPLEXITY_FINAL, "authors-lstm-logs", 84.68),
        ("ptb-lstm", "2-layer", "AdaBelief", PERPLEXITY_FINAL, "authors-lstm-logs", 66.29),
        ("ptb-lstm", "3-layer", "Fromage", PERPLEXITY_FINAL, "rescience-logs", 67.50),
        ("ptb-lstm", "3-layer", "EAdam", PERPLEXITY_FINAL, "eadam-logs", 61.13),
        ("ptb-lstm", "1-layer", "AdaBound", PERPLEXITY_FINAL, "paper-perplexity", 84.5),
        ("keras-cnn", "", "AdaBelief", FINAL, "authors-notebook", 97.91),
        ("rl-sac", "HalfCheetah-v5", "AdaBelief", RETURN_FINAL, "authors-sac", 15_700),
        ("rl-sac", "Walker2d-v5", "Adam", RETURN_FINAL, "authors-sac", 5500),
        ("rl-atari", "SpaceInvaders", "AdaBelief", RETURN_FINAL, "authors-rainbow", 417.5),
        ("translation", "", "AdaBelief", BLEU, "authors-bleu", 35.85),
        ("translation", "", "RAdam", BLEU, "authors-bleu", 35.51),
        ("translation", "", "AdamW", BLEU, "authors-fairseq", 35.02),
    ],
)
def test_values(task, model, optimizer, metric, source, value):
    rows = [row for row in published(task, model, optimizer) if (row.metric, row.source) == (metric, source)]
    assert [row.value for row in rows] == [value]


def test_lookup():
    assert published("cifar10") == tuple(row for row in PUBLISHED if row.task == "cifar10")
    assert {row.model for row in published("cifar100", "vgg11")} == {"vgg11"}
    assert {row.optimizer for row in published("imagenet", optimizer="AdamW")} == {"AdamW"}
    assert published("digits") == published("cifar10", "lenet") == published("cifar10", "vgg11", "Lion") == ()


def test_what_is_no_second_run_says_so():
    copied = [row for row in PUBLISHED if "no second run" in row.note]
    assert {(row.model, row.optimizer) for row in copied} == {("resnet34", "AdamW"), ("resnet34", "Fromage")}
    for row in copied:
        (original,) = (
            other
            for other in published(row.task, row.model, row.optimizer)
            if (other.metric, other.source) == (BEST, "authors-logs")
        )
        assert row.value == original.value
