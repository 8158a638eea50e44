"""What a chapter on an experiment says, situation by situation, and what it does not say."""

import json
import math

import pytest

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.report import figures
from adabelief.lab.report.experiment import chapter
from tests.lab import synthetic


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes its time; test_report.py looks at the figures."""
    for name in ("dots", "curves", "times"):
        monkeypatch.setattr(figures, name, lambda verdict: {})


def of(out):
    (made,) = experiments(load([out]))
    return chapter(judge(made))


def told(out):
    made = of(out)
    return "\n".join([made.heading, *made.findings, made.text])


def pair(out, seeds=(0, 1), names=("AdaBelief", "SGD"), **changes):
    for name in names:
        for seed in seeds:
            synthetic.write(out, synthetic.config(name, seed, **changes))


def waiting(out):
    """One run of each state; the second has a plan only."""
    pair(out)
    for name in ("Adam", "Yogi"):
        folder = synthetic.write(out, synthetic.config(name), (50.0,), (49.0,), planned=2, finished=False)
        if name == "Yogi":
            for file in ("metrics.jsonl", "environment.json"):
                (folder / file).unlink()


def diverged(out):
    pair(out)
    for seed in (0, 1):
        synthetic.write(out, synthetic.config("Adam", seed), (10.0, 10.0), (10.0, 10.0), diverged=True)


def searched(out, seeds=(0,)):
    for name, rates in {"AdaBelief": (0.001, 0.01), "Adam": (0.001, 0.01), "SGD": (0.1,)}.items():
        for lr in rates:
            for seed in seeds:
                synthetic.write(out, synthetic.config(name, seed, lr=lr))


def rising(out):
    """A schedule that rises to its height by step 2 and falls to a tenth of it."""
    factors = (0.5, 1.0, 0.4, 0.1)
    folder = synthetic.write(out, synthetic.config(), (50.0,) * 4, (50.0,) * 4)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "lr_factor" in line]
    for line, factor in zip(steps, factors, strict=True):
        line["lr_factor"] = factor
    more = [{**steps[-1], "lr_factor": 0.11}, {**steps[-1], "lr_factor": 0.1}]  # so that it moves within an epoch
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))


def disturbed(out):
    for name in ("AdaBelief", "SGD"):
        for seed in (0, 1, 2):
            slow = (name, seed) == ("SGD", 2)
            synthetic.write(out, synthetic.config(name, seed), seconds=10.0 if slow else 2.0)


def untested(out):
    """Trials of a search, which leave the test set alone."""
    for name in ("AdaBelief", "SGD"):
        for seed in (0, 1):
            synthetic.write(out, synthetic.config(name, seed), (80.0, 90.0), (math.nan, math.nan))


SITUATIONS = [
    # What was run, its state, and what is told of it; then what must not be.
    ("not started", waiting, ["**Not started, and in no number below:** Yogi, seed 0.", "not started"], []),
    (
        "unfinished",
        waiting,
        ["**Unfinished, and in no number below:** Adam, seed 0 (1 of 2 epochs)."],
        ["Yogi, seed 0 ("],
    ),
    ("both in short", waiting, ["Of 6 runs, 1 is unfinished and 1 is not started, and in no number here."], []),
    ("a diverged run has no number", diverged, ["| Adam † | – | – | diverged, diverged | – |"], ["10.00"]),
    (
        "one seed is no mean",
        lambda out: pair(out, (0,)),
        ["the best is that of", ", with one seed."],
        ["best mean", "± is"],
    ),
    ("± is said beside the first table", pair, ["± is the standard deviation over the seeds"], []),
    ("nothing was tuned", pair, ["No settings were tuned here", "Settings are untuned"], ["A search"]),
    (
        "a search says who was searched, and on which seed",
        searched,
        [
            "A search: 2 learning rates each were tried for AdaBelief and Adam, picked by validation on seed 0, which "
            "counts again below; SGD had one setting."
        ],
        ["Settings are untuned", "No settings were tuned"],
    ),
    ("a search on two seeds", lambda out: searched(out, (0, 1)), ["on seed 0 and seed 1, which count again"], []),
    (
        "runs that did not read the test set",
        untested,
        ["The test set was not read in these runs", "| not tested, not tested |", "| 90.00 ± 0.00 |"],
        ["nan", "the best mean", "told apart"],
    ),
    ("a constant rate", pair, ["The learning rate is constant."], []),
    ("a moving rate", rising, ["The learning rate rises until step 2, then falls to 0.1 of its height."], ["constant"]),
    (
        "a divided rate",
        lambda out: synthetic.write(out, synthetic.config(), (1.0,) * 8, (1.0,) * 8),
        ["The learning rate was divided by 10 after epoch 6."],
        [],
    ),
    (
        "an agent makes its own data",
        lambda out: pair(out, task="rl-sac"),
        ["learns from what its own agent plays"],
        ["sees the same batches"],
    ),
    (
        "a smoke run draws no conclusion and is named by what it plays",
        lambda out: pair(out, task="rl-sac", scale="smoke"),
        ["rl-sac, Pendulum-v1, smoke", "A smoke run: it shows that everything runs.", "Here: Pendulum-v1,"],
        ["HalfCheetah", "beyond", "the best mean", "told apart", "target", "takes from", "minus", "Published"],
    ),
    (
        "what learns from other data is named by it",
        lambda out: pair(out, task="keras-cnn", images="fashion-mnist"),
        ["keras-cnn, fashion-mnist, small"],
        [],
    ),
    (
        "the penalties of a loss are said",
        lambda out: pair(out, task="ptb-lstm"),
        ["last training loss with its penalties", "The training loss with its penalties is the mean over"],
        [],
    ),
    (
        "autocast is said among what differs from the published experiment",
        lambda out: pair(out, task="cifar10", model="vgg11", precision="bf16"),
        ["10 epochs instead of 200; bf16 autocast."],
        [],
    ),
    (
        "published deviations are shown, and no difference at a small scale",
        lambda out: pair(out, task="sngan", features="inception"),
        ["12.52 ± 0.16", "**Ours is another experiment**"],
        ["ours minus theirs", "12.52 ± 0.16 ("],
    ),
    (
        "a difference to what was published is given at its scale",
        lambda out: pair(out, task="sngan", features="inception", scale="paper"),
        ["and in parentheses ours minus theirs", "12.52 ± 0.16 (+78.48)"],
        ["another experiment"],
    ),
    (
        "seconds that other work disturbed are left out",
        disturbed,
        [
            "**Left out of the seconds, as other work disturbed them:** SGD, seed 2 (20 s).",
            "| 4.0 (2 of 3 seeds) |",
        ],
        [],
    ),
    ("calm seconds are all in", pair, ["| 4.0 |"], ["Left out of the seconds"]),
    (
        "the form of a step stands beside its time",
        pair,
        ["| fused | 1.00 |", "| default | 1.00 |", "fused: one compiled"],
        [],
    ),
    ("Keras steps by itself", lambda out: pair(out, task="keras-cnn"), ["| Keras's | 1.00 |"], ["| fused |"]),
    ("whiskers of several seeds", pair, ["Whiskers: ± one standard error: seeds and test set."], []),
    (
        "whiskers of one seed",
        lambda out: pair(out, (0,)),
        ["Whiskers: ± one standard error, of the test set alone."],
        ["seeds and test set"],
    ),
]


@pytest.mark.parametrize(("write", "said", "unsaid"), [case[1:] for case in SITUATIONS], ids=[c[0] for c in SITUATIONS])
def test_what_is_told(tmp_path, write, said, unsaid):
    write(tmp_path)
    text = told(tmp_path)
    for sentence in said:
        assert sentence in text
    for sentence in unsaid:
        assert sentence not in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        # Of two that run the same code, and differ with every seed, neither is called quicker: each differs as much
        # from itself.
        (
            {"AdaBelief": (1.6, 1.1), "AdamW": (1.4, 2.1), "AdamW-same-decay": (1.9, 1.4)},
            "none of the others",
        ),
        ({"AdaBelief": (1.0, 1.1), "AdamW": (4.0, 4.4)}, "more: AdamW"),
        ({"AdaBelief": (4.0, 4.4), "AdamW": (1.0, 1.1)}, "less: AdamW"),
        ({"AdaBelief": (4.0,), "AdamW": (1.0,)}, "one seed does not show"),
    ],
)
def test_times_within_the_noise_are_no_finding(tmp_path, seconds, told):
    for name, values in seconds.items():
        for seed, value in enumerate(values):
            synthetic.write(tmp_path, synthetic.config(name, seed), optimizer_seconds=1e-3 * value)
    assert told in of(tmp_path).findings[-1]
