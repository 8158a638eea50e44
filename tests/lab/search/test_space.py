"""The space of a search: what a point becomes, and what is refused."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from adabelief.lab import optimizers, tasks
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.optimizers import METHODS
from adabelief.lab.search import defaults
from adabelief.lab.search.points import grid, halton, planned, random
from adabelief.lab.search.space import COMMON, Dimension, known_names, read, space
from adabelief.lab.search.trial import Conditions
from adabelief.rule import denominator_floor

LR = {"low": 1e-4, "high": 1e-1}


def arm(tables, name=None):
    return next(arm for arm in space(tables).arms if name in (None, arm.name))


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Dimension("lr", 1e-4, 1e-2), [1e-4, 1e-3, 1e-2]),
        (Dimension("momentum", 0.0, 1.0, log=False), [0.0, 0.5, 1.0]),
        (Dimension("beta2", 0.9, 0.999), [0.9, 0.99, 0.999]),
        (Dimension("beta2", 0.9, 0.999, log=False), [0.9, 0.9495, 0.999]),
        (Dimension("rectify", choices=(True, False)), [True, False, False]),
        (Dimension("betas", choices=((0.9, 0.99),)), [(0.9, 0.99)] * 3),
    ],
)
def test_places_become_values(dimension, values):
    assert [dimension.value(at) for at in (0.0, 0.5, 1.0)] == values


@pytest.mark.parametrize(
    ("name", "table", "settings"),
    [
        ("AdamW", {"lr": 0.1, "floor": 1e-4}, {"lr": 0.1, "eps": 1e-4}),
        ("AdaBelief", {"floor": 1e-4, "beta2": 0.99}, {"betas": (0.9, 0.99), "eps": 1e-10}),
        ("EAdam", {"floor": 1e-4, "betas": [0.5, 0.9]}, {"betas": (0.5, 0.9), "eps": 1e-9}),
        ("Yogi", {"floor": 1e-4}, {"eps": 1e-4}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9}),
        ("AdamW", {"lr": 0.01, "independent_decay": 1e-4}, {"lr": 0.01, "weight_decay": 0.01}),
        ("RAdam", {"lr": 0.01, "independent_decay": 1e-4}, {"lr": 0.01, "weight_decay": 0.01}),
        (
            "AdaBelief",
            {"lr": 0.01, "independent_decay": 1e-4, "weight_decouple": True},
            {"lr": 0.01, "weight_decay": 0.01, "weight_decouple": True},
        ),
    ],
)
def test_values_become_arguments(name, table, settings):
    found = arm({name: table})
    assert found.settings({}) == settings
    assert optimizers.check(name, found.settings({}))


def test_what_is_published_holds_where_the_space_is_silent():
    found = arm({"AdaBelief": {"lr": LR, "floor": 1e-4}})
    usual = {"lr": 1.0, "betas": (0.5, 0.9), "eps": 1e-8, "rectify": True}
    assert found.settings({"lr": 0.1}, usual) == {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-9, "rectify": True}


def test_arms_have_the_same_floor_at_the_same_point():
    tables = {COMMON: {"floor": {"low": 1e-8, "high": 1e-2}, "beta2": {"low": 0.9, "high": 0.9999}}}
    found = space({**tables, "AdamW": {}, "AdaBelief": {}, "EAdam": {}}).arms
    for point in halton(["floor", "beta2"], 5, seed=3):
        floors = []
        for one in found:
            settings = one.settings(one.values(point))
            eps, beta2 = settings["eps"], settings["betas"][1]
            floors.append(eps if one.name == "AdamW" else denominator_floor(eps, beta2))
        assert floors == pytest.approx([floors[0]] * 3, rel=1e-3)


def test_common_holds_for_those_who_have_it_and_an_own_table_goes_over_it():
    tables = {COMMON: {"lr": LR, "eps": 1e-8, "beta2": 0.9}, "SGD": {}, "small": {"optimizer": "adamw", "floor": 1e-4}}
    sgd, small = space(tables).arms
    assert (sgd.optimizer, [x.name for x in sgd.dimensions], sgd.fixed) == ("SGD", ["lr"], {})
    assert (small.optimizer, small.fixed) == ("AdamW", {"floor": 1e-4, "beta2": 0.9})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "space has no arm; add one, such as [AdaBelief]"),
        ({"lr": 1}, "space: lr = 1 stands in no arm; put it under [common] or an optimizer"),
        ({"AdaBeleif": {}}, "[AdaBeleif] optimizer: there is no 'AdaBeleif' here; .*did you mean AdaBelief?"),
        ({"AdamW": {"lrr": LR}}, "[AdamW] lrr: AdamW has no such setting; it has lr, .*did you mean lr?"),
        ({"SGD": {"floor": 1e-8}}, "[SGD] floor: SGD has no such setting"),
        ({COMMON: {"flor": 1e-8}, "AdamW": {}}, "[common] flor: no arm has it; leave it away; did you mean floor?"),
        ({"AdamW": {"lr": {"lo": 1e-4, "high": 1}}}, "[AdamW] lr: there is no 'lo' in a range.*did you mean low?"),
        ({"AdamW": {"lr": {"low": 1e-4}}}, "[AdamW] lr: high must be a number, got None; write {low, high}"),
        ({"AdamW": {"lr": {"low": 1.0, "high": 0.1}}}, "[AdamW] lr: low must be below high, got 1 and 0.1"),
        ({"AdamW": {"lr": {"low": 0, "high": 0.1}}}, "[AdamW] lr: low must be above 0 on a log scale, got 0; raise it"),
        ({"AdamW": {"lr": {**LR, "log": 1}}}, "[AdamW] lr: log must be true or false, got 1"),
        ({"AdamW": {"lr": {"choices": []}}}, "[AdamW] lr: choices must be a list of values and stand alone"),
        ({"AdamW": {"lr": {"choices": [0.1, -1]}}}, "[AdamW] lr = -1: lr must be a finite number, at least 0, got -1"),
        ({"AdamW": {"lr": "fast"}}, "[AdamW] lr must be a finite number, at least 0, got 'fast'"),
        ({"AdamW": {"beta2": {"low": 0.9, "high": 1.0}}}, "[AdamW] beta2: high must be a number in [0, 1), got 1.0"),
        ({"AdamW": {"eps": 1e-8, "floor": 1e-8}}, "[AdamW]: eps and floor say the same; keep one"),
        ({"Yogi": {"lr": 1e-3, "independent_decay": 1e-4}}, "this decay is coupled"),
        ({"AdaBelief": {"lr": 1e-3, "independent_decay": 1e-4}}, "this decay is coupled; set weight_decouple = true"),
    ],
)
def test_what_is_refused_is_named(tables, message):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, message.split(".*")))):
        space(tables)


def test_a_file_that_is_no_toml(tmp_path):
    (tmp_path / "space.toml").write_text("[AdamW\n")
    with pytest.raises(ValueError, match=r"space\.toml is no TOML .*--example"):
        read(tmp_path / "space.toml")


@pytest.mark.parametrize("task", CATALOGUE)
def test_default_spaces(task, tmp_path):
    """Each is a space, reads as it was written, and gives arguments that the task's optimizers take."""
    model = (CATALOGUE[task].models or ("",))[0]
    names = [name for name in tasks.task(task).settings(model) if name in METHODS]
    found, text = defaults.arms(task, names)
    (tmp_path / "space.toml").write_text(text)
    assert read(tmp_path / "space.toml") == found
    conditions = Conditions(task, scale="smoke")
    for one in found.arms:
        for at in (0.0, 1.0):
            values = one.values({dimension.name: at for dimension in one.dimensions})
            config = conditions.config(one, one.settings(values, conditions.usual(one)), seed=0)
            assert config.optimizer == one.name
        assert "lr" in {dimension.name for dimension in one.dimensions}


