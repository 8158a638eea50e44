"""Points of the unit cube: the same ones for every arm, so that all have equal luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from scipy.stats import qmc

from adabelief.lab.search.space import Arm, Dimension, Space

Point = Mapping[str, float]

FIRST = 10
"""Trials of an arm before `tpe` looks at any: they are qmc's."""


def planned(space: Space, arm: Arm, sampler: str, trials: int, seed: int) -> list[Point | None]:
    """The points of an arm's trials; None where the sampler waits for what came of others.

    Args:
        space: All arms.
        arm: One of them.
        sampler: One of `search.SAMPLERS`.
        trials: How many trials the arm has at most.
        seed: Of the points.
    """
    if sampler == "grid":
        return list(grid(arm.dimensions, trials))
    if sampler == "random":
        return list(random(space.names, trials, seed))
    first = trials if sampler == "qmc" else min(FIRST, trials)
    return [*halton(space.names, first, seed), *[None] * (trials - first)]


def halton(names: Sequence[str], count: int, seed: int) -> list[Point]:
    """The first points of a scrambled Halton sequence; more of them begin with the same ones.

    Example:
        >>> halton(["lr"], 3, seed=0) == halton(["lr"], 5, seed=0)[:3]
        True
    """
    if not names:
        return [{}] * count
    drawn = qmc.Halton(len(names), rng=np.random.default_rng(seed)).random(count)
    return [dict(zip(names, map(float, row), strict=True)) for row in drawn]


def random(names: Sequence[str], count: int, seed: int) -> list[Point]:
    """Independent, uniform points; more of them begin with the same ones."""
    drawn = np.random.default_rng(seed).random((count, len(names)))
    return [dict(zip(names, map(float, row), strict=True)) for row in drawn]


def grid(dimensions: Sequence[Dimension], count: int) -> list[Point]:
    """A grid of at most so many points: about as many values of every dimension, one more of the first ones.

    Example:
        >>> [point["lr"] for point in grid([Dimension("lr", 1e-4, 1e-1)], 3)]
        [0.0, 0.5, 1.0]
    """
    sizes = [1] * len(dimensions)
    most = [len(dimension.choices) or math.inf for dimension in dimensions]
    while True:
        able = [i for i, size in enumerate(sizes) if size < most[i] and math.prod(sizes) // size * (size + 1) <= count]
        if not able:
            break
        sizes[min(able, key=lambda i: sizes[i])] += 1
    axes = [_places(dimension, size) for dimension, size in zip(dimensions, sizes, strict=True)]
    names = [dimension.name for dimension in dimensions]
    points: list[Point] = [dict(zip(names, places, strict=True)) for places in product(*axes)]
    return points


def _places(dimension: Dimension, size: int) -> list[float]:
    if dimension.choices:
        return [(i + 0.5) / len(dimension.choices) for i in range(size)]
    return [i / (size - 1) for i in range(size)] if size > 1 else [0.5]
