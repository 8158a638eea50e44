"""The lab's style, and its figures of experiments, as the bytes of PNG and SVG files, as wide as a page of a paper.

What they change of matplotlib's settings, they change for as long as a figure takes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adabelief.lab.findings import contenders, standard_error
from adabelief.lab.results import Experiment, pixels

P = ParamSpec("P")
R = TypeVar("R")

# AdaBelief, always the same, stands apart; the rivals have Paul Tol's "muted" scheme, safe for colour-blind readers,
# and three of his other colours.
COLOURS: Mapping[str, str] = {
    "AdaBelief": "#D55E00",
    "SGD": "#332288",
    "Adam": "#44AA99",
    "AdamW": "#88CCEE",
    "RAdam": "#117733",
    "AdaBound": "#999933",
    "Yogi": "#DDCC77",
    "MSVAG": "#882255",
    "Fromage": "#AA4499",
    "RMSprop": "#BBBBBB",
    "EAdam": "#000000",
    "AdamW-same-decay": "#4477AA",
}
MARKERS: Mapping[str, str] = dict(zip(COLOURS, "osD^vP*Xh<>p", strict=True))
DASHES = ((0, (4, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
INK = "#222222"
QUIET = "#777777"

WIDTH = 7.2
"""Inches: the text of a page in two columns."""

DPI = 250
STYLE: Any = {
    "font.family": ["sans-serif"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "svg.hashsalt": "adabelief",
}
SANS = ("Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


class Look(NamedTuple):
    """How an optimizer is drawn."""

    colour: str
    marker: str
    line: Any
    filled: bool


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draws in the lab's style and leaves matplotlib's own as it was."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        installed = set(font_manager.get_font_names())
        with matplotlib.rc_context({**STYLE, "font.sans-serif": [name for name in SANS if name in installed]}):
            return draw(*args, **kwargs)

    return drawn


def files_of(figure: Figure) -> dict[str, bytes]:
    """The figure as files, by suffix, on white; the same figure has the same bytes."""
    made = {}
    for suffix, more in (("png", {"dpi": DPI}), ("svg", {"metadata": {"Date": None}, "dpi": DPI})):
        file = io.BytesIO()
        figure.savefig(file, format=suffix, facecolor="white", **more)
        figure.set_layout_engine("none")  # laid out once, for all files
        made[suffix] = file.getvalue()
    return made


def looks(experiment: Experiment) -> dict[str, Look]:
    """A look for each label: AdaBelief solid, rivals dashed; further settings of one optimizer hollow and darker.

    Of a search, the setting of an optimizer that validation picks comes first.
    """
    drawn: dict[str, Look] = {}
    variants: dict[str, int] = {}
    picked = contenders(experiment)
    for label in sorted(experiment.groups, key=lambda label: label not in picked):
        name = experiment.groups[label][0].config.optimizer
        variant = variants.setdefault(name, 0)
        variants[name] += 1
        line = "-" if name == "AdaBelief" and not variant else DASHES[(len(drawn) + variant) % len(DASHES)]
        red, green, blue = (c * 0.7**variant for c in to_rgb(COLOURS[name]))
        drawn[label] = Look(to_hex((red, green, blue)), MARKERS[name], line, not variant)
    return drawn


@styled
def curves(experiment: Experiment) -> dict[str, bytes]:
    """Training loss and the metric on every set it was measured on, by epoch: mean over the seeds, range as a band."""
    metric = experiment.metric
    measured = [("train_loss", "Training loss")] + [
        (f"{part}_{metric.name}", f"{title} {metric.called}")
        for part, title in (("train", "Training"), ("validation", "Validation"), ("test", "Test"))
        if any(run.curve(f"{part}_{metric.name}") for run in experiment.runs)
    ]
    rows, columns = (2, 2) if len(measured) == 4 else (1, len(measured))
    figure = Figure(figsize=(WIDTH, 0.5 + 2.25 * rows), layout="constrained")
    drawn = looks(experiment)
    for axes, (name, title) in zip(figure.subplots(rows, columns, squeeze=False).flat, measured, strict=True):
        ranges = {}
        for i, (label, runs) in enumerate(experiment.sound.items()):
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
                markevery=((i * every) // max(1, len(experiment.sound)), every),
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
            told = f"\noff the axis: {', '.join(hidden)}" if hidden else ""
            label_axes(axes, _in_lines(title, metric.unit), f"epoch{told}", None)
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
    """Makes the axis show the second half of the curves; those far behind the others stay out, and are returned."""
    sign = 1.0 if higher_is_better else -1.0
    halves = {label: sign * np.stack(ends)[:, len(ends[0]) // 2 :] for label, ends in ranges.items()}
    top = max(float(half.max()) for half in halves.values())
    depth = _depth([top - float(half.min()) for half in halves.values()], 4) or abs(top) / 20 or 1.0
    near, far = sign * (top + 0.06 * depth), sign * (top - 1.12 * depth)
    axes.set_ylim(min(near, far), max(near, far))
    return [label for label, half in halves.items() if half.max() < top - 1.12 * depth]


def _depth(behind: Sequence[float], times: float) -> float:
    """How far behind the best an axis reaches: to the last that is not many times as far behind as the middle one."""
    middle = sorted(behind)[len(behind) // 2]
    return max(depth for depth in behind if depth <= times * middle)


@styled
def dots(experiment: Experiment) -> dict[str, bytes]:
    """The test metric at the best validation epoch: every seed, the mean, and its standard error."""
    groups, drawn, metric = experiment.sound, looks(experiment), experiment.metric
    figure = Figure(figsize=(WIDTH, 0.8 + 0.25 * max(len(groups), 3)), layout="constrained")
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
                told = f"off the axis: {', '.join(f'{run.test:.2f}' for run in runs)}"
                axes.text(0.02, row, told, transform=axes.get_yaxis_transform(), fontsize=6.5, va="center", color=INK)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    unit = f", {metric.unit}" if metric.unit else ""
    label_axes(axes, None, f"test {metric.called} at the best validation epoch{unit}", None)
    handles = [
        Line2D([], [], marker="o", markersize=4, color=QUIET, linestyle="", label="one seed"),
        Line2D([], [], marker="|", color=INK, markersize=9, markeredgewidth=1.4, linestyle="", label="mean"),
        Line2D([], [], marker="|", color=QUIET, linewidth=0.8, label="± one standard error of the mean"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return files_of(figure)


@styled
def samples(experiment: Experiment) -> dict[str, bytes]:
    """What the first seed of each optimizer generated, from the same latents, after four of its epochs or fewer."""
    shown, cell = experiment.samples, WIDTH / 4
    epochs = sorted({round(epoch) for epoch in np.linspace(1, min(map(len, shown.values())), 4)})
    figure = Figure(figsize=(cell * len(epochs), 0.3 + 0.56 * cell * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(epochs), squeeze=False)
    for panels, (label, generated) in zip(grid, shown.items(), strict=True):
        panels[0].set_ylabel(label)
        for axes, epoch in zip(panels, epochs, strict=True):
            images = [_framed(text) for text in generated[epoch - 1]]
            half = len(images) // 2
            axes.imshow(np.vstack([np.hstack(images[:half]), np.hstack(images[half : 2 * half])]))
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", loc="left")
    return files_of(figure)


@styled
def boxes(experiment: Experiment) -> dict[str, bytes]:
    """The test metric at the best validation epoch: quartiles, median and range over the seeds, and every seed."""
    groups, drawn = experiment.sound, looks(experiment)
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    values = [[run.test for run in runs] for runs in groups.values()]
    axes.boxplot(values, whis=(0, 100), widths=0.5, medianprops={"color": INK}, boxprops={"color": QUIET})
    for i, (label, tests) in enumerate(zip(groups, values, strict=True), 1):
        look = drawn[label]
        axes.plot([i] * len(tests), tests, look.marker, color=look.colour, markersize=4, alpha=0.8)
    axes.set_xticks(range(1, 1 + len(groups)), list(groups), rotation=20)
    label_axes(axes, f"Test {experiment.measured}", None, None)
    return files_of(figure)


@styled
def times(experiment: Experiment) -> dict[str, bytes]:
    """The time of `step()` and of a whole training step: medians over the steps and the seeds."""
    groups, drawn = experiment.sound, looks(experiment)
    figure = Figure(figsize=(WIDTH, 0.6 + 0.21 * max(len(groups), 3)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels,
        ("optimizer_seconds", "step_seconds"),
        ("step() of the optimizer, ms", "whole training step, ms"),
        strict=True,
    ):
        values = [1e3 * float(np.median([float(run.outcome[key]) for run in runs])) for runs in groups.values()]
        bars = axes.barh(range(len(groups)), values, height=0.66, color=[drawn[label].colour for label in groups])
        told = [f"{value:.2f}" if math.isfinite(value) else "not measured" for value in values]
        axes.bar_label(bars, told, padding=2, fontsize=7)
        axes.set_xlim(0, 1.13 * max(filter(math.isfinite, values), default=1.0))
        axes.set_yticks(range(len(groups)), list(groups))
        axes.tick_params(axis="y", length=0)
        label_axes(axes, title, None, None)
        axes.grid(visible=False, axis="y")
    panels[0].invert_yaxis()
    return files_of(figure)


def _framed(png: str) -> NDArray[np.uint8]:
    """The pixels of a PNG file in base64, with a white line around them."""
    return np.pad(pixels(png), ((1, 1), (1, 1), (0, 0)), constant_values=255)


def label_axes(axes: Axes, title: str | None, x: str | None, y: str | None, *, grid: bool = True) -> None:
    """The lab's plain axes: open above and to the right, a title at the left, a pale grid behind."""
    if title:
        axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x or "")
    axes.set_ylabel(y or "")
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
