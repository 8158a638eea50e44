import math
from dataclasses import replace

import pytest

from adabelief.lab import tasks
from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge, proportion_variance, standard_error
from adabelief.lab.report import sentences
from adabelief.lab.task import Metric
from tests.lab import synthetic
from tests.lab.synthetic import experiment


def on_experiment(made):
    return sentences.on_experiment(judge(made))


def test_a_proportion():
    assert proportion_variance(90.0, 300) == pytest.approx(100**2 * 0.9 * 0.1 / 300)
    assert proportion_variance(100.0, 300) == pytest.approx(100**2 * (1 / 300) * (299 / 300) / 300), "not 0"
    assert proportion_variance(0.0, 300) == pytest.approx(proportion_variance(100.0, 300))


def test_standard_error_has_both_parts(tmp_path):
    made = experiment(tmp_path, {"SGD": [89.0, 91.0], "Adam": [90.0]}, examples=1000)
    assert standard_error(made.groups["Adam"]) == pytest.approx(math.sqrt(0.9))
    assert standard_error(made.groups["SGD"]) == pytest.approx(math.sqrt(0.9 + 2 / 2))


def test_one_seed_has_no_margin(tmp_path):
    made = experiment(tmp_path, {"AdaBelief": [10.0], "SGD": [95.0]})
    (found,) = judge(made).comparisons.values()
    assert math.isnan(found.margin)
    assert not found.clear
    text = " ".join(on_experiment(made))
    assert "not judged, as one seed does not show how much another would change: SGD" in text
    assert "beyond the noise" not in text


def test_lower_can_be_better(tmp_path, monkeypatch):
    task = replace(tasks.task("digits"), metric=Metric("perplexity", "", higher_is_better=False))
    monkeypatch.setattr(tasks, "task", lambda name: task)
    tests = {"AdaBelief": [70.0, 70.1], "SGD": [60.0, 60.1], "Adam": [80.0, 80.1]}
    made = experiment(tmp_path, tests)
    text = " ".join(on_experiment(made))
    assert "the best mean is that of SGD" in text
    assert "better than it beyond the noise: SGD; worse beyond the noise: Adam" in text
    assert judge(made).target.level == 70.1
    assert standard_error(made.groups["SGD"]) == pytest.approx(0.05), "no accuracy: only the seeds count"


def test_diverged_runs_are_told_and_compared_with_nothing(tmp_path):
    synthetic.write(tmp_path, synthetic.config("Adam", 2), (99.0, 10.0), (99.0, 10.0), diverged=True)
    made = experiment(tmp_path, {"AdaBelief": [90.0, 90.1], "Adam": [98.0, 98.1], "SGD": [91.0, 91.1]})
    text = " ".join(on_experiment(made))
    assert "Adam diverged (seed 2 in epoch 2)." in text
    assert "A diverged run is a loss: its optimizer has no mean, and counts as behind all that have one." in text
    assert list(judge(made).comparisons) == ["SGD"]
    assert len(made.valid["Adam"]) == 2


def test_who_is_compared_with(tmp_path):
    synthetic.write(tmp_path, synthetic.config("AdaBelief", lr=0.1))
    (made,) = experiments(load([tmp_path]))
    assert judge(made).reference == "AdaBelief (lr=0.1)"
    synthetic.write(tmp_path, synthetic.config("AdaBelief"))
    (made,) = experiments(load([tmp_path]))
    assert judge(made).reference == "AdaBelief"


def searched(tmp_path, validations):
    """One with these validation metrics at each learning rate of each optimizer, seed by seed, and 1 less in tests."""
    for name, settings in validations.items():
        for lr, values in settings.items():
            for seed, value in enumerate(values):
                synthetic.write(tmp_path, synthetic.config(name, seed, lr=lr), (value, value), (value - 1, value - 1))
    (made,) = experiments(load([tmp_path]))
    return made


def test_a_search_compares_what_validation_picks_on_the_seeds_that_all_settings_have(tmp_path):
    made = searched(
        tmp_path,
        {
            "AdaBelief": {0.01: [90.0], 0.02: [95.0, 80.0, 80.0], 0.03: [94.0]},
            "Adam": {0.01: [97.0, 97.0], 0.02: [96.0, 98.5]},
            "SGD": {0.1: [70.0]},
        },
    )
    assert list(judge(made).contenders) == ["AdaBelief (lr=0.02)", "SGD (lr=0.1)", "Adam (lr=0.02)"]
    assert judge(made).reference == "AdaBelief (lr=0.02)"
    assert judge(made).comparisons.keys() == {"Adam (lr=0.02)", "SGD (lr=0.1)"}
    assert judge(made).comparisons["Adam (lr=0.02)"].difference == pytest.approx(96.25 - 86.5), (
        "on the seeds that both have"
    )
    assert judge(made).target.level == 80.0
    first, second, *_ = on_experiment(made)
    assert first == (
        "A search: 2 to 3 learning rates each were tried for AdaBelief and Adam, picked by validation on seed 0 and "
        "seed 1, which count again below; SGD had one setting. A wider search might pick others."
    )
    assert second == "Mean test accuracy lies between 69.00 and 96.25 %; the best mean is that of Adam (lr=0.02)."


