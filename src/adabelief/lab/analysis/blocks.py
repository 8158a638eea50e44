"""The randomized-block model: arms compared on seeds that all of them share, with Dunnett's or Bonferroni's intervals.

The value of arm i with seed j is

    y_ij = μ + arm_i + seed_j + e_ij,    e_ij ~ N(0, σ²),

since runs of one seed share weights and batches, and so rise and fall together. The seed's part drops out of every
difference between arms; what is left of the variance is estimated from all arms together, with (a − 1)(b − 1) degrees
of freedom for a arms and b seeds. Of two arms it is Student's paired t-test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr, stdtr, stdtrit
from scipy.stats import chi

CONFIDENCE = 0.95


class Blocks(NamedTuple):
    """A fitted model.

    Attributes:
        means: The arms' means over the seeds.
        deviation: The estimate of σ.
        freedom: Its degrees of freedom.
        seeds: How many seeds there are.
    """

    means: tuple[float, ...]
    deviation: float
    freedom: int
    seeds: int

    @property
    def error(self) -> float:
        """The standard error of a difference between two arms: σ √(2/b)."""
        return self.deviation * math.sqrt(2 / self.seeds)


class Contrast(NamedTuple):
    """A difference between two arms, the first minus the second.

    Attributes:
        difference: Of their means.
        error: Its standard error.
        freedom: The degrees of freedom of that.
        margin: Half of the confidence interval, adjusted for all contrasts that are made together.
        p: The adjusted p-value of no difference.
    """

    difference: float
    error: float
    freedom: float
    margin: float
    p: float

    @property
    def clear(self) -> bool:
        """Whether the adjusted interval leaves 0 out."""
        return abs(self.difference) > self.margin

    def turned(self) -> Contrast:
        """The second arm minus the first."""
        return self._replace(difference=-self.difference)


def randomized_block(values: ArrayLike, *, step: float = 0.0) -> Blocks:
    """Fits the model to values of shape (arms, seeds).

    Args:
        values: What was measured.
        step: Between neighbouring values that there can be, 100/n for a percentage of n examples: σ is taken as no
            smaller than what rounding to it makes, step/√12. Otherwise two seeds that agree by chance are a proof.

    Raises:
        ValueError: If there are fewer than two arms or two seeds, or a value is not finite.

    Example:
        >>> fit = randomized_block([[1.0, 2.0, 3.0], [2.0, 3.0, 4.5]])
        >>> fit.means, fit.freedom, round(fit.error, 4)
        ((2.0, 3.1666666666666665), 2, 0.1667)
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 2 or min(y.shape) < 2 or not np.isfinite(y).all():
        raise ValueError(f"values must be finite, of two arms and two seeds or more, got {y.tolist()}")
    arms, seeds = y.shape
    residual = y - y.mean(1, keepdims=True) - y.mean(0, keepdims=True) + y.mean()
    freedom = (arms - 1) * (seeds - 1)
    deviation = max(math.sqrt(float((residual**2).sum()) / freedom), step / math.sqrt(12))
    return Blocks(tuple(y.mean(1).tolist()), deviation, freedom, seeds)


def against_control(fit: Blocks, control: int, *, families: int = 1, confidence: float = CONFIDENCE) -> list[Contrast]:
    """Every arm minus one of them, with the two-sided intervals of Dunnett (1955); that arm itself is left out.

    Args:
        fit: The model.
        control: The arm that the others are compared with.
        families: How many independent models are read together (workloads): the intervals of all of them hold together
            with the confidence, each model's with its root of that order (Šidák).
        confidence: Of all intervals together.
    """
    rivals = len(fit.means) - 1
    quantile = dunnett_quantile(confidence ** (1 / families), rivals, fit.freedom)

    def contrast(mean: float) -> Contrast:
        difference = mean - fit.means[control]
        together = dunnett_probability(_ratio(difference, fit.error), rivals, fit.freedom)
        return Contrast(difference, fit.error, fit.freedom, quantile * fit.error, max(0.0, 1 - together**families))

    return [contrast(mean) for arm, mean in enumerate(fit.means) if arm != control]


def between(
    fit: Blocks, pairs: Sequence[tuple[int, int]], *, together: int, confidence: float = CONFIDENCE
) -> list[Contrast]:
    """Differences of any pairs of arms, with Bonferroni's intervals.

    The p-values are not adjusted: `holm` does that, over all models that are read together.

    Args:
        fit: The model.
        pairs: Arms: the first minus the second.
        together: How many contrasts are read together, of all models.
        confidence: Of all intervals together.
    """
    quantile = float(stdtrit(fit.freedom, 1 - (1 - confidence) / (2 * together)))
    differences = [fit.means[first] - fit.means[second] for first, second in pairs]
    return [
        Contrast(
            *(difference, fit.error, fit.freedom, quantile * fit.error),
            2 * float(stdtr(fit.freedom, -_ratio(difference, fit.error))),
        )
        for difference in differences
    ]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: max over j ≤ i of (m − j + 1) p_(j), at most 1, of m sorted p-values.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def dunnett_probability(t: float, rivals: int, freedom: float) -> float:
    """The probability that all of |T_1|, ..., |T_k| are at most t: differences to one control of equal size.

    Their numerators have correlation 1/2, and a deviation with these degrees of freedom is common to all. Given the
    control's part z and the ratio s of the estimated to the true deviation they are independent:

        P = E_s E_z [Φ(√2 t s + z) − Φ(−√2 t s + z)]^k
    """
    z = np.linspace(-9, 9, 181)
    weight_z = np.exp(-(z**2) / 2)
    log_s = np.linspace(-40 / freedom - 0.5, 2.5, 600)  # the rule of trapezia is exact to 1e-9 on such smooth tails
    s = np.exp(log_s)
    weight_s = chi.pdf(s * math.sqrt(freedom), freedom) * s
    width = math.sqrt(2) * t * s[:, None]
    inside = (ndtr(width + z) - ndtr(z - width)) ** rivals
    return float(weight_s @ inside @ weight_z / (weight_s.sum() * weight_z.sum()))


@cache
def dunnett_quantile(confidence: float, rivals: int, freedom: float) -> float:
    """The t at which `dunnett_probability` is the confidence."""
    student = float(stdtrit(freedom, (1 + confidence) / 2))  # of one rival; Bonferroni's is above that of several
    above = 1.01 * float(stdtrit(freedom, 1 - (1 - confidence) / (2 * rivals))) + 0.01
    return float(brentq(lambda t: dunnett_probability(t, rivals, freedom) - confidence, 0.99 * student, above))


def _ratio(difference: float, error: float) -> float:
    """|difference|/error; of runs that do not vary at all, infinite unless there is no difference."""
    return abs(difference) / error if error else math.inf if difference else 0.0
