"""A plan is read and refused before anything runs: one message, with the place, the value and the remedy."""

import copy
import math

import pytest
from matplotlib.colors import to_rgb
from typer.testing import CliRunner

from adabelief.lab.commands import app
from adabelief.lab.compare.plan import example, plan, read
from adabelief.lab.compare.trials import Trial, finals, searches
from adabelief.lab.report import comparison_figures as figures

PLAN = {
    "arms": ["AdaBelief", "AdamW", "belief"],
    "trials": 4,
    "seeds": [1, 2],
    "workloads": {"digits": {"task": "digits", "scale": "smoke", "margin": 0.5}},
    "space": {"common": {"lr": {"low": 1e-3, "high": 1e-1}}, "belief": {"optimizer": "AdaBelief", "rectify": True}},
}


SHORT = """arms = ["AdaBelief", "AdamW"]
trials = 1
seeds = [1]
[workloads.one]
task = "digits"
scale = "smoke"
margin = 1
"""


def changed(path, value):
    """The plan with another value at a place, None to leave it out."""
    table = copy.deepcopy(PLAN)
    *way, last = path.split("/")
    place = table
    for name in way:
        place = place.setdefault(name, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return table


def test_the_example_is_a_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(example())
    found = read(path)
    assert found.contrasts == tuple(("AdaBelief", rival) for rival in ("AdamW", "EAdamW", "SGD"))
    assert all(searches(found, workload) for workload in found.workloads)


def test_the_command_prints_the_example():
    assert CliRunner().invoke(app, ["compare", "--example"]).output == example()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file"),
        ("arms = [", "is no TOML"),
        ("trails = 3", "did you mean trials?"),
        (f"{SHORT}set = {{ lr = 1 }}", "set has lr, which its space decides"),
        (f"{SHORT}set = {{ widht = 1 }}", "[workloads.one], arm AdaBelief: widht"),
    ],
)
def test_the_command_refuses_a_plan_in_one_message_and_makes_no_folder(tmp_path, text, words):
    path, out = tmp_path / "plan.toml", tmp_path / "out"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(app, ["compare", str(path), "--out", str(out)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not out.exists()


def test_all_arms_have_the_same_points_each_in_its_own_space():
    found = plan(changed("space/AdamW", {"lr": {"low": 1e-4, "high": 1e-2}}))
    (workload,) = found.workloads
    trials = searches(found, workload)
    assert [trial.arm for trial in trials[:3]] == ["AdaBelief", "AdamW", "belief"], "point by point"
    assert len(trials) == 12
    by_arm = {arm: [trial for trial in trials if trial.arm == arm] for arm in found.arms}
    for ours, theirs, third in zip(*by_arm.values(), strict=True):
        assert theirs.values["lr"] == pytest.approx(ours.values["lr"] / 10, rel=2e-3)
        assert third.values == ours.values
        assert third.config.settings["rectify"] is True
        assert third.config.optimizer == "AdaBelief"
        assert third.folder != ours.folder
        floor, beta2 = ours.values["floor"], ours.config.settings["betas"][1]
        assert ours.config.settings["eps"] == pytest.approx(floor**2 * (1 - beta2), rel=1e-3)
        assert theirs.config.settings["eps"] == floor
    assert {trial.config.seed for trial in trials} == {0}


def test_more_trials_begin_with_the_same_ones():
    def folders(trials):
        found = plan(changed("trials", trials))
        return [trial.folder for trial in searches(found, found.workloads[0])]

    assert folders(6)[:12] == folders(4)


def test_contrasts_are_the_first_arm_against_the_others_unless_they_are_named():
    assert plan(PLAN).contrasts == (("AdaBelief", "AdamW"), ("AdaBelief", "belief"))
    assert plan(changed("contrasts", [["AdamW", "belief"]])).contrasts == (("AdamW", "belief"),)
    assert plan(PLAN).reference == "AdamW"


def test_a_workload_may_have_fewer_arms_and_ranges_of_its_own():
    table = changed("workloads/digits/arms", ["AdamW", "belief"])
    table["workloads"]["digits"]["space"] = {"belief": {"lr": 0.5}}
    found = plan(table)
    (workload,) = found.workloads
    assert found.pairs(workload) == []
    assert workload.arms["belief"].fixed["lr"] == 0.5
    assert {dimension.name for dimension in workload.arms["AdamW"].dimensions} >= {"lr", "floor", "weight_decay"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("trails", 3, ["plan: there is no 'trails'", "did you mean trials?"]),
        ("trials", 0, ["trials must be at least 1"]),
        ("trials", None, ["trials must be a whole number"]),
        ("arms", ["AdaBeleif", "AdamW", "belief"], ["there is no 'AdaBeleif'", "did you mean AdaBelief?"]),
        ("arms", ["a/b", "AdamW"], ["'a/b' is no name for a folder"]),
        ("arms", "AdamW", ["arms must be a list of names"]),
        ("seeds", [0, 1], ["seeds has 0, the search's own"]),
        ("seeds", [1, 1], ["seeds has a number twice"]),
        ("seeds", 5, ["seeds must be a list"]),
        ("contrasts", [["AdaBelief", "SGD"]], ["contrasts: there is no 'SGD'"]),
        ("contrasts", [["AdaBelief", "AdaBelief"]], ["contrasts must be pairs of arms"]),
        ("contrasts", [["AdaBelief", "AdamW"], ["AdamW", "AdaBelief"]], ["contrasts has AdaBelief and AdamW twice"]),
        ("arms", ["AdaBelief", "AdaBelief", "AdamW"], ["arms has AdaBelief twice", "a name of your own"]),
        ("workloads/digits/data", 3, ["[workloads.digits]: data must be the path of a folder, got 3"]),
        ("reference", "SGD", ["reference: there is no 'SGD'"]),
        ("workloads", {}, ["there is no workload"]),
        ("workloads/digits/task", "digit", ["[workloads.digits] task: there is no 'digit'", "did you mean digits?"]),
        ("workloads/digits/scale", "smal", ["scale: there is no 'smal'", "did you mean small?"]),
        ("workloads/digits/margin", None, ["[workloads.digits]: margin must be a number above 0", "accuracy"]),
        ("workloads/digits/margin", -1, ["margin must be a number above 0, got -1"]),
        ("workloads/digits/arms", ["AdamW"], ["there is one arm, AdamW, and nothing to compare it with"]),
        ("workloads/digits/epoch", 3, ["there is no 'epoch'", "did you mean epochs?"]),
        ("space/common/lrr", 0.1, ["[space.common] lrr", "did you mean lr?"]),
        ("space/AdamV", {}, ["[space.AdamV]: there is no 'AdamV'", "did you mean AdamW?"]),
        ("space/AdamW", {"lr": {"low": 1.0, "high": 0.1}}, ["[AdamW] lr: low must be below high"]),
        ("space", 3, ["space must be a table"]),
    ],
)
def test_what_is_wrong_is_one_message(path, value, words):
    with pytest.raises(ValueError, match="plan") as caught:
        plan(changed(path, value))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_task_refuses_is_told_before_anything_runs():
    for change, words in (
        ({"widht": 3}, "widht"),
        ({"lr": 0.01}, "set has lr, which its space decides"),
        ({"eps": 1e-8}, "set has eps, which its space decides"),
        ({"betas": [0.9, 0.99]}, "set has betas, which its space decides"),
    ):
        found = plan(changed("workloads/digits/set", change))
        with pytest.raises(ValueError, match=rf"^\[workloads.digits\], arm AdaBelief: {words}"):
            searches(found, found.workloads[0])


def test_finals_have_the_winners_settings_on_every_seed():
    found = plan(PLAN)
    (workload,) = found.workloads
    first = searches(found, workload)[0]

    class Won:
        trial: Trial = first

    last = finals(found, workload, {"AdaBelief": Won()})
    assert [trial.config.seed for trial in last] == [1, 2]
    assert all(trial.config.settings == first.config.settings for trial in last)


@pytest.mark.parametrize("name", ["SGD", "AdaBelief", "AdamW"])
def test_arms_of_one_optimizer_are_told_apart_by_their_colours(name):
    looks = figures.looks(plan({**PLAN, "arms": [name, "other"], "space": {"other": {"optimizer": name}}}))
    assert math.dist(*(to_rgb(look.color) for look in looks.values())) > 0.3
