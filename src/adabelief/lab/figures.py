"""The lab's figures, as the bytes of PNG, SVG and GIF files, as wide as a page of a paper.

What they change of matplotlib's settings, they change for as long as a figure takes.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from adabelief.lab.findings import standard_error
from adabelief.lab.results import Experiment, pixels
from adabelief.lab.tasks.toy import FUNCTIONS, NEAR, Function, Walk

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

# Nested widths: where paths coincide, all of them stay in sight.
UNDAMPED = "SGD, undamped"
RACERS: Mapping[str, dict[str, Any]] = {
    "SGD": {"linewidth": 3.3, "alpha": 0.75},
    "Adam": {"linewidth": 2.0},
    "AdaBelief": {"linewidth": 1.1},
}
GIF_FRAMES = 90
GIF_MILLISECONDS = 60


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
    """A look for each label: AdaBelief solid, rivals dashed; further settings of one optimizer hollow and darker."""
    drawn: dict[str, Look] = {}
    variants: dict[str, int] = {}
    for label, runs in experiment.groups.items():
        name = runs[0].config.optimizer
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
            if all((lowest > 0).all() for lowest, _ in ranges.values()):
                axes.set_yscale("log")
            _label(axes, title, "epoch", None)
        else:
            hidden = _zoom(axes, ranges, metric.higher_is_better)
            _label(axes, _in_lines(title, metric.unit), "epoch", None)
            if hidden:
                axes.text(
                    *(0.97, 0.05 if metric.higher_is_better else 0.91, f"off the axis: {', '.join(hidden)}"),
                    transform=axes.transAxes,
                    fontsize=6,
                    ha="right",
                    zorder=5,
                    bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
                )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), handlelength=3.0)
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
    _label(axes, None, f"test {metric.called} at the best validation epoch{unit}", None)
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
    _label(axes, None, None, f"test {experiment.measured}")
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
        _label(axes, title, None, None)
        axes.grid(visible=False, axis="y")
    panels[0].invert_yaxis()
    return files_of(figure)


@styled
def trajectories(walks: Sequence[Walk]) -> dict[str, bytes]:
    """The paths over the contours of each function."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        _contours(axes, function)
        for walk in group:
            if walk.optimizer != UNDAMPED:
                _path(axes, walk, walk.steps)
        _ends(axes, function)
        _label(axes, f"{function.name}\n", "x", "y", grid=False)
        axes.text(0, 1.03, function.formula, transform=axes.transAxes, fontsize=5.6, color=INK, in_layout=False)
        _note_sgd(axes, function)
    ends = [
        Line2D([], [], marker="o", color="white", markeredgecolor=INK, linestyle="", label="start"),
        Line2D([], [], marker="*", color="gold", markeredgecolor=INK, markersize=9, linestyle="", label="optimum"),
    ]
    named = [label for label in _labels(walks) if label != UNDAMPED]
    figure.legend(handles=[*_handles(named), *ends], loc="outside upper center", ncols=5)
    return files_of(figure)


@styled
def distances(walks: Sequence[Walk]) -> dict[str, bytes]:
    """The distance to the optimum by step, on log scales; a dot where a walk has arrived for good."""
    figure, panels = _panels(walks)
    for function, group, axes in panels:
        for walk in group:
            style = _style(walk.optimizer)
            colour, style["linewidth"] = style["color"], 0.7 * style["linewidth"]
            arrival = walk.steps if walk.arrival is None else walk.arrival
            steps = _log_spaced(1, arrival)
            axes.plot(steps, walk.distance[steps], **style)
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
        _label(axes, function.name, "step", "distance to the optimum")
        _note_sgd(axes, function)
    figure.legend(handles=_handles(_labels(walks)), loc="outside upper center", ncols=5)
    return files_of(figure)


@styled
def race(walks: Sequence[Walk]) -> dict[str, bytes]:
    """An animation of the walks over one function: the paths, and the value by step; MP4 too where ffmpeg is there."""
    order = _labels(walks)
    walks = sorted(walks, key=lambda walk: order.index(walk.optimizer))
    values = [walk.value for walk in walks]
    function = FUNCTIONS[walks[0].function]
    length = max((walk.steps for walk in walks if walk.arrival is not None), default=max(w.steps for w in walks))
    figure = Figure(figsize=(WIDTH, 3.6), dpi=120, layout="constrained", facecolor="white")
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
    right.legend(handles=_handles(order), loc="lower left")
    _label(right, "value of the function (log scale)", "step", None)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for end in np.linspace(0, length, GIF_FRAMES, dtype=int):
        canvas.restore_region(still)
        for walk, value in zip(walks, values, strict=True):
            reached = min(int(end), walk.steps)
            steps = np.linspace(0, reached, 400, dtype=int)
            curve = right.plot(steps, value[steps], **_style(walk.optimizer))
            for axes, lines in ((left, _path(left, walk, reached, head=True)), (right, curve)):
                for line in lines:
                    axes.draw_artist(line)
                    line.remove()
        step = left.text(0.03, 0.93, f"step {end:,}", transform=left.transAxes, fontsize=9, color=INK)
        left.draw_artist(step)
        step.remove()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    # Small spots of colour, such as the star, would get no place in a palette made from a frame alone.
    swatches = [
        Image.new("RGB", (frames[0].width, 40), colour)
        for colour in ("gold", *(_style(label)["color"] for label in order))
    ]
    sample = Image.fromarray(np.concatenate([np.asarray(part) for part in (frames[-1], *swatches)])).quantize(128)
    colours = np.array(sample.getpalette(), dtype=np.uint8).reshape(-1, 3)
    colours[colours.min(1) > 246] = 255  # the paper stays white
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.tobytes())
    mp4 = _mp4(frames)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [GIF_MILLISECONDS] * (len(frames) - 1) + [2500]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return {"gif": file.getvalue(), **({"mp4": mp4} if mp4 else {})}


