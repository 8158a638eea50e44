"""Times: who steps in which form, what a step and a run take, and what can be said of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import chain

from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import DISTURBED, Verdict
from adabelief.lab.report.chapter import Picture
from adabelief.lab.report.tables import marked, table
from adabelief.lab.report.words import join, number

FORMS = (
    ("fused", "fused: one compiled call for all tensors"),
    ("foreach", "foreach: a call of torch for each operation, on all tensors"),
    ("loop", "loop: tensor by tensor"),
    ("default", "default: whatever its package takes; for AdaBelief its compiled kernel, where there is one"),
    ("Keras's", "Keras's: that of Keras and its backend"),
)


def times(verdict: Verdict, picture: Picture) -> str:
    """The part of an experiment's chapter on time."""
    experiment, aim = verdict.experiment, verdict.target
    rows = []
    for label, runs in experiment.valid.items():
        calm = [run for run in runs if run not in verdict.disturbed]
        row = [marked(experiment, label)]
        if aim:
            hits = dict(zip([run.path for run in runs], aim.reached[label], strict=True))
            row.append(", ".join(str(hit[0]) if hit else "never" for hit in hits.values()))
            row.append(_mean([hit[1] for run in calm if (hit := hits[run.path])], len(runs)))
        forms = dict.fromkeys(run.form for run in runs)
        row += [", ".join(forms), _milliseconds(runs, "optimizer_seconds"), _milliseconds(runs, "step_seconds")]
        row.append(_mean([run.outcome["run_seconds"] for run in calm], len(runs)))
        rows.append((*row, f"`{runs[0].arguments}`"))
    header = ["optimizer", *(["epochs to target, seed by seed", "seconds to target"] if aim else [])]
    header += ["`step()` as", "`step()`, ms", "whole step, ms", "whole run, s", "settings"]
    ran = {run.form for runs in experiment.valid.values() for run in runs}
    text = [
        f"### Time: {experiment.name}",
        table(header, rows, left={0, header.index("`step()` as"), len(header) - 1}),
        f"`step()` runs as {'; '.join(words for form, words in FORMS if form in ran)}. Compare steps of one form with "
        "each other: between forms, the code differs more than the rule.",
    ]
    if aim:
        metric = experiment.metric
        text.append(
            f"The target is a validation {metric.called} of {number(aim.level)}{metric.suffix}: the best of its worst "
            "seed, for the middle one of the optimizers (of two, the worse), so that at least half of them reach it "
            "with every seed. Seconds are of training and evaluation until then."
        )
    if verdict.disturbed:
        listed = [
            f"{run.label}, seed {run.config.seed} ({run.outcome['run_seconds']:.0f} s)" for run in verdict.disturbed
        ]
        text.append(
            f"**Left out of the seconds, as other work disturbed them:** {'; '.join(listed)}. They took more than "
            f"{DISTURBED:g} times as long as their steps account for."
        )
    if not experiment.same_place:
        text.append("**These runs were not all made on the same kind of machine: do not compare their times.**")
    text += [
        str(picture),
        "Medians over the steps of an epoch, then over epochs and seeds, without the first steps of each run. They are "
        "those of this machine and of what else ran on it.",
    ]
    return "\n\n".join(text)


def in_short(verdict: Verdict) -> str:
    """A sentence on the time of a step. A difference is told where it is larger than any optimizer's from itself."""
    if not verdict.experiment.same_place:
        return "The runs were not all made on the same kind of machine: their times are not compared."
    measured = {label: [_steps(run) for run in runs] for label, runs in verdict.contenders.items()}
    times = {label: [*chain(*runs)] for label, runs in measured.items() if all(runs)}
    if not times:
        return "`step()` is not measured apart from the rest of a training step."
    medians = {
        label: statistics.median(1e3 * float(run.outcome["optimizer_seconds"]) for run in verdict.contenders[label])
        for label in times
    }
    quick, slow = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    form = {label: verdict.contenders[label][0].form for label in times}
    first, last = (f"{medians[label]:.2f} ms ({label}, {form[label]})" for label in (quick, slow))
    sentence = f"`step()` takes from {first} to {last}"
    ours = verdict.reference
    if ours not in times:
        return f"{sentence}."
    return f"{sentence}. {ours}'s takes {medians[ours]:.2f} ms; {_verdict(ours, medians, times, verdict)}."


def _verdict(ours: str, medians: dict[str, float], times: dict[str, list[float]], verdict: Verdict) -> str:
    if min(len(verdict.contenders[label]) for label in times) < 2:
        return "one seed does not show which differences would last"
    noise = max(max(values) / min(values) for values in times.values())
    quicker = [label for label in medians if medians[label] * noise < medians[ours]]
    slower = [label for label in medians if medians[label] > noise * medians[ours]]
    told = [f"{word}: {join(labels)}" for word, labels in (("less", quicker), ("more", slower)) if labels]
    if not told:
        return (
            f"none of the others' differs from it by more than the {noise:.2g} times by which one differs from itself"
        )
    return f"beyond the {noise:.2g} times by which one differs from itself, {'; '.join(told)}"


def _steps(run: Run) -> list[float]:
    """The milliseconds of `step()` by epoch; the first, which has the beginning in it, only where it is alone."""
    found = [1e3 * float(value) for value in run.curve("optimizer_seconds")]
    return [value for value in found[1:] or found if math.isfinite(value) and value > 0]


def _milliseconds(runs: Sequence[Run], key: str) -> str:
    return f"{1e3 * statistics.median(run.outcome[key] for run in runs):.2f}"


def _mean(seconds: Sequence[float], seeds: int) -> str:
    """The mean over the seeds that have it, and how many these are where others have it not."""
    mean = f"{statistics.fmean(seconds):.1f}" if seconds else "–"
    return mean if len(seconds) == seeds else f"{mean} ({len(seconds)} of {seeds} seeds)"
