"""The figures of a comparison, as the bytes of PNG and SVG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from adabelief.lab.analysis.targets import TAU, performance_profile
from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.results import Results
from adabelief.lab.compare.verdict import Verdict, loss, rates, start, worst
from adabelief.lab.report.style import COLOURS, INK, MARKERS, QUIET, WIDTH, files_of, label_axes, styled
from adabelief.lab.report.words import number, signed
from adabelief.lab.search.space import Arm

ADAM_FLOOR = 1e-8
"""Adam's usual eps, which is the floor of its denominator."""

AXES = {"lr", "floor"}
"""What a heat map is over."""

SPARE = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
"""Of optimizers that have no colour of their own: Okabe and Ito's."""


class Look(NamedTuple):
    """How an arm is drawn."""

    color: str
    marker: str


def looks(plan: Plan) -> dict[str, Look]:
    """A look for each arm: that of its optimizer, darker where several arms have it, or lighter if it is dark."""
    optimizers = {arm.name: arm.optimizer for workload in plan.workloads for arm in workload.space.arms}
    drawn, used = {}, dict.fromkeys(optimizers.values(), 0)
    spare = dict(zip((name for name in used if name not in COLOURS), SPARE * 9, strict=False))
    for arm in plan.arms:
        name = optimizers.get(arm, arm)
        rgb = to_rgb(COLOURS.get(name) or spare.get(name, INK))
        end, fading = round(sum(rgb) < 1.2), 0.6 ** used.get(name, 0)
        red, green, blue = (end + (c - end) * fading for c in rgb)
        used[name] = used.get(name, 0) + 1
        drawn[arm] = Look(to_hex((red, green, blue)), MARKERS.get(name, "o"))
    return drawn


