"""A comparison on a tiny task: what is run, what is kept, what is said, and that killing does not change it."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from adabelief.lab import tasks
from adabelief.lab.analysis.runs import load
from adabelief.lab.compare import running, work
from adabelief.lab.compare.plan import plan
from adabelief.lab.compare.results import results, trials_csv, unplanned
from adabelief.lab.compare.running import Place
from adabelief.lab.compare.trials import FINALS, read, searches
from adabelief.lab.compare.verdict import judge, rates
from adabelief.lab.report import comparison
from adabelief.lab.report.answer import answer
from tests.lab.tiny import reading

PLAN = {
    "title": "Tiny",
    "arms": ["AdaBelief", "AdamW", "SGD"],
    "trials": 3,
    "seeds": [1, 2, 3],
    "workloads": {"one": {"task": "digits", "margin": 5.0}, "two": {"task": "digits", "margin": 20.0, "epochs": 2}},
    "space": {"common": {"lr": {"low": 1e-3, "high": 1e-1}, "weight_decay": 0.0, "beta2": 0.99}},
}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The task is one of milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "task", lambda name: replace(reading(), name="digits"))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a comparison that is over, and its report."""
    folder = tmp_path_factory.mktemp("compare")
    work.work(plan(PLAN), Place(folder, cpu=True))
    comparison.write(plan(PLAN), folder, folder / "report", command="adabelief compare plan.toml")
    return folder


@pytest.fixture(scope="module")
def verdict(out):
    return judge(plan(PLAN), results(plan(PLAN), out))


def rows(folder, asked=None):
    """The raw table: of the report, or of what there is of a plan without one."""
    text = trials_csv(results(asked, folder)) if asked else (folder / "report" / "trials.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def table(folder, workload, column="test", stage=FINALS):
    """arm -> values, in order."""
    found = {}
    for row in rows(folder):
        if row["workload"] == workload and row["stage"] == stage:
            found.setdefault(row["arm"], []).append(float(row[column] or "nan"))
    return {arm: np.array(x) for arm, x in found.items()}


def test_every_run_of_the_plan_has_a_row(out):
    found = rows(out)
    assert len(found) == 2 * (3 * 3 + 3 * 3)
    assert {row["state"] for row in found} == {"finished"}
    assert {row["seed"] for row in found if row["stage"] == "search"} == {"0"}
    assert {row["seed"] for row in found if row["stage"] == "finals"} == {"1", "2", "3"}
    assert len({row["folder"] for row in found}) == len(found)


def test_the_search_does_not_read_the_test_set_and_the_finals_do_once(out):
    for run in load([out / "search"]):
        assert not [
            name for line in run.epochs for name in line if name.startswith("test_") and name != "test_accuracy"
        ]
        assert all(math.isnan(line["test_accuracy"]) for line in run.epochs)
        with np.load(run.path / "hits.npz") as hits:
            assert list(hits) == ["validation"]
    for run in load([out / "finals"]):
        *before, last = run.epochs
        assert all(math.isnan(line["test_accuracy"]) for line in before)
        with np.load(run.path / "hits.npz") as hits:
            assert 100 * hits["test"].mean() == pytest.approx(last["test_accuracy"])
            assert hits["test"].shape == (15,)


def test_winners_are_those_of_the_best_validation_after_the_last_epoch(out):
    found = rows(out)
    for workload in ("one", "two"):
        for arm in PLAN["arms"]:
            own = [row for row in found if row["workload"] == workload and row["arm"] == arm]
            search = [row for row in own if row["stage"] == "search"]
            best = max(search, key=lambda row: (float(row["validation"]), -float(row["validation_loss"])))
            assert {row["settings"] for row in own if row["stage"] == "finals"} == {best["settings"]}


def test_contrasts_recomputed_from_the_raw_table(out, verdict):
    """By numpy, and scipy's Dunnett distribution by simulation."""
    assert verdict.dunnett
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(200_000, 3))
    spread = np.sqrt(generator.chisquare(4, 200_000) / 4)
    largest = (abs(draws[:, 1:] - draws[:, :1]) / np.sqrt(2)).max(1) / spread
    quantile = np.quantile(largest, math.sqrt(0.95))
    for workload in ("one", "two"):
        y = np.stack(list(table(out, workload).values()))
        residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
        deviation = max(math.sqrt((residual**2).sum() / 4), 100 / 15 / math.sqrt(12))
        for one in (one for one in verdict.judged if one.workload == workload):
            first, second = (table(out, workload)[arm] for arm in (one.first, one.second))
            assert one.contrast.difference == pytest.approx((first - second).mean())
            assert one.contrast.error == pytest.approx(deviation * math.sqrt(2 / 3))
            assert one.contrast.margin == pytest.approx(quantile * one.contrast.error, rel=0.02)
            t = abs(one.contrast.difference) / one.contrast.error
            assert one.p == pytest.approx(1 - (largest < t).mean() ** 2, abs=0.01)


