"""Schedules: the factor of the learning rate as a function of the moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from adabelief.lab.trainer import Moment

Schedule = Callable[[Moment], float]


def constant(moment: Moment) -> float:
    """1 throughout."""
    return 1.0


def divide_at(*fractions: float) -> Schedule:
    """Divides the learning rate by 10 after each of these fractions of the epochs."""

    def schedule(moment: Moment) -> float:
        return float(0.1 ** sum(moment.epoch >= round(fraction * moment.epochs) for fraction in fractions))

    return schedule


def warm_up_and_cosine(steps: int) -> Schedule:
    """Up to 1 over the first steps, and down to 0.1 along a cosine, from epoch to epoch."""

    def schedule(moment: Moment) -> float:
        cosine = 0.55 + 0.45 * math.cos(math.pi * moment.epoch / moment.epochs)
        return cosine * min(1.0, (moment.step + 1) / steps)

    return schedule


def warm_up_then_cosine(share: float) -> Schedule:
    """Up to 1 in a straight line over a share of the epochs, then down to 0 along half a cosine, by the epoch."""
    return lambda moment: _up_then_cosine(moment.epoch, moment.epochs, share)


def inverse_square_root(steps: int, epochs: int) -> Schedule:
    """Linear warm-up, then the inverse square root of the step: min(n/W, √(W/n)) in step n.

    Args:
        steps: W in a run of so many epochs; it is in proportion where there are fewer.
        epochs: How many these are.
    """

    def schedule(moment: Moment) -> float:
        warm_up, n = steps * moment.epochs / epochs, moment.step + 1
        return min(n / warm_up, math.sqrt(warm_up / n))

    return schedule


def cosine(warm_up: float = 0.05) -> Schedule:
    """Up to 1 in a straight line over a share of the steps, then down to 0 along half a cosine, step by step."""
    return lambda moment: _up_then_cosine(moment.step, moment.steps, warm_up)


def _up_then_cosine(done: int, whole: int, share: float) -> float:
    rise = max(1, round(share * whole))
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise + 1) / (whole - rise + 1)))


def divide_in(*fractions: float) -> Schedule:
    """Divides the learning rate by 10 after each of these fractions of the steps, within an epoch if need be."""

    def schedule(moment: Moment) -> float:
        return float(0.1 ** sum(moment.step >= round(fraction * moment.steps) for fraction in fractions))

    return schedule


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": cosine(),
    "constant": constant,
    "3/4": divide_at(0.75),
    "30/60": divide_in(30 / 90, 60 / 90),
    "70/80": divide_in(70 / 90, 80 / 90),
}
"""What the option `schedule` of a scale can be; from "3/4" on, when to divide by 10: the last two are of 90 epochs."""
