"""What a sample of gradients, state and weights says of a step: NumPy in float64, without a framework.

For an element with bias-corrected second moment ŝ (of AdaBelief with the eps that it keeps), let

    within = eps·(1 + beta2 + … )  the part of ŝ that is eps: eps/(1 − beta2) for AdaBelief, 0 for Adam
    v = ŝ − within                 the part that is the element's own: a mean of (g − m)², of Adam of g²
    floor                          the least denominator, √within for AdaBelief, eps for Adam

It is *ruled by eps* where √v < floor: for AdaBelief, where eps makes up more than half of ŝ; for Adam, more than half
of the denominator √v + eps. There the denominator is next to the same for all, and the step next to that of SGD with
momentum. The eps from which down an element is adaptive is the one at which √v = floor: v·(1 − beta2), or √v for Adam.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stats = dict[str, Any]

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Of the denominator, of |g − m|/|g| and of |m|/denominator."""

ADAPTIVE = (0.01, 0.5, 0.9, 0.99)
"""Shares of the elements for which there is an eps at which they would be adaptive."""

CONSTANT = 1e-5
"""A gradient is constant where it is as close to its own mean: after some hundred equal ones, at beta1 = 0.9."""

SAME, SAME_SHARE = 8, 0.01
"""Elements, and share of those that are not 0, that have to be exactly at ±c to be called thresholded."""

DECADE = 4
"""Bars of a histogram in a decade."""


class Numbers(NamedTuple):
    """The scalars of one parameter's step, as far as they explain it."""

    lr: float
    eps: float
    offset: float
    """What is added to the root of ŝ."""
    correction1: float
    """m̂ = m · correction1."""
    correction2: float
    """ŝ = s · correction2."""
    within_per_eps: float
    """within = eps · within_per_eps; 0 for Adam."""
    factor: float
    """The update is lr · factor · m / (√s · root_scale + step_offset), cut to lr · max_update."""
    root_scale: float
    step_offset: float
    max_update: float
    l2: float
    gain: float
    """The gradient is multiplied by it: −1 to climb."""
    has_residual: bool
    """Whether g − m says anything: not at beta1 = 0, nor where rows that are elsewhere were averaged."""
    resolution: float
    """What of ŝ cannot be told from rounding, once within is taken away: a share of ŝ."""

    @property
    def floor(self) -> float:
        """The least that a root can be without being ruled by eps."""
        return math.sqrt(self.eps * self.within_per_eps) if self.within_per_eps else self.offset


class Layer(NamedTuple):
    """A parameter's sample: four arrays of one shape (n,)."""

    name: str
    group: str
    size: int
    """Elements of the whole parameter."""
    step: int
    numbers: Numbers
    g: Array
    m: Array
    s: Array
    p: Array
    center: Array
    """What centralization takes from the gradient; 0 where there is none."""
    parted: bool
    """Whether other processes may have other elements of it."""


class Elements(NamedTuple):
    """What follows for each element, and how many of all it stands for."""

    weight: Array
    finite: NDArray[np.bool_]
    silent: NDArray[np.bool_]
    """Its gradient is 0 and always was: whatever eps is, it does not move."""
    constant: NDArray[np.bool_]
    thresholded: NDArray[np.bool_]
    ruled: NDArray[np.bool_]
    denominator: Array
    own: Array
    """√v: what the denominator would be without eps."""
    residual: Array
    """|g − m|/|g|; nan where that says nothing."""
    step: Array
    """|m̂|/denominator."""
    update: Array
    p: Array
    adaptive_eps: Array