def test_equivalence_recomputed(verdict):
    margins = {"one": 5.0, "two": 20.0}
    p = [
        max(
            stats.t.sf((margins[one.workload] + one.contrast.difference) / one.contrast.error, 4),
            stats.t.sf((margins[one.workload] - one.contrast.difference) / one.contrast.error, 4),
        )
        for one in verdict.judged
    ]
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([min(1, (len(p) - i) * p[j]) for i, j in enumerate(order)])
    assert [verdict.judged[j].equivalence for j in order] == pytest.approx(list(adjusted))


def test_cost_of_tuning_recomputed(out, verdict):
    for arm, values in table(out, "one", "validation", "search").items():
        curve = verdict.best_of["one"][arm]
        assert curve.expected[0] == pytest.approx(values.mean())
        assert curve.expected[-1] == values.max()
        assert curve.expected[1] == pytest.approx(
            np.mean([max(a, b) for i, a in enumerate(values) for b in values[i + 1 :]])
        )


def test_time_to_target_recomputed(out, verdict):
    goal = np.median(table(out, "one", "validation_picked")["AdamW"])
    assert verdict.times["one"].goal == goal
    for arm in PLAN["arms"]:
        steps = []
        for row in rows(out):
            if (row["workload"], row["stage"], row["arm"]) == ("one", "finals", arm):
                lines = [json.loads(x) for x in (out / row["folder"] / "metrics.jsonl").read_text().splitlines()]
                reached = [x["step"] for x in lines if x.get("validation_accuracy", -1) >= goal]
                steps.append(reached[0] if reached else math.inf)
        assert verdict.times["one"].steps[arm] == np.median(steps)
    assert verdict.times["one"].seconds.keys() == set(PLAN["arms"])


def test_sensitivity_is_of_the_lowest_loss_in_each_part_of_the_range(out):
    found = results(plan(PLAN), out)[0]
    lowest = rates(found, "SGD", bins=1)
    assert [one.validation_loss for _, one in lowest] == [min(one.validation_loss for one in found.trials("SGD"))]
    assert len(rates(found, "SGD", bins=100)) == 3


def test_the_report_answers_first_and_calls_nothing_better_that_the_interval_does_not_show(out, verdict):
    text = (out / "report" / "report.md").read_text()
    sentences = " ".join(answer(verdict))
    assert text.index("AdaBelief against AdamW") < text.index("## The answer")
    assert text.index("## The answer") < text.index("## one") < text.index("## Budget")
    clear = [one for one in verdict.judged if one.contrast.clear]
    assert sentences.count("better on") + sentences.count("worse on") == len({(x.second, x.verdict) for x in clear})
    for name in ("forest", "profile", "one-best-of-k", "one-lr", "one-floor"):
        assert (out / "report" / "figures" / f"{name}.png").stat().st_size > 1000
    assert "| one | AdaBelief | 3 of 3 | 3 of 3 |" in text


def test_pairs_without_a_common_arm_have_holms_p_values(out):
    asked = plan(
        {**PLAN, "arms": [*PLAN["arms"]], "contrasts": [["AdaBelief", "AdamW"], ["AdamW", "SGD"], ["SGD", "AdaBelief"]]}
    )
    verdict = judge(asked, results(asked, out))
    assert not verdict.dunnett
    p = np.array([2 * stats.t.sf(abs(x.contrast.difference) / x.contrast.error, 4) for x in verdict.judged])
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([min(1, (6 - i) * p[j]) for i, j in enumerate(order)])
    assert [verdict.judged[j].p for j in order] == pytest.approx(list(adjusted))
    margin = stats.t.isf(0.025 / 6, 4)
    assert all(x.contrast.margin == pytest.approx(margin * x.contrast.error) for x in verdict.judged)


