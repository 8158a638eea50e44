"""The figures of experiments, as the bytes of PNG and SVG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adabelief.lab.analysis.statistics import Verdict, standard_error
from adabelief.lab.report.style import INK, QUIET, WIDTH, files_of, label_axes, looks, styled
from adabelief.lab.report.words import join


@styled
def curves(verdict: Verdict) -> dict[str, bytes]:
    """Training loss and the metric on every set it was measured on, by epoch: mean over the seeds, range as a band."""
    experiment = verdict.experiment
    metric, tested = experiment.metric, all(run.tested for runs in experiment.valid.values() for run in runs)
    measured = [("train_loss", "Training loss")] + [
        (f"{part}_{metric.name}", f"{title} {metric.called}")
        for part, title in (("train", "Training"), ("validation", "Validation"), ("test", "Test"))
        if any(run.curve(f"{part}_{metric.name}") for run in experiment.runs) and (part != "test" or tested)
    ]
    rows, columns = (2, 2) if len(measured) == 4 else (1, len(measured))
    figure = Figure(figsize=(WIDTH, 0.5 + 2.25 * rows))
    drawn = looks(verdict)
    for axes, (name, title) in zip(figure.subplots(rows, columns, squeeze=False).flat, measured, strict=True):
        ranges = {}
        for i, (label, runs) in enumerate(experiment.valid.items()):
            history = np.array([run.curve(name) for run in runs])
            epochs, look = np.arange(1, history.shape[1] + 1), drawn[label]
            ranges[label], solid = (history.min(0), history.max(0)), look.line == "-"
            shared: dict[str, Any] = {"color": look.colour, "zorder": 3.0 if solid else 2.0}
            axes.fill_between(epochs, *ranges[label], alpha=0.2 if solid else 0.06, linewidth=0, **shared)
            every = max(1, len(epochs) // 7)
            axes.plot(
                *(epochs, history.mean(0)),
                **shared,
                linestyle=look.line,
                linewidth=1.7 if solid else 1.0,
                marker=look.marker,
                markersize=3.2,
                markerfacecolor=look.colour if look.filled else "white",
                markevery=((i * every) // max(1, len(experiment.valid)), every),
                label=label,
            )
        for epoch, _ in experiment.runs[0].drops():
            axes.axvline(epoch + 0.5, color=QUIET, linewidth=0.7, linestyle=":", zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if name == "train_loss":
            values = np.concatenate([end for ends in ranges.values() for end in ends])
            if values.max() > 10 * values.min() > 0:  # within a decade, a log scale has no round numbers
                axes.set_yscale("log")
            label_axes(axes, title, "epoch", None)
        else:
            hidden = _zoom(axes, ranges, metric.higher_is_better)
            label_axes(axes, _in_lines(title, metric.unit), "\n".join(["epoch", *hidden]), None)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for columns in range(min(len(labels), 6), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=3.0)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    return files_of(figure)


def _in_lines(title: str, unit: str) -> str:
    """A panel's title, in two lines where one would run into the next panel."""
    if not unit:
        return title
    return f"{title}, {unit}" if len(title + unit) < 24 else f"{title},\n{unit}"


