"""The animation of walks over one function, as a GIF, and as an MP4 where ffmpeg is installed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageSequence

from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report.style import INK, WIDTH, label_axes, on_dark, styled
from adabelief.lab.report.walk_figures import contours, handles, labels, note_sgd, path, style_of
from adabelief.lab.tasks.toy import Walk

FRAMES, PER_SECOND, DPI = 70, 14, 100

STILL = 1.5
"""Seconds for which the last frame stays."""


@styled
def race(walks: Sequence[Walk]) -> dict[str, bytes]:
    """An animation of the walks over one function: the paths, and the value by step."""
    order = labels(walks)
    walks = sorted(walks, key=lambda walk: order.index(walk.optimizer))
    length = max((walk.steps for walk in walks if walk.arrival is not None), default=max(w.steps for w in walks))
    figure, axes = _moving(walks, order, length)
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, writer in _writers().items():
            file = Path(folder, f"race.{suffix}")
            with writer.saving(figure, str(file), DPI):
                for end in np.linspace(0, length, FRAMES, dtype=int):
                    _frame(axes, walks, int(end))
                    writer.grab_frame()
                for _ in range(round(STILL * PER_SECOND)):
                    writer.grab_frame()
            made[suffix] = file.read_bytes()
    return {**made, "dark.gif": _dark(made["gif"])}


def _writers() -> dict[str, AbstractMovieWriter]:
    writers: dict[str, AbstractMovieWriter] = {"gif": PillowWriter(fps=PER_SECOND)}
    if FFMpegWriter.isAvailable():
        # The codec takes even sizes only.
        arguments = ["-pix_fmt", "yuv420p", "-crf", "18", "-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2"]
        writers["mp4"] = FFMpegWriter(fps=PER_SECOND, extra_args=arguments)
    return writers


def _moving(walks: Sequence[Walk], order: Sequence[str], length: int) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure whose still parts are drawn once, as one image behind two axes for what moves."""
    function, values = FUNCTIONS[walks[0].function], [walk.value for walk in walks]
    still = Figure(figsize=(WIDTH, 3.6), dpi=DPI)
    left, right = still.subplots(1, 2)
    contours(left, function)
    label_axes(left, f"{function.name}: from the circle to the star", "x", "y")
    note_sgd(left, function)
    right.set_yscale("log")
    right.set_xlim(0, length)
    right.set_ylim(min(value.min() for value in values) / 2, 2 * max(value[0] for value in values))
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    right.legend(handles=handles(order), loc="lower left")
    label_axes(right, "value of the function (log scale)", "step", None)
    drawn = io.BytesIO()
    still.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    moving = Figure(figsize=(WIDTH, 3.6), dpi=DPI)
    moving.figimage(np.asarray(Image.open(drawn).convert("RGB")), zorder=-1)
    moving.set_layout_engine("none")  # the places are those of the still one
    panels = []
    for axes in (left, right):
        panel = moving.add_axes(axes.get_position(), frame_on=False)
        panel.set(xlim=axes.get_xlim(), yscale=axes.get_yscale())
        panel.set(ylim=axes.get_ylim())
        panel.set_axis_off()
        panels.append(panel)
    return moving, (panels[0], panels[1])


def _frame(panels: tuple[Axes, Axes], walks: Sequence[Walk], end: int) -> None:
    left, right = panels
    for axes in panels:
        for artist in (*axes.lines, *axes.texts):
            artist.remove()
    for walk in walks:
        reached = min(end, walk.steps)
        path(left, walk, reached, head=True)
        steps = np.linspace(0, reached, 400, dtype=int)
        right.plot(steps, walk.value[steps], **style_of(walk.optimizer))
    left.text(0.03, 0.93, f"step {end:,}", transform=left.transAxes, fontsize=9, color=INK)


def _dark(gif: bytes) -> bytes:
    """The same for pages with light on dark: a frame has few colours, and only these change."""
    frames, durations = [], []
    with Image.open(io.BytesIO(gif)) as image:
        for frame in ImageSequence.Iterator(image):
            indexed = frame.convert("RGB").quantize()
            palette = np.array(indexed.getpalette(), dtype=float).reshape(-1, 3) / 255
            indexed.putpalette(np.uint8(np.round(255 * on_dark(palette))).tobytes())
            frames.append(indexed)
            durations.append(frame.info["duration"])
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()