def test_a_plan_that_was_changed_leaves_runs_out_and_says_so(out, monkeypatch):
    for name in ("forest", "profile", "best_of", "sensitivity", "heat"):
        monkeypatch.setattr(comparison.figures, name, lambda *args: {})
    fewer = plan({**PLAN, "trials": 2})
    found = results(fewer, out)
    assert unplanned(fewer, out, found) >= 6
    text = "\n".join(chapter.text for chapter in comparison.chapters(judge(fewer, found), 6, "x"))
    assert "Not of this plan, and in no number here: 6 runs" in text


def test_it_can_be_reported_at_any_time(tmp_path):
    asked = plan(PLAN)
    empty = judge(asked, results(asked, tmp_path))
    assert {one.verdict for one in empty.judged} == {"waiting"}
    comparison.write(asked, tmp_path, tmp_path / "report", command="x")
    nothing = (tmp_path / "report" / "report.md").read_text()
    assert "waiting for a first trial" in nothing
    assert "every trial was lost" not in nothing
    for trial in searches(asked, asked.workloads[0])[:5]:
        running.run(trial, Place(tmp_path, cpu=True))
    verdict = comparison.write(asked, tmp_path, tmp_path / "report", command="x")
    assert "not judged yet on one and two" in " ".join(answer(verdict))
    assert "of the search, 4 runs are left" in (tmp_path / "report" / "report.md").read_text()
    assert {len(curve.expected) for curve in verdict.best_of["one"].values()} == {1}, "as many of every arm"
    assert sum(row["state"] == "waiting" for row in rows(tmp_path)) == 18 - 5


def test_an_arm_that_diverges_everywhere_is_a_loss(tmp_path):
    asked = plan(
        {
            **PLAN,
            "arms": ["AdaBelief", "AdamW", "wild"],
            "trials": 2,
            "workloads": {"one": PLAN["workloads"]["one"]},
            "space": {**PLAN["space"], "wild": {"optimizer": "SGD", "lr": 1e30}},
        }
    )
    work.work(asked, Place(tmp_path, cpu=True))
    verdict = judge(asked, results(asked, tmp_path))
    told = " ".join(answer(verdict))
    assert "wild lost every trial on one and has no finals" in told
    assert "AdaBelief against wild: not compared, as runs were lost, on one." in told
    assert [one.verdict for one in verdict.judged if one.second == "wild"] == ["loss"]
    assert next(one for one in verdict.judged if one.second == "AdamW").contrast is not None
    assert verdict.improvement["AdaBelief", "wild"].estimate == 1.0
    assert verdict.profile["wild"] == 0
    assert {row["state"] for row in rows(tmp_path, asked) if row["arm"] == "wild"} == {"lost"}
    (_, workload, *_) = comparison.chapters(verdict, 0, "x")
    assert "every trial was lost" in workload.text
    unknown = replace(verdict, sensitivities={"one": {"wild": math.nan, "AdaBelief": 0.5, "AdamW": 0.5}})
    (_, workload, *_) = comparison.chapters(unknown, 0, "x")
    assert "one-lr" in {picture.name for picture in workload.pictures}, "an arm that has none hides no other's"


def test_an_error_in_training_is_a_loss_too_and_is_not_repeated(tmp_path, monkeypatch):
    asked = plan(PLAN)
    trial, *_ = searches(asked, asked.workloads[0])

    def fail(*args, **kwargs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(running.session, "run", fail)
    assert running.run(trial, Place(tmp_path, cpu=True))
    assert running.is_finished(trial, tmp_path)
    (done,) = read(tmp_path, [trial])
    assert (done.lost, done.failure) == (True, "RuntimeError: no such kernel")


def kept(folder):
    """All that a comparison's numbers are made of."""
    columns = ("workload", "stage", "arm", "seed", "settings", "state", "validation", "test", "train_loss", "steps")
    return [tuple(row[name] for name in columns) for row in rows(folder, plan(PLAN))]


def test_stopped_at_random_steps_it_ends_with_the_same_numbers(out, tmp_path, monkeypatch):
    """An exception in any step stands for a kill: the next worker goes on from what is on the disk."""
    generator = np.random.default_rng(3)
    real = running.session.run

    class Kill(Exception):
        pass

    class Killer(running.HoldingBack):
        def after_step(self, run):
            super().after_step(run)
            if generator.random() < 0.1:
                raise Kill

    monkeypatch.setattr(running, "HoldingBack", Killer)
    kills = 0
    while True:
        try:
            work.work(plan(PLAN), Place(tmp_path, cpu=True, checkpoint_seconds=0.0))
            break
        except Kill:
            kills += 1
    assert kills > 3
    assert running.session.run is real
    assert kept(tmp_path) == kept(out)
