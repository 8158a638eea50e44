"""The lab's style: how its figures look, and what they are saved as, as wide as a page of a paper.

What it changes of matplotlib's settings, it changes for as long as a figure takes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.statistics import contenders

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