@styled
def forest(verdict: Verdict) -> dict[str, bytes]:
    """Every contrast as a multiple of its workload's margin, the good side to the right, with the equivalence zone."""
    rows, by_name = verdict.judged, {each.workload.name: each for each in verdict.results}
    figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * max(len(rows), 2)))
    axes, drawn = figure.subplots(), looks(verdict.plan)
    axes.axvspan(-1, 1, color=QUIET, alpha=0.15, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, one in enumerate(rows):
        each = by_name[one.workload]
        if one.contrast is None:
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the line at 0 would strike it out
            axes.text(0, row, one.verdict, ha="center", va="center", fontsize=7, color=INK, bbox=ground)
            continue
        unit = each.sign / each.workload.margin
        look = drawn[one.first]
        axes.errorbar(
            unit * one.contrast.difference,
            row,
            xerr=one.contrast.margin / each.workload.margin,
            color=look.color,
            marker=look.marker,
            markersize=4,
            capsize=2.5,
        )
        level = max(abs(one.contrast.difference), each.workload.margin)
        told = f"{signed(one.contrast.difference, beside=level)} ± {number(one.contrast.margin, beside=level)}"
        axes.annotate(
            f"{told}{each.metric.suffix}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7
        )
    axes.set_yticks(range(len(rows)), [f"{one.workload}: {one.first} − {one.second}" for one in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    label_axes(axes, None, "difference / margin of equivalence; to the right the first is ahead", None)
    return files_of(figure)


@styled
def profile(verdict: Verdict, whole: Sequence[Results]) -> dict[str, bytes]:
    """Performance profiles by steps to the target, over the workloads that all arms have."""
    figure = Figure(figsize=(0.6 * WIDTH, 2.6))
    axes, taus = figure.subplots(), np.linspace(1, TAU, 400)
    steps = [[verdict.times[each.workload.name].steps[arm] for each in whole] for arm in verdict.plan.arms]
    for i, (arm, share) in enumerate(zip(verdict.plan.arms, performance_profile(steps, taus), strict=True)):
        look = looks(verdict.plan)[arm]
        axes.step(taus, share + 0.004 * i, where="post", color=look.color, label=arm)  # beside each other where equal
    axes.set_ylim(-0.03, 1.06)
    label_axes(axes, None, "τ: steps to the target by those of the quickest", "share of workloads")
    axes.legend(loc="lower right")
    return files_of(figure)


@styled
def best_of(verdict: Verdict, each: Results) -> dict[str, bytes]:
    """What k trials of the search are expected to find, with bootstrap bands."""
    figure = Figure(figsize=(0.6 * WIDTH, 2.6))
    axes, drawn = figure.subplots(), looks(verdict.plan)
    for arm, curve in verdict.best_of[each.workload.name].items():
        k, look = np.arange(1, len(curve.expected) + 1), drawn[arm]
        axes.fill_between(k, curve.low, curve.high, color=look.color, alpha=0.12, linewidth=0)
        axes.plot(k, curve.expected, color=look.color, marker=look.marker, markersize=3, label=arm)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves = [curve.expected for curve in verdict.best_of[each.workload.name].values()]
    known = np.concatenate(curves)
    if room := 0.1 * float(np.ptp(known)) if len(known) else 0.0:  # bands may reach down to failures
        axes.set_ylim(known.min() - room, known.max() + room)
    label_axes(axes, None, "trials", f"expected best validation {_measured(each)}")
    axes.legend()
    return files_of(figure)


@styled
def sensitivity(verdict: Verdict, each: Results) -> dict[str, bytes]:
    """Validation loss of every trial by learning rate, and a line through the lowest of each eighth of the range."""
    figure = Figure(figsize=(0.6 * WIDTH, 2.6))
    axes, drawn, begun = figure.subplots(), looks(verdict.plan), start(each)
    for arm in each.workload.arms:
        look = drawn[arm]
        points: dict[str, Any] = {"color": look.color, "marker": look.marker, "s": 9, "alpha": 0.45, "linewidth": 0}
        trials = [one for one in each.trials(arm) if "lr" in one.trial.config.settings]
        lr = [float(one.trial.config.settings["lr"]) for one in trials]
        axes.scatter(lr, [min(loss(one), begun) for one in trials], **points)
        lowest = rates(each, arm)
        line = [rate for rate, _ in lowest], [min(loss(one), begun) for _, one in lowest]
        axes.plot(*line, color=look.color, linewidth=1.2, label=arm)
    axes.axhline(begun, color=QUIET, linestyle=":", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    label_axes(axes, None, "learning rate", "validation loss, at most the first")
    axes.legend()
    return files_of(figure)


def mapped(each: Results) -> list[str]:
    """The arms of which floor and learning rate vary."""
    return [arm.name for arm in each.workload.space.arms if _ranges(arm).keys() >= AXES]


def _ranges(arm: Arm) -> dict[str, tuple[float, float]]:
    """What varies on a log scale, and from where to where, in logs."""
    logged = [one for one in arm.dimensions if one.log and not one.choices]
    return {one.name: (math.log(one.low), math.log(one.high)) for one in logged}


@styled
def heat(verdict: Verdict, each: Results) -> dict[str, bytes]:
    """Validation by floor and learning rate, an arm a panel: each place has the colour of the trial next to it."""
    arms = mapped(each)
    columns = min(3, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.1 * rows))
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    scale = _scale(each, arms)
    mesh = None
    for axes, arm in zip(panels.flat, arms, strict=False):
        mesh = _panel(axes, each, each.workload.arms[arm], scale) or mesh
        label_axes(axes, arm, "learning rate", "floor")
    for axes in panels.flat[len(arms) :]:
        axes.set_visible(False)
    if mesh is not None:
        label = f"validation {each.metric.called},\n{each.metric.unit}".rstrip(",\n")
        figure.colorbar(mesh, ax=panels, label=label, extend="min" if each.sign > 0 else "max")  # half is beyond
    return files_of(figure)


def _scale(each: Results, arms: Sequence[str]) -> Mapping[str, Any]:
    """The colours: from the median trial to the best one, so that failures do not hide what differs among the good."""
    known = [one.validation for arm in arms for one in each.trials(arm) if math.isfinite(one.validation)]
    if len(set(known)) < 2:  # no scale has one colour
        return {"vmin": known[0] - 1, "vmax": known[0] + 1} if known else {}
    ends = sorted((float(np.median(known)), max(known) if each.sign > 0 else min(known)))
    if ends[0] > 0 and ends[1] / ends[0] > 10:
        return {"norm": LogNorm(vmin=ends[0], vmax=ends[1])}
    return {"vmin": ends[0], "vmax": ends[1]}


def _panel(axes: Axes, each: Results, arm: Arm, scale: Mapping[str, Any]) -> Any:
    trials = each.trials(arm.name)
    (left, right), (low, high) = _ranges(arm)["lr"], _ranges(arm)["floor"]
    axes.set(xscale="log", xlim=np.exp([left, right]))
    axes.set(yscale="log", ylim=(min(math.exp(low), ADAM_FLOOR / 3), max(math.exp(high), 3 * ADAM_FLOOR)))
    axes.xaxis.set_minor_formatter(NullFormatter())  # within a decade they would run into each other
    axes.axhline(ADAM_FLOOR, color="#D00000", linewidth=1.2)
    if not trials:
        return None
    place = np.log([[float(one.trial.values[name]) for name in ("lr", "floor")] for one in trials])
    value = np.array([one.validation if not one.lost else worst(each) for one in trials])
    x, y = np.meshgrid(np.linspace(left, right, 80), np.linspace(low, high, 80))
    unit = np.array([right - left, high - low])
    away = (((np.stack([x, y], -1)[:, :, None] - place) / unit) ** 2).sum(-1)
    colours = "viridis" if each.sign > 0 else "viridis_r"
    mesh = axes.pcolormesh(np.exp(x), np.exp(y), value[away.argmin(-1)], cmap=colours, rasterized=True, **scale)
    lost = np.array([one.lost for one in trials])
    axes.plot(*np.exp(place[~lost]).T, "o", color="white", markeredgecolor=INK, markersize=3)
    axes.plot(*np.exp(place[lost]).T, "x", color="#D00000", markersize=4)
    return mesh


def _measured(each: Results) -> str:
    return ", ".join(filter(None, (each.metric.called, each.metric.unit)))
