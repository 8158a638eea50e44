"""Figures of walks over functions of two variables: paths and distances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from adabelief.lab.models.functions import FUNCTIONS, Function
from adabelief.lab.report.style import COLOURS, INK, QUIET, WIDTH, files_of, label_axes, styled
from adabelief.lab.tasks.toy import NEAR, Walk

# Nested widths: where paths coincide, all of them stay in sight.
UNDAMPED = "SGD, undamped"
RACERS: Mapping[str, dict[str, Any]] = {
    "SGD": {"linewidth": 3.3, "alpha": 0.75},
    "Adam": {"linewidth": 2.0},
    "AdaBelief": {"linewidth": 1.1},
}


@styled
def trajectories(walks: Sequence[Walk]) -> dict[str, bytes]:
    """The paths over the contours of each function."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        contours(axes, function)
        for walk in group:
            if walk.optimizer != UNDAMPED:
                path(axes, walk, walk.steps)
        label_axes(axes, f"{function.name}\n", "x", "y")
        axes.text(0, 1.03, function.formula, transform=axes.transAxes, fontsize=5.6, color=INK, in_layout=False)
        note_sgd(axes, function)
    ends = [
        Line2D([], [], marker="o", color="white", markeredgecolor=INK, linestyle="", label="start"),
        Line2D([], [], marker="*", color="gold", markeredgecolor=INK, markersize=9, linestyle="", label="optimum"),
    ]
    named = [label for label in labels(walks) if label != UNDAMPED]
    figure.legend(handles=[*handles(named), *ends], loc="outside upper center", ncols=5)
    return files_of(figure)


@styled
def distances(walks: Sequence[Walk]) -> dict[str, bytes]:
    """The distance to the optimum by step, on log scales; a dot where a walk has arrived for good."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        for walk in group:
            look = style_of(walk.optimizer)
            colour, look["linewidth"] = look["color"], 0.7 * look["linewidth"]
            arrival = walk.steps if walk.arrival is None else walk.arrival
            steps = _log_spaced(1, arrival)
            axes.plot(steps, walk.distance[steps], **look)
            if walk.arrival is not None:
                after = _log_spaced(arrival, walk.steps)
                axes.plot(after, walk.distance[after], color=colour, linewidth=0.6, alpha=0.4)
                axes.plot(arrival, NEAR, "o", color=colour, markeredgecolor="white", markersize=5, zorder=4)
        axes.axhline(NEAR, color=QUIET, linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, 4e4)
        axes.set_ylim(NEAR / 20, 15)
        axes.minorticks_off()
        label_axes(axes, function.name, "step", "distance to the optimum")
        note_sgd(axes, function)
    figure.legend(handles=handles(labels(walks)), loc="outside upper center", ncols=5)
    return files_of(figure)


def _panels(walks: Sequence[Walk]) -> tuple[Figure, list[tuple[Function, list[Walk], Axes]]]:
    names = [name for name in FUNCTIONS if any(walk.function == name for walk in walks)]
    rows, columns = -(-len(names) // 3), min(3, len(names))
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.6 * WIDTH, 2.5 * rows))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    order, panels = labels(walks), []
    for name, axes in zip(names, grid, strict=False):
        group = [walk for walk in walks if walk.function == name]
        group.sort(key=lambda walk: order.index(walk.optimizer))
        panels.append((FUNCTIONS[name], group, axes))
    return figure, panels


def labels(walks: Sequence[Walk]) -> list[str]:
    """Who walks: the paper's three first, the widest line below the others."""
    present = dict.fromkeys(walk.optimizer for walk in walks)
    return sorted(present, key=lambda label: list(RACERS).index(label) if label in RACERS else len(RACERS))


def style_of(label: str) -> dict[str, Any]:
    """Colour and line of a walker; the paper's three nested, the others thin and dashed."""
    colour = COLOURS[re.split(r"[ ,]", label)[0]]
    others = {"linewidth": 1.5, "linestyle": ":" if label == UNDAMPED else "--"}
    return {"color": colour, **RACERS.get(label, others)}


def handles(labels: Sequence[str]) -> list[Line2D]:
    """The lines of a legend."""
    return [Line2D([], [], label=label, **style_of(label)) for label in labels]


def contours(axes: Axes, function: Function) -> None:
    """A function's level lines, its start and its optimum."""
    axes.grid(visible=False)
    x, y = np.meshgrid(np.linspace(*function.x_range, 241), np.linspace(*function.y_range, 241))
    height = np.log10(function.value(x, y) + 1e-3)
    axes.contourf(x, y, height, levels=14, cmap="Greys", alpha=0.2, antialiased=True, zorder=0.5)
    axes.set_rasterization_zorder(1)
    axes.contour(x, y, height, levels=14, colors="#aaaaaa", linewidths=0.4, linestyles="solid", zorder=0.6)
    axes.set_xlim(function.x_range)
    axes.set_ylim(function.y_range)
    axes.plot(*function.start, "o", color="white", markeredgecolor=INK, markersize=5, zorder=5)
    axes.plot(*function.optimum, "*", color="gold", markeredgecolor=INK, markersize=9, zorder=5)


def note_sgd(axes: Axes, function: Function) -> None:
    """Says that SGD walks with another learning rate, where it does."""
    if function.sgd_lr != 1e-3:
        note = f"SGD at lr {function.sgd_lr:g}, the others at 0.001"
        axes.text(0.98, 0.03, note, transform=axes.transAxes, fontsize=6.5, color=INK, ha="right")


def path(axes: Axes, walk: Walk, end: int, *, head: bool = False) -> list[Line2D]:
    """A walk's way up to a step, thinned out, with a dot at its end if asked for."""
    points = walk.path[np.unique(np.linspace(0, end, 3000, dtype=int))]
    look = style_of(walk.optimizer)
    lines = axes.plot(*points.T, solid_capstyle="round", **look)
    if head:
        lines += axes.plot(*points[-1], "o", color=look["color"], markeredgecolor="white", markersize=6, zorder=6)
    return lines


def _log_spaced(first: int, last: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.geomspace(max(first, 1), max(last, 1), 1500).astype(np.int64), last))
