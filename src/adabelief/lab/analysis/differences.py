"""Differences between the optimizers of an experiment, with what noise explains of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from adabelief.lab.analysis.blocks import CONFIDENCE, Contrast, against_control, between, randomized_block
from adabelief.lab.analysis.runs import Run

Value = Callable[[Run], float]
"""What is compared of a run: its test metric at the picked epoch, or after the last one."""


class Comparison(NamedTuple):
    """Two optimizers' mean test metrics: how far apart they are, and how far they could be by chance.

    The margin is half the width of a confidence interval, nan where seeds are too few to tell; the level is the mean of
    both, by which the numbers are printed. It is paired where both sides have the same seeds.
    """

    difference: float
    margin: float
    level: float
    paired: bool = False

    @property
    def clear(self) -> bool:
        """Whether the difference is larger than what noise explains."""
        return abs(self.difference) > self.margin


def comparisons(groups: Mapping[str, Sequence[Run]], reference: str, value: Value) -> dict[str, Comparison]:
    """Every group of runs minus one of them, with margins that hold together.

    Groups that share two seeds or more with the reference are the blocks of a randomized-block model, on the seeds that
    all of these share, with Dunnett's margins; where these are less than two seeds, each is compared by itself. A group
    with other seeds is an independent sample. Of m comparisons, k by one model have k/m of the risk.

    Args:
        groups: The runs by label.
        reference: The label of those that the others are compared with.
        value: What is compared of a run.
    """
    tables = {
        label: {run.config.seed: value(run) for run in runs if math.isfinite(value(run))}
        for label, runs in groups.items()
    }
    rivals = [label for label in groups if label != reference and tables[label] and tables[reference]]
    pairs = [label for label in rivals if len(tables[label].keys() & tables[reference].keys()) > 1]
    judged = sum(label in pairs or min(len(tables[label]), len(tables[reference])) > 1 for label in rivals)
    together = [reference, *pairs]
    shared = sorted(set.intersection(*(set(tables[label]) for label in together)))
    if len(shared) > 1 and pairs:
        fit = randomized_block([[tables[label][seed] for seed in shared] for label in together], step=_step(groups))
        contrasts = against_control(fit, 0, confidence=1 - (1 - CONFIDENCE) * len(pairs) / judged)
        made = dict(zip(pairs, contrasts, strict=True))
    else:
        made, shared = {}, []
    return {
        label: _paired(made[label], groups, label, reference, tables, shared)
        if label in made
        else _alone(groups, label, reference, tables, value, max(1, judged))
        for label in rivals
    }


def independent(
    values: Sequence[float], others: Sequence[float], *, variance: float = 0.0, together: int = 1
) -> Comparison:
    """The difference of two means as of independent samples (Welch): Student's t times √(s²/k + s'²/k' + variance).

    Args:
        values: One side, seed by seed.
        others: The other side.
        variance: A part that is there besides the seeds.
        together: How many comparisons are made together (Bonferroni).
    """
    difference = statistics.fmean(values) - statistics.fmean(others)
    level = statistics.fmean([*values, *others])
    if min(len(values), len(others)) < 2:
        return Comparison(difference, math.nan, level)
    seeds = [statistics.variance(side) / len(side) for side in (values, others)]
    whole = sum(seeds) + variance
    uncertain = sum(v**2 / (len(side) - 1) for v, side in zip(seeds, (values, others), strict=True))
    freedom = whole**2 / uncertain if uncertain else math.inf
    quantile = float(stdtrit(min(freedom, 1e9), 1 - (1 - CONFIDENCE) / (2 * together)))
    return Comparison(difference, quantile * math.sqrt(whole), level)


def least_variance(difference: float, examples: int) -> float:
    """The least variance, in squared points, of a difference in percentages over the same n examples: d(1 − d)/n.

    So it is where no example is right on the worse side alone; the others only add to it.
    """
    d = abs(difference) / 100
    return 1e4 * d * (1 - d) / examples


def _paired(
    contrast: Contrast,
    groups: Mapping[str, Sequence[Run]],
    label: str,
    reference: str,
    tables: Mapping[str, Mapping[int, float]],
    seeds: Sequence[int],
) -> Comparison:
    quantile = contrast.margin / contrast.error if contrast.error else math.inf
    variance = _test_set_variance(groups[label][0], contrast.difference)
    margin = quantile * math.sqrt(contrast.error**2 + variance) if contrast.error else 0.0
    level = statistics.fmean(tables[name][seed] for name in (label, reference) for seed in seeds)
    return Comparison(contrast.difference, margin, level, paired=True)


def _alone(
    groups: Mapping[str, Sequence[Run]],
    label: str,
    reference: str,
    tables: Mapping[str, Mapping[int, float]],
    value: Value,
    together: int,
) -> Comparison:
    seeds = sorted(tables[label].keys() & tables[reference].keys())
    if len(seeds) > 1:
        table = [[tables[name][seed] for seed in seeds] for name in (label, reference)]
        fit = randomized_block(table, step=_step(groups))
        (contrast,) = between(fit, [(0, 1)], together=together)
        return _paired(contrast, groups, label, reference, tables, seeds)
    sides = [[value(run) for run in groups[name]] for name in (label, reference)]
    difference = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    variance = _test_set_variance(groups[label][0], difference)
    return independent(sides[0], sides[1], variance=variance, together=together)


def _step(groups: Mapping[str, Sequence[Run]]) -> float:
    """Between neighbouring values of the test metric, where it counts examples."""
    run = next(iter(groups.values()))[0]
    return 100 / run.test_examples if run.metric.unit == "%" and run.test_examples else 0.0


def _test_set_variance(run: Run, difference: float) -> float:
    """Of a difference in accuracy, what another test set would change at least; 0 where nothing is counted."""
    if run.metric.unit != "%" or not run.test_examples:
        return 0.0
    return least_variance(difference, run.test_examples)