def elements(layer: Layer) -> Elements:
    """The formulas of this module's first lines, element by element."""
    x, m, s = layer.numbers, layer.m, layer.s
    with np.errstate(all="ignore"):
        mean = x.factor * m / (np.sqrt(s) * x.root_scale + x.step_offset)
        update = x.lr * np.clip(mean, -x.max_update, x.max_update)
        # Coupled decay is of the weight before the step.
        g = x.gain * layer.g + x.l2 * (layer.p + update) - layer.center
        s_hat, within = s * x.correction2, x.eps * x.within_per_eps
        v, told = s_hat - within, x.resolution * s_hat if within else 0.0
        # Where eps leaves of v nothing but rounding, this one (g − m)² stands for its mean.
        v = np.where(v > told, v, np.minimum((g - m) ** 2, told) if x.has_residual else told)
        own, denominator = np.sqrt(v), np.sqrt(s_hat) + x.offset
        residual = np.abs(g - m) / np.abs(g) if x.has_residual else np.full_like(m, np.nan)
        step = np.abs(m * x.correction1) / denominator
    some = g != 0
    top = np.abs(layer.g).max(initial=0.0, where=np.isfinite(layer.g))
    at_top = (np.abs(layer.g) == top) & some
    return Elements(
        weight=np.full_like(m, layer.size / max(1, m.size)),
        finite=np.isfinite(g) & np.isfinite(m) & np.isfinite(s),
        silent=~some & (m == 0),
        constant=some & (residual <= CONSTANT),
        thresholded=at_top & bool(at_top.sum() >= max(SAME, SAME_SHARE * some.sum())),
        ruled=own < x.floor,
        denominator=denominator,
        own=own,
        residual=np.where(some, residual, np.nan),
        step=step,
        update=update,
        p=layer.p,
        adaptive_eps=v / x.within_per_eps if x.within_per_eps else own,
    )


Measured = tuple[Layer, Elements]


def measured(layer: Layer) -> Measured:
    """A parameter's sample with what follows from it."""
    return layer, elements(layer)


def describe(parts: Sequence[Measured]) -> Stats:
    """The statistics of some parameters together, each element with its weight; None for what cannot be said."""
    x = _joined(parts)
    keep = x.finite & ~x.silent
    active = Elements(*(column[keep] for column in cast("tuple[Any, ...]", x)))
    layers = [layer for layer, _ in parts]
    return {
        "elements": sum(layer.size for layer in layers),
        "sampled": int(x.weight.size),
        "eps": min(layer.numbers.eps for layer in layers),
        "floor": min(layer.numbers.floor for layer in layers),
        "adaptive": all(layer.numbers.root_scale > 0 for layer in layers),
        **flags(parts),
        "ruled_by_eps": share(active.ruled, active.weight),
        "denominator": quantiles(active.denominator, active.weight),
        "residual": quantiles(active.residual, active.weight),
        "step": quantiles(active.step, active.weight),
        "update_to_weight": _ratio(active.update, active.p, active.weight),
        # Of a share q of the elements v is at least as large as the (1 − q)-quantile.
        "adaptive_eps": dict(
            zip(
                map(_percent, ADAPTIVE),
                quantile(active.adaptive_eps, active.weight, [1 - q for q in ADAPTIVE]),
                strict=True,
            )
        ),
        "histogram": {
            "denominator": histogram(active.denominator, active.weight),
            "own": histogram(active.own, active.weight),
        },
    }


def flags(parts: Sequence[Measured]) -> Stats:
    """What is out of the ordinary of some parameters' gradients: shares of all elements, or of those that move."""
    x = _joined(parts)
    keep = x.finite & ~x.silent
    tops = [np.abs(layer.g[each.thresholded][:1]) for layer, each in parts]
    return {
        "not_finite": share(~x.finite, x.weight),
        "zero": share(x.silent & x.finite, x.weight),
        "constant": share(x.constant[keep], x.weight[keep]),
        "thresholded": share(x.thresholded[keep], x.weight[keep]),
        "thresholds": sorted({float(top) for each in tops for top in each}),
    }


def share(where: NDArray[np.bool_], weight: Array) -> float | None:
    """The part of all weight that is where it is true; None of nothing."""
    return float(weight[where].sum() / weight.sum()) if weight.size else None