def test_seeds_that_picked_settings_do_not_count_again_where_there_are_others(tmp_path):
    rates = {0.01: [90.0], 0.02: [99.0, 80.0, 81.0]}
    made = searched(tmp_path, {"AdaBelief": rates, "Adam": {0.01: [70.0], 0.02: [99.0, 90.0, 92.0]}})
    found = judge(made)
    assert {run.config.seed for runs in found.contenders.values() for run in runs} == {1, 2}
    assert found.comparisons["Adam (lr=0.02)"].difference == pytest.approx(91.0 - 80.5)
    assert "picked by validation on seed 0, left out below." in on_experiment(made)[0]


def test_the_last_epoch_is_told_where_it_says_something_else(tmp_path):
    for name, (picked, last) in {"AdaBelief": (90.0, 60.0), "SGD": (60.0, 60.0)}.items():
        for seed in (0, 1, 2):
            synthetic.write(tmp_path, synthetic.config(name, seed), (picked, last), (picked, last), best=1)
    (made,) = experiments(load([tmp_path]))
    text = " ".join(on_experiment(made))
    assert (
        "worse beyond the noise: SGD. After the last epoch instead of the picked one: not told apart from it: SGD."
        in text
    )


def test_settings_of_adabelief_alone_are_compared_with_each_other(tmp_path):
    made = searched(tmp_path, {"AdaBelief": {0.01: [90.0], 0.02: [95.0]}, "Adam": {0.01: [97.0]}})
    assert list(judge(made).contenders) == list(made.groups)
    assert len(judge(made).comparisons) == 2
    assert not any("search" in sentence for sentence in on_experiment(made))


def test_where_lower_is_better_a_search_picks_the_lowest(tmp_path):
    made = searched(tmp_path, {"AdaBelief": {0.01: [90.0], 0.02: [95.0]}, "Adam": {0.01: [97.0], 0.02: [98.0]}})
    made = replace(made, task=replace(made.task, metric=Metric("accuracy", higher_is_better=False)))
    assert list(judge(made).contenders) == ["AdaBelief (lr=0.01)", "Adam (lr=0.01)"]


def test_without_adabelief_nothing_is_compared_with_it(tmp_path):
    made = experiment(tmp_path, {"SGD": [90.0, 90.1], "Adam": [70.0, 70.1]})
    assert judge(made).comparisons == {}
    assert "AdaBelief is not among those" in " ".join(on_experiment(made))


def test_one_optimizer_is_no_comparison(tmp_path):
    made = experiment(tmp_path, {"AdaBelief": [98.0]})
    assert on_experiment(made) == ["There is AdaBelief alone, with a test accuracy of 98.00 %: no comparison."]
    assert judge(made).target is None


@pytest.mark.parametrize(
    ("bests", "level"),
    [
        ({"AdaBelief": [95.0, 93.0], "SGD": [94.0, 92.0]}, 92.0),
        ({"AdaBelief": [95.0, 93.0], "SGD": [94.0, 92.0], "Adam": [10.0, 11.0]}, 92.0),
        ({"AdaBelief": [95.0, 93.0], "SGD": [94.0, 92.0], "Adam": [10.0, 11.0], "Yogi": [97.0, 96.0]}, 92.0),
    ],
)
def test_the_target_is_what_the_middle_one_reaches_with_every_seed(tmp_path, bests, level):
    for name, values in bests.items():
        for seed, value in enumerate(values):
            synthetic.write(tmp_path, synthetic.config(name, seed), (50.0, value, 1.0), (0.0, 0.0, 0.0), seconds=3.0)
    (made,) = experiments(load([tmp_path]))
    found = judge(made).target
    assert found.level == level
    assert found.reached["AdaBelief"] == [(2, 6.0), (2, 6.0)]
    assert found.reached.get("Adam", [None, None]) == [None, None]
    assert sum(all(hits) for hits in found.reached.values()) >= len(bests) / 2
