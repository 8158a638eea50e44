"""Against statsmodels' regression on arms and seeds, Dunnett's tables, scipy, and the paired t-test."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_t, ttest_rel

from adabelief.lab.analysis.blocks import (
    against_control,
    between,
    dunnett_probability,
    dunnett_quantile,
    holm,
    randomized_block,
)

VALUES = [[93.1, 92.4, 94.0, 93.3], [92.8, 92.6, 93.5, 93.0], [91.0, 90.5, 92.2, 91.9]]


def test_the_model_is_the_regression_on_arms_and_seeds():
    """statsmodels 0.14: ols("y ~ C(arm) + C(seed)")."""
    fit = randomized_block(VALUES)
    assert fit.deviation == pytest.approx(0.25331140255951035)
    assert fit.error == pytest.approx(0.179118, abs=1e-6)
    assert fit.freedom == 6
    first, second = between(fit, [(1, 0), (2, 0)], together=1)
    assert (first.difference, second.difference) == pytest.approx((-0.225, -1.8))
    assert (first.p, second.p) == pytest.approx((2.557559e-01, 5.631998e-05), rel=1e-6)


def test_of_two_arms_it_is_the_paired_t_test():
    first, second, _ = VALUES
    expected = ttest_rel(first, second)
    for found in (
        *against_control(randomized_block([second, first]), 0),
        *between(randomized_block([first, second]), [(0, 1)], together=1),
    ):
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
        low, high = expected.confidence_interval(0.95)
        assert found.difference - found.margin == pytest.approx(low)
        assert found.difference + found.margin == pytest.approx(high)


@pytest.mark.parametrize(
    ("rivals", "freedom", "tabled"),
    [(1, 5, 2.57), (2, 5, 3.03), (3, 5, 3.29), (9, 5, 3.97), (3, 20, 2.54), (9, 60, 2.77), (2, 10**6, 2.21)],
)
def test_dunnetts_two_sided_five_percent_table(rivals, freedom, tabled):
    assert dunnett_quantile(0.95, rivals, freedom) == pytest.approx(tabled, abs=0.0051)


@pytest.mark.parametrize(("rivals", "freedom", "t"), [(3, 5, 3.0), (5, 20, 2.5), (4, 2, 3.0), (2, 1, 10.0)])
def test_dunnetts_probability_is_that_of_a_multivariate_t(rivals, freedom, t):
    shape = np.full((rivals, rivals), 0.5) + 0.5 * np.eye(rivals)
    law = multivariate_t(shape=shape, df=freedom, seed=0)
    expected = law.cdf([t] * rivals, lower_limit=[-t] * rivals, maxpts=100_000)  # quasi-random
    assert dunnett_probability(t, rivals, freedom) == pytest.approx(expected, abs=1e-5)


def test_intervals_hold_together_over_arms_and_workloads():
    """Of 4,000 drawn studies of two workloads and four arms that are all alike, 5 % have an interval without 0."""
    y = np.random.default_rng(0).normal(size=(4000, 2, 4, 5))
    residual = y - y.mean(-1, keepdims=True) - y.mean(-2, keepdims=True) + y.mean((-2, -1), keepdims=True)
    error = np.sqrt((residual**2).sum((-2, -1)) / 12 * 2 / 5)
    margin = against_control(randomized_block(y[0, 0]), 0, families=2)[0].margin / randomized_block(y[0, 0]).error
    differences = y.mean(-1)[..., 1:] - y.mean(-1)[..., :1]
    wrong = (abs(differences) > margin * error[..., None]).any((-2, -1)).mean()
    assert wrong == pytest.approx(0.05, abs=0.012)


def test_an_interval_is_clear_exactly_where_its_p_value_says_so():
    for scale in (0.2, 0.5, 1.0, 2.0):
        fit = randomized_block(np.array(VALUES) * [[1.0], [1.0], [1 - 0.01 * scale]])
        for contrast in against_control(fit, 0, families=3):
            assert contrast.clear == (contrast.p < 0.05)


def test_runs_that_do_not_vary():
    same, other = against_control(randomized_block([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]), 0)
    assert (same.p, same.clear) == (pytest.approx(1.0), False)
    assert (other.p, other.clear) == (pytest.approx(0.0), True)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, math.nan], [2.0, 3.0]]])
def test_what_is_no_block_is_refused(values):
    with pytest.raises(ValueError, match="two arms and two seeds"):
        randomized_block(values)


def test_holm():
    """statsmodels 0.14: multipletests(..., method="holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([]) == []