def quantile(values: Array, weight: Array, shares: Sequence[float]) -> list[float | None]:
    """For each share q, the least value at or below which there is that share of the weight.

    Nan counts as missing; None is of nothing.

    Example:
        >>> quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0]), [0.5, 1.0])
        [2.0, 3.0]
    """
    known = ~np.isnan(values)
    if not known.any():
        return [None] * len(shares)
    values, weight = values[known], weight[known]
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    # A share that is reached but for rounding is reached.
    places = np.searchsorted(reached, np.asarray(shares) * (reached[-1] * (1 - 1e-12)))
    return [float(x) for x in values[order[np.minimum(places, values.size - 1)]]]


def quantiles(values: Array, weight: Array) -> dict[str, float | None]:
    """QUANTILES, by their names in percent."""
    return dict(zip(map(_percent, QUANTILES), quantile(values, weight, QUANTILES), strict=True))


def histogram(values: Array, weight: Array) -> dict[str, Any]:
    """Shares of the weight by bars of 1/DECADE of a decade; `first` is the lower end of the first, as log10.

    Values of 0 have no bar.

    Example:
        >>> histogram(np.array([1.0, 1.0, 10.0, 0.0]), np.ones(4))
        {'first': 0.0, 'shares': [0.5, 0.0, 0.0, 0.0, 0.25]}
    """
    some = values > 0
    if not some.any():
        return {"first": 0.0, "shares": []}
    bars = np.floor(DECADE * np.log10(values[some])).astype(int)
    counted = np.bincount(bars - bars.min(), weights=weight[some]) / weight.sum()
    return {"first": float(bars.min() / DECADE), "shares": [round(float(x), 6) for x in counted]}


def verdict(stats: Stats) -> str:
    """One line: what the optimizer is with this eps, and which eps would make it another.

    At least half of the elements ruled by eps is momentum SGD; less than a tenth is adaptive.
    """
    ruled, eps = stats["ruled_by_eps"], stats["adaptive_eps"]
    if ruled is None:
        return "every sampled gradient is 0 or no number: nothing can be said of eps."
    if not stats["adaptive"]:
        return "rectified steps are not adaptive yet: this is momentum SGD, whatever eps is."
    head = f"{percent(ruled)} of the elements are ruled by eps"
    down = f"eps <= {power_of_ten(eps['90'])} would be adaptive (for 90 % of them)."
    if ruled >= 0.5:
        return f"{head}: this is momentum SGD; {down}"
    if ruled >= 0.1:
        return f"{head}: this is between momentum SGD and adaptive; {down}"
    return f"{head}: this is adaptive; eps >= {power_of_ten(eps['1'], up=True)} would be momentum SGD."


def percent(part: float) -> str:
    """A share in words; what is not all of them is never called 100 %.

    Example:
        >>> percent(0.731), percent(0.0041), percent(0.9999), percent(0.0)
        ('73 %', '0.41 %', '99.99 %', '0 %')
    """
    x = 100 * part
    if x in (0, 100) or 1 <= x <= 99:
        return f"{x:.0f} %"
    return f"{x:.2g} %" if x < 1 else f"{math.floor(100 * x) / 100:g} %"


def power_of_ten(x: float | None, *, up: bool = False) -> str:
    """The next power of ten at or below a number, or at or above it.

    Example:
        >>> power_of_ten(3.2e-13), power_of_ten(3.2e-13, up=True), power_of_ten(0.0)
        ('1e-13', '1e-12', '0')
    """
    if not x:
        return "0"
    exponent = math.log10(x)
    return f"1e{math.ceil(exponent - 1e-9) if up else math.floor(exponent + 1e-9)}"


def _joined(parts: Sequence[Measured]) -> Elements:
    found = [each for _, each in parts]
    return found[0] if len(found) == 1 else Elements(*map(np.concatenate, zip(*found, strict=True)))


def _ratio(update: Array, p: Array, weight: Array) -> float | None:
    """The norm of the update over that of the weights; None where these are 0."""
    norm = float(np.sqrt(np.sum(weight * p**2)))
    return float(np.sqrt(np.sum(weight * update**2))) / norm if norm else None


def _percent(q: float) -> str:
    return f"{100 * q:g}"
