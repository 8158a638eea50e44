import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from adabelief.lab import optimizers
from adabelief.lab.analysis.runs import load
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report import race, report
from adabelief.lab.tasks import task
from adabelief.lab.tasks.toy import NEAR, PATIENCE, recorded, walk

# f(1, 2), and f(-0.5, 3), by hand.
VALUES = {
    "cone": (3, 3.5),
    "valley": (3.1, 2.85),
    "bowl": (9.1, 7.475),
    "steep": (2.1, 3.05),
    "beale": (2.5**2 + 5.25**2 + 9.625**2, 0.5**2 + 1.75**2 + 10.375**2),
    "rosenbrock": (100, 1.5**2 + 100 * 2.75**2),
}
POINTS = [(1.0, 2.0), (-0.5, 3.0), (-2.5, 0.3), (1.7, -3.1)]
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def test_there_are_the_six_of_the_paper():
    assert FUNCTIONS.keys() == VALUES.keys()


@functions
def test_value_by_hand(function):
    assert function.value(1.0, 2.0) == pytest.approx(VALUES[function.name][0])
    assert function.value(-0.5, 3.0) == pytest.approx(VALUES[function.name][1])


@functions
@pytest.mark.parametrize("point", POINTS)
def test_gradient_is_that_of_autograd(function, point):
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in point)
    expected = torch.autograd.grad(function.value(x, y), (x, y))
    assert function.gradient(*point) == pytest.approx([g.item() for g in expected], rel=1e-12)


@functions
def test_optimum_is_the_least_value_in_sight(function):
    assert function.value(*function.optimum) == pytest.approx(0, abs=1e-15)
    assert function.gradient(*function.optimum) == pytest.approx((0, 0), abs=1e-12)
    x, y = np.meshgrid(np.linspace(*function.x_range, 201), np.linspace(*function.y_range, 201))
    away = np.hypot(x - function.optimum[0], y - function.optimum[1]) > 1e-9
    assert function.value(x, y)[away].min() > 0


@functions
def test_start_and_optimum_are_in_the_picture(function):
    for x, y in (function.start, function.optimum):
        assert function.x_range[0] <= x <= function.x_range[1]
        assert function.y_range[0] <= y <= function.y_range[1]


def test_walk_is_the_optimizers_own():
    function = FUNCTIONS["bowl"]
    path = walk(function, "Adam", steps=20).path
    point = torch.nn.Parameter(torch.tensor(function.start, dtype=torch.float64))
    optimizer = torch.optim.Adam([point], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    for expected in path[1:]:
        optimizer.zero_grad()
        function.value(*point).backward()
        optimizer.step()
        assert point.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_arrival_is_for_good():
    done = walk(FUNCTIONS["cone"], "AdaBelief")
    assert done.arrival is not None
    assert done.distance[done.arrival - 1] >= NEAR
    assert (done.distance[done.arrival :] < NEAR).all()
    assert done.steps == done.arrival + PATIENCE
    crossed = int(np.argmax(done.distance < NEAR))
    assert crossed < done.arrival, "this walk shoots past the optimum first: a first crossing is no arrival"


def test_walk_that_does_not_arrive():
    stopped = walk(FUNCTIONS["beale"], "SGD", steps=50)
    assert stopped.arrival is None
    assert stopped.steps == 50
    assert stopped.path[0].tolist() == [-2.5, -2.5]
    assert stopped.value[-1] < stopped.value[0]


@pytest.mark.parametrize("name", ["beale", "rosenbrock"])
@pytest.mark.parametrize("optimizer", ["SGD", "SGD, undamped"])
def test_sgd_at_the_others_learning_rate_does_not_survive(name, optimizer):
    done = walk(replace(FUNCTIONS[name], sgd_lr=1e-3), optimizer, steps=5000)
    assert done.arrival is None
    assert not math.isfinite(done.distance[-1]) or done.distance[-1] > 1e6


def test_settings_of_the_walkers():
    assert FUNCTIONS["steep"].settings()["AdaBelief"]["betas"] == (0.3, 0.3)
    assert FUNCTIONS["steep"].settings()["SGD"] == {"lr": 1e-3, "momentum": 0.3, "dampening": 0.3}
    assert FUNCTIONS["rosenbrock"].settings()["SGD"]["lr"] == 1e-6
    assert FUNCTIONS["rosenbrock"].settings()["Adam"]["lr"] == 1e-3


@functions
def test_settings_are_arguments_of_the_optimizers(function):
    for name, settings in task("toy").settings(function.name).items():
        optimizers.check(name, settings)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Two functions as runs of the lab."""
    out = tmp_path_factory.mktemp("runs")
    for model, names in (("steep", ["AdaBelief", "SGD"]), ("beale", ["Adam", "AdaBound"])):
        session.run(task("toy"), plan(task("toy"), model=model, scale="smoke", names=names), out, cpu=True)
    return out


def test_a_run_records_the_walk(walked):
    (run,) = (run for run in load([walked]) if run.config.optimizer == "AdaBelief")
    path = [point for line in run.epochs for point in line["path"]]
    mine, alone = recorded("steep", run.label, run.config.settings, path), walk(FUNCTIONS["steep"], "AdaBelief")
    assert mine.steps == 1000
    assert np.array_equal(mine.path[: len(alone.path)], alone.path)
    assert mine.arrival == alone.arrival
    assert run.test == pytest.approx(math.dist(path[-1], (0, 0)))


def test_a_recorded_arrival_is_for_good():
    path = [(1.0, 0.0), (0.001, 0.0), (1.0, 0.0), (0.002, 0.0), (0.001, 0.0)]
    assert recorded("cone", "Adam", {}, path).arrival == 3
    assert recorded("cone", "Adam", {}, path[:3]).arrival is None
    assert recorded("cone", "SGD", {"lr": 1.0}, path).optimizer == "SGD, undamped"


def test_report_draws_what_was_walked(walked, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "race", lambda walks: {"gif": b"", "dark.gif": b""})  # reports of others have real ones
    report.write(tmp_path, load([walked]), command="adabelief report")
    text = (tmp_path / "report.md").read_text()
    assert "beale" in text
    assert "rosenbrock" not in text
    assert "Nothing has finished" not in text
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        *("race.gif", "race.dark.gif"),
        *(f"{name}.{kind}" for name in ("trajectories", "distances") for kind in ("png", "svg")),
    }


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_a_film_where_there_is_ffmpeg(walked, tmp_path):
    report.write(tmp_path, load([walked]), command="adabelief report")
    assert (tmp_path / "figures/race.mp4").read_bytes()[4:8] == b"ftyp"