def _mp4(frames: Sequence[Image.Image]) -> bytes:
    """The frames as a film; nothing where there is no ffmpeg."""
    ffmpeg = shutil.which("ffmpeg")
    if not ffmpeg:
        return b""
    width, height = (2 * (n // 2) for n in frames[0].size)  # the codec takes even sizes only
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "race.mp4")
        command = [
            *(ffmpeg, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", f"{1000 / GIF_MILLISECONDS:.3f}", "-i", "-", "-pix_fmt", "yuv420p", "-crf", "18", str(film)),
        ]
        pixels = b"".join(frame.crop((0, 0, width, height)).tobytes() for frame in frames)
        done = subprocess.run(command, input=pixels, capture_output=True)
        return film.read_bytes() if done.returncode == 0 else b""


def _framed(png: str) -> NDArray[np.uint8]:
    """The pixels of a PNG file in base64, with a white line around them."""
    return np.pad(pixels(png), ((1, 1), (1, 1), (0, 0)), constant_values=255)


def _label(axes: Axes, title: str | None, x: str | None, y: str | None, *, grid: bool = True) -> None:
    if title:
        axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x or "")
    axes.set_ylabel(y or "")
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)


def _panels(walks: Sequence[Walk]) -> tuple[Figure, list[tuple[Function, list[Walk], Axes]]]:
    names = [name for name in FUNCTIONS if any(walk.function == name for walk in walks)]
    rows, columns = -(-len(names) // 3), min(3, len(names))
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.6 * WIDTH, 2.5 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    order, panels = _labels(walks), []
    for name, axes in zip(names, grid, strict=False):
        group = [walk for walk in walks if walk.function == name]
        group.sort(key=lambda walk: order.index(walk.optimizer))
        panels.append((FUNCTIONS[name], group, axes))
    return figure, panels


def _labels(walks: Sequence[Walk]) -> list[str]:
    """Who walks: the paper's three first, the widest line below the others."""
    present = dict.fromkeys(walk.optimizer for walk in walks)
    return sorted(present, key=lambda label: list(RACERS).index(label) if label in RACERS else len(RACERS))


def _style(label: str) -> dict[str, Any]:
    """Colour and line of a walker; the paper's three nested, the others thin and dashed."""
    colour = COLOURS[re.split(r"[ ,]", label)[0]]
    others = {"linewidth": 1.5, "linestyle": ":" if label == UNDAMPED else "--"}
    return {"color": colour, **RACERS.get(label, others)}


def _handles(labels: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=label, **_style(label)) for label in labels]


def _contours(axes: Axes, function: Function) -> None:
    x, y = np.meshgrid(np.linspace(*function.x_range, 241), np.linspace(*function.y_range, 241))
    height = np.log10(function.value(x, y) + 1e-3)
    axes.contourf(x, y, height, levels=14, cmap="Greys", alpha=0.2, antialiased=True, zorder=0.5)
    axes.set_rasterization_zorder(1)
    axes.contour(x, y, height, levels=14, colors="#aaaaaa", linewidths=0.4, linestyles="solid", zorder=0.6)
    axes.set_xlim(function.x_range)
    axes.set_ylim(function.y_range)


def _note_sgd(axes: Axes, function: Function) -> None:
    if function.sgd_lr != 1e-3:
        note = f"SGD at lr {function.sgd_lr:g}, the others at 0.001"
        axes.text(0.98, 0.03, note, transform=axes.transAxes, fontsize=6.5, color=INK, ha="right")


def _ends(axes: Axes, function: Function) -> None:
    axes.plot(*function.start, "o", color="white", markeredgecolor=INK, markersize=5, zorder=5)
    axes.plot(*function.optimum, "*", color="gold", markeredgecolor=INK, markersize=9, zorder=5)


def _path(axes: Axes, walk: Walk, end: int, *, head: bool = False) -> list[Line2D]:
    points = walk.path[np.unique(np.linspace(0, end, 3000, dtype=int))]
    style = _style(walk.optimizer)
    lines = axes.plot(*points.T, solid_capstyle="round", **style)
    if head:
        lines += axes.plot(*points[-1], "o", color=style["color"], markeredgecolor="white", markersize=6, zorder=6)
    return lines


def _log_spaced(first: int, last: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.geomspace(max(first, 1), max(last, 1), 1500).astype(np.int64), last))
