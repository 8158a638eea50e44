"""How a probe's report is shown: a table of rich, a figure of matplotlib, scalars. Neither is imported unasked."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adabelief.torch.probe.measure import DECADE, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

Report = Mapping[str, Any]

COLUMNS: Mapping[str, Callable[[Report], str]] = {
    "elements": lambda x: f"{x['elements']:,}",
    "ruled by eps": lambda x: _share(x["ruled_by_eps"]),
    "floor": lambda x: _number(x["floor"]),
    "denominator": lambda x: _number(x["denominator"]["50"]),
    "(g − m)/g": lambda x: _number(x["residual"]["50"]),
    "m/denominator": lambda x: _number(x["step"]["50"]),
    "its 99 %": lambda x: _number(x["step"]["99"]),
    "update/weight": lambda x: _number(x["update_to_weight"]),
    "eps for 90 %": lambda x: _number(x["adaptive_eps"]["90"]),
}
"""Columns of a table, with what each has of some parameters' statistics: medians of absolute values, mostly.

Their names have no bar, which would end a cell in Markdown.
"""


def table(report: Report) -> Table:
    """A row for each layer and, last, for each group; the verdict stands above.

    Raises:
        ImportError: If rich is missing.
    """
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise ImportError("the probe's table needs rich: pip install rich") from error
    title = f"step {report['step']}: {report['verdict']}" if report else "nothing was probed yet"
    made = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column("layer", overflow="fold")
    for name in COLUMNS:  # whole numbers in 80 columns: names of layers give way
        made.add_column(Text(_heading(name)), justify="right", no_wrap=True)
    for name, stats in report.get("layers", {}).items():
        made.add_row(Text(name), *cells(stats))
    made.add_section()
    for name, stats in report.get("groups", {}).items():
        made.add_row(Text(f"group {name}"), *cells(stats))
    return made


def cells(stats: Report) -> list[str]:
    """The cells of a row, in the order of COLUMNS."""
    return [cell(stats) for cell in COLUMNS.values()]


def scalars(report: Report) -> dict[str, float]:
    """What a curve can be drawn of, by names for TensorBoard: `probe/ruled_by_eps/layers/fc.weight`."""
    found: dict[str, float | None] = {}
    for kind in ("groups", "layers"):
        for name, stats in report.get(kind, {}).items():
            found.update({f"probe/{key}/{kind}/{name}": value for key, value in curves(stats).items()})
    return {name: value for name, value in found.items() if value is not None}


def curves(stats: Report) -> dict[str, float | None]:
    """The numbers of some parameters that are worth a curve."""
    return {
        "ruled_by_eps": stats["ruled_by_eps"],
        "denominator": stats["denominator"]["50"],
        "floor": stats["floor"],
        "residual": stats["residual"]["50"],
        "step": stats["step"]["50"],
        "step_99": stats["step"]["99"],
        "update_to_weight": stats["update_to_weight"],
        "adaptive_eps_90": stats["adaptive_eps"]["90"],
    }


def picture(report: Report) -> Figure:
    """The distribution of the denominator in each group, with its floor.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If nothing was probed yet.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the probe's picture needs matplotlib: pip install matplotlib") from error
    if not report.get("groups"):
        raise ValueError("picture: nothing was probed yet; call it after `every` steps")
    groups = report["groups"]
    figure = Figure(figsize=(7.2, 0.8 + 1.9 * len(groups)), layout="constrained")
    for axes, (name, stats) in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups.items(), strict=True):
        distribution(axes, stats)
        of, said = f"group {name}, " if len(groups) > 1 else "", stats["verdict"].replace("; ", ";\n")
        whole_decades(axes)
        axes.set_title(f"{of}floor {floor_of(stats)}: {said}", fontsize=8, loc="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    figure.supxlabel(f"denominator after step {report['step']}", fontsize=9)
    return figure


def distribution(axes: Axes, stats: Report, colour: str = "#D55E00") -> None:
    """Draws shares of elements by denominator, and by what it would be without eps; the floor is a line."""
    looks: dict[str, dict[str, Any]] = {
        "denominator": {"label": "denominator", "fill": True, "color": colour, "alpha": 0.55},
        "own": {"label": "without eps: √v", "color": "#222222"},
    }
    for kind, look in looks.items():
        shares = np.asarray(stats["histogram"][kind]["shares"])
        edges = 10.0 ** (stats["histogram"][kind]["first"] + np.arange(shares.size + 1) / DECADE)
        axes.stairs(100 * shares, edges, **look)
    axes.axvline(stats["floor"], color="#222222", linestyle="--", label="floor")
    axes.set_xscale("log")
    axes.set_ylabel("% of elements")


def whole_decades(axes: Axes) -> None:
    """Has a log scale begin and end at a power of 10, with a label at each: within a decade there would be none."""
    low, high = (math.log10(x) for x in axes.get_xlim())
    axes.set_xlim(10.0 ** math.floor(low), 10.0 ** math.ceil(high))
    axes.xaxis.set_minor_formatter("")


def floor_of(stats: Report) -> str:
    """The floor of the denominator in words: `3.2e-07`."""
    return _number(stats["floor"])


def _heading(name: str) -> str:
    """The name of a column in lines that are no wider than its numbers."""
    short = name.replace("denominator", "denom.").replace("/", "/ ").replace("/ g", "/g").replace(" %", "\u00a0%")
    return textwrap.fill(short, 7, break_long_words=False)


def _share(x: float | None) -> str:
    return "–" if x is None else percent(x)


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.2g}"
