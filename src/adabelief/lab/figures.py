"""The lab's figures, as the bytes of PNG and GIF files. Nothing global of matplotlib's is touched."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from adabelief.lab.results import by_optimizer
from adabelief.lab.tasks.toy import FUNCTIONS, NEAR, Function, Walk
from adabelief.lab.train import Run

# Paul Tol's "muted" scheme, safe for colour-blind readers; AdaBelief, always the same, stands apart.
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
}
MARKERS: Mapping[str, str] = dict(zip(COLOURS, "osD^vP*Xh", strict=True))
INK = "#222222"
QUIET = "#777777"

# Nested widths: where paths coincide, all of them stay in sight.
RACERS: Mapping[str, dict[str, Any]] = {
    "SGD": {"linewidth": 5.0, "alpha": 0.75},
    "Adam": {"linewidth": 3.0},
    "AdaBelief": {"linewidth": 1.6},
}
GIF_FRAMES = 90
GIF_MILLISECONDS = 60


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, facecolor="white")
    return file.getvalue()


def curves(runs: Sequence[Run], decayed: int) -> bytes:
    """Training loss and validation accuracy by epoch: the mean over the seeds, and their range as a band.

    Args:
        runs: What finished.
        decayed: The epoch after which the learning rate was divided by 10.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    lowest = 100.0
    for name, group in by_optimizer(runs):
        history = np.array([run.epochs for run in group])
        epochs = np.arange(1, history.shape[1] + 1)
        for axes, values in ((left, history[..., 0]), (right, 100 * history[..., 2])):
            line: dict[str, Any] = {"color": COLOURS[name], "zorder": 3.0 if name == "AdaBelief" else 2.0}
            axes.fill_between(epochs, values.min(0), values.max(0), alpha=0.08, linewidth=0, **line)
            axes.plot(
                *(epochs, values.mean(0)),
                **line,
                marker=MARKERS[name],
                markersize=4,
                linewidth=2.6 if name == "AdaBelief" else 1.4,
                label=name,
            )
        lowest = min(lowest, 100 * float(history[:, history.shape[1] // 2 :, 2].min()))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.axvline(decayed + 0.5, color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
    left.set_yscale("log")
    _label(left, "Training loss", "epoch", "cross-entropy (log scale)")
    floor = max(0.0, np.floor(min(lowest, 98.0)) - 2)
    right.set_ylim(floor, 100 + 0.02 * (100 - floor))
    _label(right, "Validation accuracy", "epoch", f"% (the axis begins at {floor:.0f} %)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return png(figure)


def accuracies(runs: Sequence[Run], error: float) -> bytes:
    """Test accuracy at the best validation epoch: every seed, the mean, and the test set's standard error.

    Args:
        runs: What finished.
        error: One standard error, in points.
    """
    groups = by_optimizer(runs)
    figure = Figure(figsize=(11, 1.2 + 0.42 * max(len(groups), 3)), layout="constrained")
    axes = figure.subplots()
    for row, (name, group) in enumerate(groups):
        values = 100 * np.array([run.test_accuracy for run in group])
        offsets = 0.2 * (np.arange(len(values)) - (len(values) - 1) / 2)
        axes.errorbar(values.mean(), row, xerr=error, color=QUIET, linewidth=1, capsize=3, zorder=1)
        axes.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=2, zorder=2)
        axes.scatter(values, row + offsets, s=40, color=COLOURS[name], marker=MARKERS[name], zorder=3)
    axes.set_yticks(range(len(groups)), [name for name, _ in groups])
    axes.invert_yaxis()
    _label(axes, None, "test accuracy at the best validation epoch, %", None)
    handles = [
        Line2D([], [], marker="o", color=QUIET, linestyle="", label="one seed"),
        Line2D([], [], marker="|", color=INK, markersize=14, markeredgewidth=2, linestyle="", label="mean"),
        Line2D([], [], marker="|", color=QUIET, label="± one standard error of a proportion, from the test set's size"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return png(figure)


def trajectories(walks: Sequence[Walk]) -> bytes:
    """The paths over the contours of each function."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        _contours(axes, function)
        for walk in group:
            if walk.optimizer in RACERS:
                _path(axes, walk, walk.steps)
        _ends(axes, function)
        _label(axes, f"{function.name}\n", "x", "y", grid=False)
        axes.text(0, 1.025, function.formula, transform=axes.transAxes, fontsize=8, color=INK)
        _note_sgd(axes, function)
    ends = [
        Line2D([], [], marker="o", color="white", markeredgecolor=INK, linestyle="", label="start"),
        Line2D([], [], marker="*", color="gold", markeredgecolor=INK, markersize=13, linestyle="", label="optimum"),
    ]
    figure.legend(handles=[*_racer_handles(), *ends], loc="outside upper center", ncols=5, frameon=False)
    return png(figure)


def distances(walks: Sequence[Walk]) -> bytes:
    """The distance to the optimum by step, on log scales; a dot where a walk has arrived for good."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        for walk in group:
            name, damped = walk.optimizer.partition(",")[0], walk.optimizer in RACERS
            colour, style = COLOURS[name], "-" if damped else ":"
            width = RACERS[name]["linewidth"] * 0.7 if damped else 1.4
            arrival = walk.steps if walk.arrival is None else walk.arrival
            steps = _log_spaced(1, arrival)
            axes.plot(steps, walk.distance[steps], color=colour, linestyle=style, linewidth=width)
            if walk.arrival is not None:
                after = _log_spaced(arrival, walk.steps)
                axes.plot(after, walk.distance[after], color=colour, linewidth=0.6, alpha=0.4)
                axes.plot(arrival, NEAR, "o", color=colour, markeredgecolor="white", markersize=8, zorder=4)
        axes.axhline(NEAR, color=QUIET, linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, 4e4)
        axes.set_ylim(NEAR / 20, 15)
        axes.minorticks_off()
        _label(axes, function.name, "step", "distance to the optimum")
        _note_sgd(axes, function)
    undamped = Line2D([], [], color=COLOURS["SGD"], linestyle=":", label="SGD, undamped")
    figure.legend(handles=[*_racer_handles(), undamped], loc="outside upper center", ncols=4, frameon=False)
    return png(figure)


def race(walks: Sequence[Walk]) -> bytes:
    """An animated GIF of the walks over one function: the paths, and the value by step."""
    walks = [walk for walk in walks if walk.optimizer in RACERS]
    values = [walk.value for walk in walks]
    function = FUNCTIONS[walks[0].function]
    length = max((walk.steps for walk in walks if walk.arrival is not None), default=max(w.steps for w in walks))
    figure = Figure(figsize=(9, 4.5), dpi=90, layout="constrained", facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _contours(left, function)
    _ends(left, function)
    _label(left, f"{function.name}: from the circle to the star", "x", "y", grid=False)
    _note_sgd(left, function)
    right.set_xlim(0, length)
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.set_yscale("log")
    right.set_ylim(min(value.min() for value in values) / 2, 2 * max(value[0] for value in values))
    right.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    right.legend(handles=_racer_handles(), loc="lower left", frameon=False)
    _label(right, "value of the function (log scale)", "step", None)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for end in np.linspace(0, length, GIF_FRAMES, dtype=int):
        canvas.restore_region(still)
        for walk, value in zip(walks, values, strict=True):
            reached = min(int(end), walk.steps)
            steps = np.linspace(0, reached, 400, dtype=int)
            curve = right.plot(steps, value[steps], color=COLOURS[walk.optimizer], **RACERS[walk.optimizer])
            for axes, lines in ((left, _path(left, walk, reached, head=True)), (right, curve)):
                for line in lines:
                    axes.draw_artist(line)
                    line.remove()
        step = left.text(0.03, 0.93, f"step {end:,}", transform=left.transAxes, fontsize=12, color=INK)
        left.draw_artist(step)
        step.remove()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    # Small spots of colour, such as the star, would get no place in a palette made from a frame alone.
    swatches = [
        Image.new("RGB", (frames[0].width, 40), colour) for colour in ("gold", *(COLOURS[name] for name in RACERS))
    ]
    palette = Image.fromarray(np.concatenate([np.asarray(part) for part in (frames[-1], *swatches)])).quantize(128)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [GIF_MILLISECONDS] * (len(frames) - 1) + [2500]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()


def _label(axes: Axes, title: str | None, x: str | None, y: str | None, *, grid: bool = True) -> None:
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x or "")
    axes.set_ylabel(y or "")
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)


def _panels(walks: Sequence[Walk]) -> tuple[Figure, list[tuple[Function, list[Walk], Axes]]]:
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.subplots(2, 3).flat
    order = list(RACERS)
    panels = []
    for (name, function), axes in zip(FUNCTIONS.items(), grid, strict=True):
        group = [walk for walk in walks if walk.function == name]
        group.sort(key=lambda walk: order.index(walk.optimizer.partition(",")[0]))
        panels.append((function, group, axes))
    return figure, panels


def _racer_handles() -> list[Line2D]:
    return [Line2D([], [], color=COLOURS[name], label=name, **style) for name, style in RACERS.items()]


def _contours(axes: Axes, function: Function) -> None:
    x, y = np.meshgrid(np.linspace(*function.x_range, 241), np.linspace(*function.y_range, 241))
    height = np.log10(function.value(x, y) + 1e-3)
    axes.contourf(x, y, height, levels=14, cmap="Greys", alpha=0.2, antialiased=True)
    axes.contour(x, y, height, levels=14, colors="#aaaaaa", linewidths=0.4, linestyles="solid")
    axes.set_xlim(function.x_range)
    axes.set_ylim(function.y_range)


def _note_sgd(axes: Axes, function: Function) -> None:
    if function.sgd_lr != 1e-3:
        note = f"SGD at lr {function.sgd_lr:g}, the others at 0.001"
        axes.text(0.98, 0.03, note, transform=axes.transAxes, fontsize=8, color=INK, ha="right")


def _ends(axes: Axes, function: Function) -> None:
    axes.plot(*function.start, "o", color="white", markeredgecolor=INK, markersize=7, zorder=5)
    axes.plot(*function.optimum, "*", color="gold", markeredgecolor=INK, markersize=13, zorder=5)


def _path(axes: Axes, walk: Walk, end: int, *, head: bool = False) -> list[Line2D]:
    points = walk.path[np.unique(np.linspace(0, end, 3000, dtype=int))]
    colour = COLOURS[walk.optimizer]
    lines = axes.plot(*points.T, color=colour, solid_capstyle="round", **RACERS[walk.optimizer])
    if head:
        lines += axes.plot(*points[-1], "o", color=colour, markeredgecolor="white", markersize=9, zorder=6)
    return lines


def _log_spaced(first: int, last: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.geomspace(max(first, 1), max(last, 1), 1500).astype(np.int64), last))
