from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.report import sentences
from tests.lab import synthetic
from tests.lab.synthetic import experiment


def on_experiment(made):
    return sentences.on_experiment(judge(made))


def test_a_difference_within_the_noise_is_not_called_one(tmp_path):
    made = experiment(tmp_path, {"AdaBelief": [98.5, 98.6], "SGD": [98.0, 98.1], "Adam": [99.0, 99.1]})
    text = " ".join(on_experiment(made))
    assert "AdaBelief has 98.55 %; not told apart from it: SGD and Adam." in text
    assert "lies between 98.05 and 99.05 %; the best mean is that of Adam." in text
    assert "beyond" not in text


def test_a_difference_beyond_the_noise_is_named_whoever_it_speaks_for(tmp_path):
    tests = {"AdaBelief": [90.0, 90.1], "SGD": [98.0, 98.1], "Adam": [80.0, 80.1], "Yogi": [90.2, 90.3]}
    text = " ".join(on_experiment(experiment(tmp_path, tests)))
    assert "better than it beyond the noise: SGD; worse beyond the noise: Adam; not told apart from it: Yogi." in text


def test_unfinished_runs_are_told_and_in_no_number(tmp_path):
    synthetic.write(tmp_path, synthetic.config("AdaBelief", 2), (1.0,), (1.0,), finished=False, planned=2)
    made = experiment(tmp_path, {"AdaBelief": [90.0, 90.1], "SGD": [91.0, 91.1]})
    text = " ".join(on_experiment(made))
    assert "AdaBelief has 90.05 %" in text
    assert "Of 5 runs, 1 is unfinished, and in no number here." in text


def test_nothing_finished(tmp_path):
    made = experiment(tmp_path, {"AdaBelief": [98.0]}, finished=False)
    assert on_experiment(made)[0] == "Nothing has come to its end."


def test_times_are_told_whoever_is_slow(tmp_path):
    for name, seconds in (("AdaBelief", (2.0, 2.4)), ("SGD", (1.0, 1.1)), ("Adam", (2.3, 2.5)), ("Yogi", (3.0, 2.5))):
        for seed, value in enumerate(seconds):
            synthetic.write(tmp_path, synthetic.config(name, seed), optimizer_seconds=1e-3 * value)
    (made,) = experiments(load([tmp_path]))
    assert on_experiment(made)[-1] == (
        "`step()` takes from 1.05 ms (SGD, fused) to 2.75 ms (Yogi, foreach). AdaBelief's takes 2.20 ms; beyond the "
        "1.2 times by which one differs from itself, less: SGD; more: Yogi."
    )


def test_times_of_different_machines_are_not_compared(tmp_path):
    synthetic.write(tmp_path, synthetic.config("AdaBelief"))
    synthetic.write(tmp_path, synthetic.config("SGD"), environment={**synthetic.ENVIRONMENT, "processor": "Another"})
    (made,) = experiments(load([tmp_path]))
    assert "their times are not compared" in on_experiment(made)[-1]
