"""Figures of walks over functions of two variables: paths, distances, and an animation."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

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
GIF_FRAMES = 90
GIF_MILLISECONDS = 60


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
        label_axes(axes, f"{function.name}\n", "x", "y", grid=False)
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
        label_axes(axes, function.name, "step", "distance to the optimum")
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
    label_axes(left, f"{function.name}: from the circle to the star", "x", "y", grid=False)
    _note_sgd(left, function)
    right.set_xlim(0, length)
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.set_yscale("log")
    right.set_ylim(min(value.min() for value in values) / 2, 2 * max(value[0] for value in values))
    right.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    right.legend(handles=_handles(order), loc="lower left")
    label_axes(right, "value of the function (log scale)", "step", None)
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