def _zoom(axes: Axes, ranges: Mapping[str, Sequence[NDArray[Any]]], higher_is_better: bool) -> list[str]:
    """Makes the axis show the second half of the curves, without those far behind; returns what it hides, in lines."""
    sign = 1.0 if higher_is_better else -1.0
    whole = {label: sign * np.stack(ends) for label, ends in ranges.items()}
    halves = {label: ends[:, ends.shape[1] // 2 :] for label, ends in whole.items()}
    top = max(float(half.max()) for half in halves.values())
    depth = _depth([top - float(half.min()) for half in halves.values()], 4) or abs(top) / 20 or 1.0
    bottom, ceiling = top - 1.12 * depth, top + 0.06 * depth
    axes.set_ylim(*sorted((sign * ceiling, sign * bottom)))
    out = [label for label, half in halves.items() if half.max() < bottom]
    hidden = [(whole[label].min(0) < bottom) | (whole[label].max(0) > ceiling) for label in whole if label not in out]
    last = max((int(epoch) for epochs in hidden for epoch in np.flatnonzero(epochs)), default=-1)
    parts = [join(out)] if out else []
    if last >= 0:
        parts.append(f"{'others' if out else 'parts'} up to epoch {last + 1}")
    return textwrap.wrap(f"off the axis: {'; '.join(parts)}", 30) if parts else []


def _depth(behind: Sequence[float], times: float) -> float:
    """How far behind the best an axis reaches: to the last that is not many times as far behind as the middle one."""
    middle = sorted(behind)[len(behind) // 2]
    return max(depth for depth in behind if depth <= times * middle)


@styled
def dots(verdict: Verdict) -> dict[str, bytes]:
    """The test metric at the best validation epoch: every seed, the mean, and its standard error."""
    groups, drawn, metric = verdict.experiment.valid, looks(verdict), verdict.experiment.metric
    figure = Figure(figsize=(WIDTH, 0.8 + 0.25 * max(len(groups), 3)))
    axes = figure.subplots()
    for row, (label, runs) in enumerate(groups.items()):
        values = np.array([run.test for run in runs])
        offsets = 0.5 * ((np.arange(len(values)) + 0.5) / len(values) - 0.5)
        look = drawn[label]
        face = look.colour if look.filled else "white"
        error = standard_error(runs)
        if error:
            axes.errorbar(values.mean(), row, xerr=error, color=QUIET, linewidth=0.8, capsize=2.5, zorder=1)
        axes.plot([values.mean()] * 2, [row - 0.34, row + 0.34], color=INK, linewidth=1.4, zorder=2)
        axes.scatter(
            values,
            row + offsets,
            s=16,
            facecolor=face,
            edgecolor=look.colour,
            marker=look.marker,
            linewidth=0.8,
            zorder=3,
        )
    sign = 1.0 if metric.higher_is_better else -1.0
    top = max(sign * run.test for runs in groups.values() for run in runs)
    behind = {label: top - min(sign * run.test for run in runs) for label, runs in groups.items()}
    depth = _depth(list(behind.values()), 20)
    if max(behind.values()) > depth:
        shown = [standard_error(groups[label]) for label in groups if behind[label] <= depth]
        around = max(0.1 * depth, 1.2 * max(shown))
        near, far = sign * (top + around), sign * (top - depth - around)
        axes.set_xlim(min(near, far), max(near, far))
        for row, (label, runs) in enumerate(groups.items()):
            if behind[label] > depth:
                note = f"off the axis: {', '.join(f'{run.test:.2f}' for run in runs)}"
                axes.text(0.02, row, note, transform=axes.get_yaxis_transform(), fontsize=6.5, va="center", color=INK)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    unit = f", {metric.unit}" if metric.unit else ""
    label_axes(axes, None, f"test {metric.called} at the best validation epoch{unit}", None)
    handles = [
        Line2D([], [], marker="o", markersize=4, color=QUIET, linestyle="", label="one seed"),
        Line2D([], [], marker="|", color=INK, markersize=9, markeredgewidth=1.4, linestyle="", label="mean"),
    ]
    if said := whiskers(verdict):
        handles.append(Line2D([], [], marker="|", color=QUIET, linewidth=0.8, label=said))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return files_of(figure)


def whiskers(verdict: Verdict) -> str:
    """What the whiskers of `dots` are; empty where there are none: one seed has no spread of its own."""
    runs = list(verdict.experiment.valid.values())
    several, alone = ([len(group) > 1 for group in runs].count(more) for more in (True, False))
    of_test_set = any(standard_error(group[:1]) for group in runs)
    if not several:
        return "± one standard error, of the test set alone" if of_test_set else ""
    parts = "seeds and test set" if of_test_set else "seeds"
    rest = "test set" if of_test_set else "none"
    return f"± one standard error: {parts}{f' (of one seed: {rest})' if alone else ''}"


@styled
def times(verdict: Verdict) -> dict[str, bytes]:
    """The time of `step()` and of a whole training step: medians over the steps and the seeds."""
    groups, drawn = verdict.experiment.valid, looks(verdict)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.21 * max(len(groups), 3)))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels,
        ("optimizer_seconds", "step_seconds"),
        ("step() of the optimizer, ms", "whole training step, ms"),
        strict=True,
    ):
        values = [1e3 * float(np.median([float(run.outcome[key]) for run in runs])) for runs in groups.values()]
        bars = axes.barh(range(len(groups)), values, height=0.66, color=[drawn[label].colour for label in groups])
        labels = [f"{value:.2f}" if math.isfinite(value) else "not measured" for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=7)
        axes.set_xlim(0, 1.13 * max(filter(math.isfinite, values), default=1.0))
        axes.set_yticks(range(len(groups)), list(groups))
        axes.tick_params(axis="y", length=0)
        label_axes(axes, title, None, None)
        axes.grid(visible=False, axis="y")
    panels[0].invert_yaxis()
    return files_of(figure)
