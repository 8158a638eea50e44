"""Runs whose data are not there, or not those that they began with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adabelief.lab import tasks
from tests.lab.engine.commanded import LABEL, content, half, refused, succeeds, train

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def folders(in_tmp_path):
    for name, scale in (("a", "1"), ("b", "2"), ("moved", "1")):
        Path(name).mkdir()
        Path(name, "scale.txt").write_text(scale)


@pytest.mark.usefixtures("folders")
def test_a_finished_run_on_other_data_is_told_and_left_out():
    first = succeeds(train("--data", "a"))
    before = content()
    for data in (["--data", "b"], []):
        said = succeeds(train(*data, "--optimizer", "AdaBelief,SGD"))
        assert "AdaBelief, seed 0: already finished, not run again, and left out here: " in said
        assert f"{LABEL} has a run on other data ({Path('a').resolve()}, now " in said
        assert "AdaBelief" not in said.partition("Accuracy (%)")[2]
        shutil.rmtree("runs/reading-smoke/SGD")
        assert content() == before
    said = succeeds(train("--data", "moved"))
    assert "(epoch " in first
    assert "; already finished, not run again\n" in said


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("data", [["--data", "b"], []])
def test_a_run_does_not_go_on_with_other_data(data):
    half(data=Path("a"))
    before = content()
    refused(train(*data), "has a run on other data", "name another folder with --out")
    assert content() == before
    succeeds(train("--data", "a"))


@pytest.mark.parametrize("finished", [False, True])
def test_data_that_are_not_there(finished):
    if finished:
        succeeds(train())
    refused(train("--data", "nowhere"), "'nowhere' is no folder", "--data FOLDER")
    Path("file").write_text("")
    refused(train("--data", "file"), "'file' is no folder", "--data FOLDER")


def test_lack_of_data_leaves_nothing_behind():
    Path("empty").mkdir()
    refused(train("--data", "empty"), "scale.txt")
    assert not any(Path("runs").iterdir())


def test_a_task_that_reads_nothing_refuses_data(monkeypatch):
    from tests.lab.tiny import linear

    monkeypatch.setattr(tasks, "task", lambda name: linear())
    Path("a").mkdir()
    refused(train("--data", "a"), "--data a: linear reads no folder; leave it away")
