"""Published results, each with its source: what others got for AdaBelief and its rivals.

The numbers are in published.csv, a row each, and what they were taken from is in sources.csv, beside this file. Sources
disagree, and the table keeps them apart: the authors' figures show means of three runs, their logs are single runs, and
a "best" accuracy was picked on the test set itself, which the lab never does.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

FINAL = "test accuracy after the last epoch, %"
BEST = "test accuracy at its best epoch, %"
REPORTED = "test accuracy as reported, %"
"""The source does not say of which epoch."""

FID_FINAL = "FID after the last epoch"
FID_BEST = "FID at its best epoch"

BLEU = "test BLEU as reported"

PERPLEXITY_FINAL = "test perplexity after the last epoch"

RETURN_FINAL = "test return after the last epoch"
"""In reinforcement learning, the mean over episodes of their sum of rewards."""

LAST_EPOCH = (FINAL, FID_FINAL, PERPLEXITY_FINAL, RETURN_FINAL)
"""Those that stand against ours after the last epoch; the others, against ours at the epoch that validation picked."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    FINAL: True,
    BEST: True,
    REPORTED: True,
    BLEU: True,
    RETURN_FINAL: True,
    FID_FINAL: False,
    FID_BEST: False,
    PERPLEXITY_FINAL: False,
}


@dataclass(frozen=True)
class Source:
    """Where numbers come from: the full citation, and whether they were read off a plot, by eye."""

    citation: str
    read_off: bool = False


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        task: As in `adabelief tasks`.
        model: The network, as in `adabelief.lab.models.images` where it is there; empty for a task that has one only.
        optimizer: A name in `adabelief.lab.optimizers.METHODS`, or of an optimizer that the lab does not run.
        metric: What was measured, a name in `HIGHER_IS_BETTER`.
        value: The number, in the metric's unit.
        spread: One standard deviation over the runs, where the source gives it.
        source: A key of `SOURCES`.
        note: What sets the number apart from its neighbours, or "".
    """

    task: str
    model: str
    optimizer: str
    metric: str
    value: float
    spread: float | None
    source: str
    note: str = ""


def _rows(file: str) -> Iterator[dict[str, str]]:
    content = resources.files("adabelief.lab.analysis").joinpath(file).read_text(encoding="utf-8")
    return csv.DictReader(content.splitlines())


def _published(row: dict[str, str]) -> Published:
    return Published(
        task=row["task"],
        model=row["model"],
        optimizer=row["optimizer"],
        metric=row["metric"],
        value=float(row["value"]),
        spread=float(row["spread"]) if row["spread"] else None,
        source=row["source"],
        note=row["note"],
    )


SOURCES: Mapping[str, Source] = {
    row["source"]: Source(row["citation"], read_off=row["read_off"] == "yes") for row in _rows("sources.csv")
}
PUBLISHED: tuple[Published, ...] = tuple(_published(row) for row in _rows("published.csv"))


def published(task: str, model: str | None = None, optimizer: str | None = None) -> tuple[Published, ...]:
    """The published numbers for a task, for one model or all, for one optimizer or all; none where none are known.

    Args:
        task: As in `Published.task`.
        model: As in `Published.model`.
        optimizer: As in `Published.optimizer`.

    Example:
        >>> [(row.value, row.source) for row in published("cifar10", "vgg11", "AdaBelief") if row.metric == FINAL]
        [(91.17, 'authors-logs')]
    """
    return tuple(
        row
        for row in PUBLISHED
        if row.task == task and model in (None, row.model) and optimizer in (None, row.optimizer)
    )
