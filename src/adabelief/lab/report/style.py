"""The lab's style: how its figures look, on white and on dark, and what they are saved as.

What it changes of matplotlib's settings, it changes for as long as a figure takes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import resources
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adabelief.lab.analysis.statistics import Verdict

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
    "EAdam": "#111111",
    "AdamW-same-decay": "#4477AA",
    "EAdamW": "#555555",
    "RangerAdaBelief": "#E69F00",
    "Lion": "#EE3377",
    "Muon": "#0077BB",
    "SGD-Nesterov": "#6699CC",
}


MARKERS: Mapping[str, str] = dict(zip(COLOURS, "osD^vP*Xh<>pd8H^s", strict=True))


DASHES = ((0, (4, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


INK, QUIET = "#222222", "#777777"

PAPER = "#191a1c"
"""A dark page, as page.css has it."""

WIDTH = 7.2
"""Inches: the text of a page in two columns."""

DPI = 250

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
        # matplotlib warns of every font of a style that is not installed.
        installed = set(font_manager.get_font_names())
        sheet = resources.files("adabelief.lab.report") / "lab.mplstyle"
        fonts = {"font.sans-serif": [name for name in SANS if name in installed]}
        with resources.as_file(sheet) as path, matplotlib.style.context([path, fonts]):
            return draw(*args, **kwargs)

    return drawn


def files_of(figure: Figure) -> dict[str, bytes]:
    """The figure as files, by suffix: a PNG on white, an SVG for any page. The same figure has the same bytes."""
    made = {}
    for suffix, more in (("png", {"facecolor": "white"}), ("svg", {"metadata": {"Date": None}})):
        file = io.BytesIO()
        figure.savefig(file, format=suffix, dpi=DPI, **more)
        figure.set_layout_engine("none")  # laid out once, for all files
        made[suffix] = file.getvalue()
    return {**made, "svg": for_dark_pages(made["svg"])}


def for_dark_pages(svg: bytes) -> bytes:
    """An SVG that a browser draws in other colours where the page around it is dark."""
    text = svg.decode()
    rules = "".join(
        f'[style*="{part}: {colour}"]{{{part}:{to_hex(tuple(on_dark(np.array(to_rgb(colour)))))} !important}}'
        for part, colour in sorted(set(re.findall(r"(fill|stroke): (#[0-9a-f]{6})", text)))
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{{rules}}}</style>"
    return text.replace("<defs>", f"<defs>{style}", 1).encode()


def on_dark(colours: NDArray[Any]) -> NDArray[np.float64]:
    """Colours (..., 3) of a white page, from 0 to 1, as a dark page has them.

    Their lightness is turned round, with hue and chroma as they are; colours that are strong and light enough stay.
    White becomes the page's own dark.
    """
    low, high = colours.min(-1, keepdims=True), colours.max(-1, keepdims=True)
    shift = 1 - low - high
    strong = np.clip(2.5 * (high - low), 0, 1)
    turned = np.clip(colours + np.where(shift < 0, (1 - strong) * shift, shift), 0, 1)
    paper = np.array(to_rgb(PAPER))
    return np.asarray(paper + turned * (1 - paper))


def looks(verdict: Verdict) -> dict[str, Look]:
    """A look for each label: AdaBelief solid, rivals dashed; further settings of one optimizer hollow and darker."""
    drawn: dict[str, Look] = {}
    for label, variant in verdict.looks.items():
        name = verdict.experiment.groups[label][0].config.optimizer
        line = "-" if name == "AdaBelief" and not variant else DASHES[(len(drawn) + variant) % len(DASHES)]
        red, green, blue = (c * 0.7**variant for c in to_rgb(COLOURS[name]))
        drawn[label] = Look(to_hex((red, green, blue)), MARKERS[name], line, not variant)
    return drawn


def label_axes(axes: Axes, title: str | None, x: str | None, y: str | None) -> None:
    """Title and labels, as far as there are some."""
    if title:
        axes.set_title(title)
    axes.set_xlabel(x or "")
    axes.set_ylabel(y or "")
