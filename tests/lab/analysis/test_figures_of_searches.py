"""Equivalence, bootstrap, best of k, sensitivity and targets: by hand, by brute force, or by another package."""

import math
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from adabelief.lab.analysis.best_of_k import expected_best, expected_best_curve
from adabelief.lab.analysis.blocks import between, randomized_block
from adabelief.lab.analysis.bootstrap import interquartile_mean, probability_of_improvement, stratified_bootstrap
from adabelief.lab.analysis.equivalence import tost
from adabelief.lab.analysis.sensitivity import lr_sensitivity
from adabelief.lab.analysis.targets import performance_profile, profile_score, target, time_to_target

A = np.array([[0.0, 0.3, -0.27], [-0.89, -0.45, -0.99], [0.06, 1.34, -0.49], [-0.62, 0.49, 0.36], [0.11, -0.93, -0.03]])
B = np.array([[1.0, -1.04, -0.16], [-1.6, -0.99, -1.54], [0.06, -0.97, 0.57], [0.46, 0.11, -2.22]])


@pytest.mark.parametrize(("margin", "p"), [(0.5, 0.03642752980512654), (0.25, 0.40415111806920223)])
def test_two_one_sided_tests(margin, p):
    """statsmodels 0.14: ttost_paired."""
    values = [[93.1, 92.4, 94.0, 93.3, 92.9], [92.8, 92.6, 93.5, 93.0, 92.7]]
    (found,) = between(randomized_block(values), [(0, 1)], together=1)
    assert tost(found.difference, found.error, found.freedom, margin) == pytest.approx(p)
    assert tost(-found.difference, found.error, found.freedom, margin) == pytest.approx(p)


def test_runs_that_do_not_vary_are_equivalent_within_the_margin_alone():
    assert [tost(d, 0.0, 2, 0.5) for d in (0.0, 0.5, 1.0)] == [0.0, 1.0, 1.0]
    assert tost(math.nan, 0.1, 2, 0.5) == 1.0
    with pytest.raises(ValueError, match="margin must be above 0"):
        tost(0.0, 1.0, 2, 0.0)


def test_aggregates_are_those_of_rliable():
    """rliable 1.2: aggregate_iqm and probability_of_improvement, and the ends of 20,000 and 5,000 resamples."""
    found = stratified_bootstrap(interquartile_mean, A)
    assert found.estimate == pytest.approx(-0.15444444444444447)
    assert (found.low, found.high) == pytest.approx((-0.5089, 0.1356), abs=0.03)
    found = stratified_bootstrap(probability_of_improvement, A, B)
    assert found.estimate == pytest.approx(0.6083333333333334)
    assert (found.low, found.high) == pytest.approx((0.4, 0.8333), abs=0.03)


def test_a_failed_run_loses_against_every_other():
    failed = np.array([[-math.inf], [1.0]])
    assert probability_of_improvement(failed, np.array([[0.0], [0.5]])) == 0.5
    assert probability_of_improvement(failed, failed) == 0.5


def test_the_expected_best_is_the_mean_over_all_subsets():
    values = [0.3, 0.9, 0.1, 0.4, 0.4, 0.8]
    by_force = [fmean(map(max, combinations(values, k))) for k in range(1, 7)]
    assert expected_best(values) == pytest.approx(by_force)


def test_the_expected_best_of_many_trials_stays_finite():
    found = expected_best_curve(np.linspace(0, 1, 200), resamples=50)
    assert (found.low <= found.expected + 1e-12).all()
    assert (np.diff(found.expected) > 0).all()
    assert found.expected[[0, -1]] == pytest.approx([0.5, 1.0])
    assert (found.expected - 1e-3 <= found.high).all()


def test_bands_of_the_best_are_those_of_a_bootstrap():
    values, generator = np.array([3.0, 1.0, 2.0, 7.0]), np.random.default_rng(5)
    by_force = [expected_best(generator.choice(values, 4)) for _ in range(1000)]
    found = expected_best_curve(values, resamples=1000)
    low, high = np.percentile(by_force, [2.5, 97.5], axis=0)
    assert found.low == pytest.approx(low, abs=0.2)
    assert found.high == pytest.approx(high, abs=0.2)


def test_sensitivity_is_the_area_between_the_losses_and_the_lowest_one():
    rates, losses = [1e-2, 1e-4, 1e-3], [3.0, 2.0, 1.0]
    assert lr_sensitivity(rates, losses, 10.0) == pytest.approx((0.5 * (1 + 0) + 0.5 * (0 + 2)) / 2)
    assert lr_sensitivity(rates, [math.nan, 2.0, 1.0], 2.5) == pytest.approx((0.5 * (1 + 0) + 0.5 * (0 + 1.5)) / 2)
    assert lr_sensitivity(rates, [1.0] * 3, 10.0) == 0.0
    with pytest.raises(ValueError, match="two different learning rates"):
        lr_sensitivity([1e-3, 1e-3], [1.0, 2.0], 10.0)


def test_a_target_and_who_reaches_it():
    assert target([90.0, 95.0, 91.0]) == 91.0
    assert time_to_target([3.0, 2.0, 1.0], [10, 20, 30], 2.0, higher_is_better=False) == 20.0
    assert time_to_target([3.0, math.nan, 2.5], [10, 20, 30], 2.0, higher_is_better=False) == math.inf


def test_performance_profiles():
    times = [[10.0, 30.0, math.inf, math.inf], [20.0, 10.0, 5.0, math.inf]]
    profile = performance_profile(times, [1.0, 2.0, 3.0, 4.0])
    assert profile.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.5, 0.75, 0.75, 0.75]]
    taus = np.linspace(1, 4, 30_001)
    assert profile_score(times) == pytest.approx(performance_profile(times, taus).mean(1), abs=1e-3)
