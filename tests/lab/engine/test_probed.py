"""A run with a probe: what is written beside the metrics, the same after a stop, and nothing of the run changed."""

import io
import json

import pytest
from rich.console import Console

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.observers import Checkpoints
from tests.lab.running import Stop, Watching, equal, numbers, weights
from tests.lab.tiny import linear


def run(out, names=("AdaBelief",), probe=True, **more):
    task, console = linear(), Console(width=200, file=io.StringIO())
    configs = plan(task, scale="smoke", names=names)
    session.run(task, configs, out, cpu=True, probe=probe, console=console, **more)
    return [RunFolder(out / config.folder) for config in configs], console.file.getvalue()


def seen(folder):
    return [json.loads(line) for line in folder.probe.read_text().splitlines()]


def test_what_a_probe_sees_is_in_the_folder_and_changes_nothing(tmp_path):
    folders, said = run(tmp_path / "probed", ["AdaBelief", "Adam", "SGD"])
    lines = seen(folders[0])
    assert [line["run_step"] for line in lines] == list(range(1, 21))  # 20 steps are few: it looks at each
    assert [line["step"] for line in lines] == [line["run_step"] for line in lines]
    assert lines[0]["module"] == "model"
    assert set(lines[0]["layers"]) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert lines[0]["all"]["eps"] == 1e-8
    assert seen(folders[1])[-1]["optimizer"] == "Adam"
    assert not folders[2].probe.exists()
    assert said.count("SGD is not looked at") == 1
    (plain,), _ = run(tmp_path / "plain", probe=False)
    assert not plain.probe.exists()
    assert numbers(plain) == numbers(folders[0])
    assert equal(weights(plain), weights(folders[0]))


@pytest.mark.parametrize("at", [3, 7, 12])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 60.0])
def test_a_run_that_goes_on_has_seen_the_same(at, checkpoint_seconds, tmp_path):
    (whole,), _ = run(tmp_path / "whole")

    def stop(run):
        if run.state.step == at:
            with run.folder.probe.open("a") as file:
                file.write('{"run_step": 1')  # cut off
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "cut", observers=[Checkpoints(checkpoint_seconds), Watching(stop)])
    (folder,), _ = run(tmp_path / "cut")
    assert seen(folder) == seen(whole)
