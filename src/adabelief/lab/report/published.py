"""Published numbers beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from adabelief.lab.analysis.experiments import Experiment, other_data
from adabelief.lab.analysis.published import (
    BEST,
    FID_BEST,
    FID_FINAL,
    HIGHER_IS_BETTER,
    LAST_EPOCH,
    SOURCES,
    Published,
    published,
)
from adabelief.lab.analysis.runs import Run
from adabelief.lab.models import frechet
from adabelief.lab.report.tables import marked, table
from adabelief.lab.report.words import number, signed, spread
from adabelief.lab.task import Metric

_SHORT = {
    **dict.fromkeys(LAST_EPOCH, "last epoch"),
    BEST: "best, picked on test",
    FID_FINAL: "FID, last epoch",
    FID_BEST: "FID, best, picked on test",
}


def beside_published(experiment: Experiment) -> str:
    """The part of an experiment's section on what others published; empty where nothing is known."""
    config, metric = experiment.config, experiment.metric
    rows = [row for row in published(config.task, config.model) if row.metric in HIGHER_IS_BETTER]
    rows = [row for row in rows if row.optimizer in experiment.valid and metric.name == experiment.task.metric.name]
    heading = f"### Published: {experiment.name}"
    if not rows:
        return ""
    columns = list(dict.fromkeys((row.metric, row.source) for row in rows))
    columns.sort(key=lambda column: (column[0] not in LAST_EPOCH, column[0] != BEST))
    sources = list(dict.fromkeys(source for _, source in columns))
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    other = [f"{own}, not {theirs}" for own, theirs in other_data(experiment.task, config).values()]
    compared = config.scale == "paper" and not other
    lines = []
    for label, runs in experiment.valid.items():
        theirs = [row for row in rows if row.optimizer == label]
        if theirs:
            cells = [
                _beside(runs, [r for r in theirs if (r.metric, r.source) == column], notes, compared=compared)
                for column in columns
            ]
            last, picked = spread([run.last_test for run in runs]), spread([run.test for run in runs])
            lines.append((marked(experiment, label), last, picked, *cells, f"`{runs[0].arguments}`"))
    header = [
        *("optimizer", "ours, last epoch", "ours, picked on validation"),
        *(f"{_SHORT.get(kind, 'as reported')} [{sources.index(source) + 1}]" for kind, source in columns),
        "our settings",
    ]
    listed = [
        f"{i}. {SOURCES[source].citation}{' (read off a figure, by eye)' if SOURCES[source].read_off else ''}."
        for i, source in enumerate(sources, 1)
    ]
    explained = "".join(f"\n- ({_letter(i)}) {note}" for i, note in enumerate(notes))
    scaled = [text for text in (experiment.scale.note, *experiment.asked_for()) if text]
    caveat = f" **What sets ours apart:** {'; '.join(scaled)}." if scaled else ""
    if other:
        caveat += f" **Ours is on other data** ({', '.join(other)}), so there is no difference to give."
    elif not compared:
        caveat += " **Ours is another experiment**, cut down as above, so there is no difference to give."
    given = compared and any(_comparable(row, metric) for row in rows)
    if not all(_comparable(row, metric) for row in rows):
        caveat += f" **Ours is no FID:** it is measured {metric.unit}, so there is no difference to give."
    return "\n\n".join(
        [
            heading,
            f"Numbers are test {experiment.measured}{', and in parentheses ours minus theirs' if given else ''}; ± is "
            "a standard deviation over runs, where the source gives one. "
            "Numbers of the last epoch stand against ours of the last epoch, all others against ours of the epoch that "
            "validation picked. A published best is picked on the test set itself, which makes it better than what a "
            f"validation set finds. ≈ is read off a figure.{caveat}",
            table(header, lines, left={0, len(header) - 1}),
            "\n".join(listed) + (f"\n{explained}" if notes else ""),
        ]
    )


def _beside(runs: Sequence[Run], theirs: Sequence[Published], notes: Sequence[str], *, compared: bool) -> str:
    cells = []
    for row in theirs:
        ours = statistics.fmean(run.last_test if row.metric in LAST_EPOCH else run.test for run in runs)
        about = "≈ " if SOURCES[row.source].read_off else ""
        shown = compared and _comparable(row, runs[0].metric)
        difference = f" ({signed(ours - row.value, beside=row.value)})" if shown else ""
        mark = f" ({_letter(notes.index(row.note))})" if row.note else ""
        deviation = "" if row.spread is None else f" ± {number(row.spread, beside=row.value)}"
        cells.append(f"{about}{row.value:{'g' if about else '.2f'}}{deviation}{difference}{mark}")
    return "; ".join(cells) or "–"


def _comparable(row: Published, metric: Metric) -> bool:
    """Whether a published number and ours measure the same: an FID is one on Inception's features alone."""
    return row.metric not in (FID_FINAL, FID_BEST) or metric.unit == frechet.label(frechet.INCEPTION)


def _letter(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i]