def test_tables_of_the_default_space_are_of_what_there_is():
    written = defaults.read_tables(defaults.SPACES)
    assert set(written["tasks"]) <= set(CATALOGUE)
    for name, table in written["optimizers"].items():
        assert name not in METHODS or set(table) <= set(known_names(name))


def test_points_are_the_same_for_every_arm_and_longer_plans_begin_with_shorter_ones():
    tables = {COMMON: {"lr": LR, "floor": LR}, "AdamW": {}, "SGD": {}, "AdaBelief": {"beta2": {"choices": [0.9, 0.99]}}}
    found = space(tables)
    assert found.names == ("lr", "floor", "beta2")
    for sampler in ("qmc", "random"):
        plans = [planned(found, one, sampler, 8, seed=1) for one in found.arms]
        assert plans[0] == plans[1] == plans[2]
        assert planned(found, found.arms[0], sampler, 5, seed=1) == plans[0][:5]
        assert planned(found, found.arms[0], sampler, 8, seed=2) != plans[0]


def test_halton_fills_every_half_and_random_does_not():
    def halves(points):
        return {tuple(x >= 0.5 for x in point.values()) for point in points}

    names = ["lr", "floor"]
    assert all(len(halves(halton(names, 6, seed))) == 4 for seed in range(20))
    assert any(len(halves(random(names, 6, seed))) < 4 for seed in range(20))


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 1, 1)), (7, (3, 2, 1)), (12, (3, 2, 2)), (20, (3, 3, 2))])
def test_grids(count, sizes):
    axes = [Dimension("lr", 1e-4, 1e-1), Dimension("floor", 1e-8, 1e-2), Dimension("rectify", choices=(True, False))]
    points = grid(axes, count)
    found = [sorted({point[axis.name] for point in points}) for axis in axes]
    assert len(points) <= count
    assert [tuple(point.values()) for point in points] == list(product(*found))
    assert tuple(map(len, found)) == sizes


def test_the_space_of_the_docs(tmp_path):
    text = (Path(__file__).parents[3] / "docs/lab.md").read_text()
    (tmp_path / "space.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    adamw, belief, apart = read(tmp_path / "space.toml").arms
    assert (adamw.name, belief.fixed, apart.optimizer) == ("AdamW", {"weight_decouple": True}, "AdaBelief")
    values = apart.values(dict.fromkeys(("lr", "floor", "beta2", "independent_decay"), 0.0))
    assert apart.settings(values)["weight_decay"] == pytest.approx(1e-6 / 1e-4)


def test_an_arm_of_nothing_that_the_lab_knows():
    mine = arm({"mine": {"optimizer": "", "width": {"choices": [8, 16]}, "depth": 2}})
    assert mine.settings(mine.values({"width": 0.9})) == {"depth": 2, "width": 16}
