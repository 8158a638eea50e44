"""Differences within each seed: margins by hand, by scipy, and those of an audit of published runs."""

import math

import pytest
from scipy.stats import ttest_rel

from adabelief.lab.analysis.blocks import against_control, randomized_block
from adabelief.lab.analysis.differences import comparisons, independent, least_variance
from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from tests.lab import synthetic
from tests.lab.synthetic import experiment


def differences(made):
    return comparisons(made.groups, "AdaBelief", lambda run: run.test)


def test_independent_samples_have_welchs_margin():
    found = independent([89.0, 91.0], [92.0, 94.0])
    assert found.difference == -3.0
    assert found.margin == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6), "Student's t of 2 degrees"
    assert not found.clear
    variance = 1.83
    freedom = (2 + variance) ** 2 / 2
    assert freedom == pytest.approx(7.3345, rel=1e-4)
    wider = independent([89.0, 91.0], [92.0, 94.0], variance=variance)
    assert wider.margin == pytest.approx(2.342994 * math.sqrt(2 + variance), rel=1e-4)


def test_more_comparisons_widen_the_margin():
    one, ten = (independent([95.0, 95.0], [85.0, 85.0], variance=3.6, together=n).margin for n in (1, 10))
    assert one == pytest.approx(1.959964 * math.sqrt(3.6), rel=1e-6), "of the test set alone"
    assert ten / one == pytest.approx(2.807034 / 1.959964, rel=1e-5)


def test_two_optimizers_are_compared_by_a_paired_t_test(tmp_path):
    tests = {"AdaBelief": [89.0, 91.0, 90.5], "SGD": [92.0, 94.5, 93.0]}
    found = differences(experiment(tmp_path, tests, examples=None))["SGD"]
    low, high = ttest_rel(tests["SGD"], tests["AdaBelief"]).confidence_interval(0.95)
    assert found.paired
    assert (found.difference - found.margin, found.difference + found.margin) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("values", "margin"),
    [
        # A vision transformer's picked and last epochs, and a network in Keras: AdaBelief first, then its rivals.
        ([[44.4, 45.45, 46.65], [42.55, 43.3, 43.15], [43.45, 42.35, 45.7], [43.8, 42.45, 45.9]], 2.35),
        ([[44.4, 45.45, 46.65], [42.55, 43.3, 43.15], [44.7, 44.55, 45.7], [44.35, 44.3, 45.9]], 1.24),
        (
            [
                *([84.83, 85.46, 84.23], [78.59, 79.51, 78.8], [85.06, 85.13, 84.37]),
                *([84.92, 85.16, 84.35], [81.64, 82.71, 81.93]),
            ],
            0.68,
        ),
    ],
)
def test_the_margins_of_an_audit(tmp_path, values, margin):
    names = ("AdaBelief", "SGD", "Adam", "AdamW", "RMSprop")
    rivals = dict(zip(names, values, strict=False))
    if "RMSprop" in rivals:  # which the digits have no settings for
        rivals["RAdam"] = rivals.pop("RMSprop")
    found = differences(experiment(tmp_path, rivals, examples=None))
    assert [one.margin for one in found.values()] == pytest.approx([margin] * len(found), abs=0.016)


def test_the_test_set_has_a_part_and_so_has_rounding(tmp_path):
    tests = {"AdaBelief": [95.0, 95.0], "SGD": [85.0, 85.0], "Adam": [95.2, 95.2]}
    found = differences(experiment(tmp_path, tests, examples=500))
    fit = randomized_block(list(tests.values()), step=0.2)
    assert fit.deviation == pytest.approx(0.2 / math.sqrt(12))
    quantile = against_control(fit, 0)[0].margin / fit.error
    of_test_set = 1e4 * 0.1 * 0.9 / 500
    assert least_variance(10.0, 500) == pytest.approx(of_test_set)
    assert found["SGD"].margin == pytest.approx(quantile * math.sqrt(fit.error**2 + of_test_set))
    assert found["SGD"].clear
    assert not found["Adam"].clear, "one example of 500"


def test_seeds_that_only_some_have(tmp_path):
    for name, seeds in {"AdaBelief": (0, 1, 2), "SGD": (0, 1), "Adam": (2,), "Yogi": (5, 6)}.items():
        for seed in seeds:
            value = 80.0 + seed + (len(name) % 3) + 0.1 * seed * len(name)
            synthetic.write(tmp_path, synthetic.config(name, seed), (value,), (value,), examples=None)
    (made,) = experiments(load([tmp_path]))
    found = differences(made)
    assert [found[name].paired for name in ("SGD", "Adam", "Yogi")] == [True, False, False]
    assert math.isnan(found["Adam"].margin)
    belief = [run.test for run in made.groups["AdaBelief"]]
    sgd = [run.test for run in made.groups["SGD"]]
    interval = ttest_rel(sgd, belief[:2]).confidence_interval(0.975)
    assert found["SGD"].margin == pytest.approx((interval.high - interval.low) / 2), (
        "half of the risk of two comparisons"
    )
    yogi = [run.test for run in made.groups["Yogi"]]
    assert found["Yogi"].margin == pytest.approx(independent(yogi, belief, together=2).margin)
