"""A report that the tests of this folder read."""

import pytest

from adabelief.lab.analysis.runs import load
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report import report, walk_figures
from adabelief.lab.tasks.toy import walk
from tests.lab import synthetic


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two experiments; the first has a diverged and an unfinished run, the second one seed."""
    out = tmp_path_factory.mktemp("runs")
    cifar = {"task": "cifar10", "model": "resnet34"}
    for name, tests in {
        "AdaBelief": (94.0, 95.0),
        "SGD": (93.0, 92.0),
        "Adam": (90.0, 90.0),
        "EAdam": (80.0, 80.0),
    }.items():
        for seed, value in enumerate(tests):
            validation, test = (50.0, 60.0, value + 1, value), (49.0, 59.0, value, value - 0.5)
            synthetic.write(out, synthetic.config(name, seed, **cifar), validation, test, examples=2000)
    broken = synthetic.config("Adam", 2, **cifar)
    synthetic.write(out, broken, (50.0, 10.0), (49.0, 9.0), planned=4, diverged=True, examples=2000)
    waiting = synthetic.config("SGD", 2, **cifar)
    synthetic.write(out, waiting, (50.0,), (49.0,), planned=4, finished=False, examples=2000)
    synthetic.write(out, synthetic.config("AdaBelief", lr=0.01, **cifar), (50.0,) * 4, (50.0,) * 4, examples=2000)
    for name in ("AdaBelief", "AdamW-same-decay"):
        synthetic.write(out, synthetic.config(name))
    return out


@pytest.fixture(scope="session")
def out(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cone = FUNCTIONS["cone"]
    walks = [walk(cone, optimizer, steps=300) for optimizer in cone.settings()]
    walks += [walk(FUNCTIONS["beale"], optimizer, steps=300) for optimizer in walk_figures.RACERS]
    report.write(folder, load([runs]), walks=walks, walk_limit=300, command="adabelief report runs")
    return folder
