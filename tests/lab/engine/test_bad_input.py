"""What cannot be is refused in one message, which names the file or the option and the remedy; nothing is lost."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from adabelief.lab import tasks
from adabelief.lab.commands import app
from adabelief.lab.engine import observers
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.folder import RunFolder
from tests.lab.running import cut, numbers, weights
from tests.lab.tiny import reading

LABEL = "reading-smoke/AdaBelief/seed0"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """The command has one task, which is quick; runs go to `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "task", lambda name: reading())


def train(*arguments):
    return CliRunner().invoke(app, ["train", "reading", "--scale", "smoke", "--cpu", *map(str, arguments)])


def refused(result, *words):
    """Asserts that there is one message, with these words."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def succeeds(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def content(folder=Path("runs")):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def half(out=Path("runs"), at=4, **options) -> RunFolder:
    """A run that stopped in its second epoch, of whose fourth step it has a checkpoint."""
    (config,) = plan(reading(), scale="smoke")
    cut(out, config, reading(), lambda steps, run: steps == at + 1, checkpoint_seconds=0.0, **options)
    return RunFolder(out / config.folder)


@pytest.mark.parametrize(
    ("optimizer", "change", "words"),
    [
        ("AdaBelief", "rectify=maybe", ["rectify must be true or false, got 'maybe'"]),
        ("AdaBelief", "rectify=1", ["rectify must be true or false, got 1"]),
        ("AdaBelief", "weight_decouple=b'x'", ["weight_decouple must be true or false, got b'x'"]),
        ("AdaBelief", "params=3", ["AdaBelief of adabelief has no argument params; it has lr"]),
        ("AdaBelief", "epz=1e-8", ["no argument epz", "did you mean eps?"]),
        ("AdaBelief", "Batchsize=8", ["no argument batchsize", "did you mean batch_size?"]),
        ("AdaBelief", "lr=1e400", ["lr must be a finite number, at least 0, got inf"]),
        ("AdaBelief", "lr=None", ["lr must be a finite number, at least 0, got None"]),
        ("EAdam", "lr=-1", ["lr must be a finite number, at least 0, got -1"]),
        ("EAdam", "lr=1j", ["lr must be", "got 1j"]),
        ("EAdam", "betas=(2,3)", ["betas[0] must be a number in [0, 1), got 2"]),
        ("EAdam", "betas=0.9", ["betas must be a pair, each a number in [0, 1), got 0.9"]),
        ("EAdam", "betas={'a':1,'b':2}", ["betas must be a pair"]),
        ("SGD", "lr=abc", ["lr must be a finite number, at least 0, got 'abc'"]),
        ("SGD", "lr=True", ["lr must be", "got True"]),
        ("SGD", "momentum=-1", ["momentum must be", "got -1"]),
        ("SGD", f"lr={'9' * 400}", ["lr must be a finite number"]),
        ("SGD", "dampening=0.5,nesterov=true", ["dampening must be", "got '0.5,nesterov=true'"]),
        ("RMSprop", "alpha=1.5", ["alpha must be a number in [0, 1), got 1.5"]),
        ("MSVAG", "beta=2", ["beta must be a number in [0, 1), got 2"]),
        ("Yogi", "betas=[0.9,2]", ["betas[1] must be a number in [0, 1), got 2"]),
        ("Fromage", "p_bound=x", ["p_bound must be a finite number, at least 0 or none, got 'x'"]),
        ("Fromage", "weight_decay=0.1", ["Fromage of pytorch_optimizer has no argument weight_decay"]),
        ("AdaBelief,SGD", "betas=(0.9,0.99)", ["SGD of torch.optim has no argument betas"]),
        *[
            ("AdaBelief", f"batch_size={value}", ["batch_size must be a whole number, at least"])
            for value in ("True", "abc", "0", "1.5", "-4", "1j", "b'8'", str(10**30), "nan")
        ],
        *[("AdaBelief", f"width={value}", ["width must be a finite number"]) for value in ("abc", "True", "-1", "nan")],
        ("AdaBelief", "layers=1.5", ["layers must be a whole number", "got 1.5"]),
        ("AdaBelief", "workers=abc", ["workers must be a whole number", "got 'abc'"]),
        ("AdaBelief", "images=5", ["images must be a text, got 5"]),
        ("AdaBelief", "train_examples=1.5", ["train_examples must be a whole number", "or none, got 1.5"]),
        # What only the network or the data knows.
        ("AdaBelief", "images=mnist", ["images='mnist': there are random and more"]),
        ("AdaBelief", "images=more", ["the option 'more_examples' would be needed", "(with --set images=more)"]),
        ("AdaBelief", "heads=3", ["(with --set heads=3)", "adabelief tasks reading"]),
        ("AdaBelief", "heads=0", ["(with --set heads=0)"]),
        ("AdaBelief", "train_examples=0", ["an epoch has no step", "(with --set train_examples=0)"]),
        ("AdaBelief", "width=1e12", ["there is not enough memory for batch_size=32, width=1e+12: --set"]),
        (
            "SGD",
            "nesterov=true --set momentum=0",
            ["--set lr=0.1, momentum=0.0, nesterov=True", ": SGD refuses that (Nesterov"],
        ),
    ],
)
def test_a_value_that_cannot_be(optimizer, change, words):
    refused(train("--optimizer", optimizer, "--set", *change.split(" ")), *words)
    assert content() == {}
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("change", "where", "name", "value"),
    [
        ("rectify=false", "settings", "rectify", False),
        ("rectify=TRUE", "settings", "rectify", True),
        ("Weight-Decouple=true", "settings", "weight_decouple", True),
        ("LR=1", "settings", "lr", 1.0),
        ("betas=[0.5,0.75]", "settings", "betas", [0.5, 0.75]),
        ("foreach=none", "settings", "foreach", None),
        ("width=2", "options", "width", 2.0),
        ("train_examples=4e1", "options", "train_examples", 40),
        ("Train_Examples=none", "options", "train_examples", None),
    ],
)
def test_values_are_of_the_kind_that_their_name_takes(change, where, name, value):
    succeeds(train("--set", change))
    (path,) = Path("runs").rglob("config.json")
    found = json.loads(path.read_text())[where][name]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("values", "runs"), [(["0.1234567", "0.1234568"], 2), (["0.5", "5e-1", "0.50"], 1), (["1", "1.0"], 1)]
)
def test_values_of_a_grid_that_are_nearly_equal(values, runs):
    succeeds(train(*(word for value in values for word in ("--set", f"lr={value}"))))
    assert len(list(Path("runs").rglob("result.json"))) == runs


@pytest.fixture
def folders():
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


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def saved(change):
    """Rewrites a checkpoint."""

    def damage(path):
        state = torch.load(path, weights_only=False)
        torch.save(change(state), path)

    return damage


def of_another_network(path):
    narrow = half(Path("other"))
    state, other = (torch.load(x, weights_only=False) for x in (path, narrow.checkpoint))
    other["modules"]["model"] = {name: x[:1] for name, x in state["modules"]["model"].items()}
    torch.save(other, path)


CHECKPOINTS = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a few bytes": lambda path: os.truncate(path, 7),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(10_000)),
    "text": lambda path: path.write_text("hello\n" * 99),
    "a folder's worth of zeros": lambda path: path.write_bytes(bytes(10_000)),
    "code": lambda path: torch.save({"epoch": Evil()}, path),
    "a pickle with code": lambda path: path.write_bytes(pickle.dumps({"epoch": Evil()})),
    "a list": saved(lambda state: [state]),
    "another version": saved(lambda state: {**state, "version": 99}),
    "nothing in it": saved(lambda state: {}),
    "modules alone": saved(lambda state: {"modules": state["modules"]}),
    "no optimizers": saved(lambda state: {name: x for name, x in state.items() if name != "optimizers"}),
    "other modules": saved(lambda state: {**state, "modules": {}}),
    "other shapes": of_another_network,
    "another optimizer": saved(lambda state: {**state, "optimizers": {"model": {"state": {}, "param_groups": []}}}),
    "other numbers": saved(lambda state: {**state, "random": "none"}),
}


@pytest.mark.parametrize("damage", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_damaged_checkpoint(damage):
    succeeds(train("--out", "whole"))
    folder = half()
    good = folder.checkpoint.read_bytes()
    damage(folder.checkpoint)
    before = content()
    refused(
        train(), f"{folder.checkpoint} cannot be used: ", "put a copy of it back, or remove it", "Nothing was changed"
    )
    assert content() == before
    assert not Path("owned").exists()
    for remedy in (lambda: folder.checkpoint.write_bytes(good), folder.checkpoint.unlink):
        folder.result.unlink(missing_ok=True)
        remedy()
        succeeds(train())
        assert numbers(folder) == numbers(RunFolder(Path("whole", LABEL)))


@pytest.mark.parametrize("text", ["not JSON", "[]", "{}", "", "\0\0", '"text"', '{"epochs": 2', "\udcff"])
@pytest.mark.parametrize("name", ["config", "result"])
def test_a_damaged_record(name, text):
    succeeds(train())
    folder = RunFolder(Path("runs", LABEL))
    path, before, whole = getattr(folder, name), numbers(folder), weights(folder)
    good = json.loads(path.read_text())
    path.write_bytes(text.encode(errors="surrogateescape"))
    refused(train(), f"{path} is damaged (", "remove it, and the same command writes it again")
    path.unlink()
    succeeds(train())
    assert json.loads(path.read_text()) == good
    assert numbers(folder) == before
    assert all(torch.equal(x, whole[name]) for name, x in weights(folder).items())


METRICS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 20),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "zeros behind": lambda path: path.write_bytes(path.read_bytes()[:40] + bytes(path.stat().st_size - 40)),
    "not JSON": lambda path: path.write_bytes(b"x" * path.stat().st_size + b"\n[1]\n{}\n"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b'{"step": 99, "epoch": 2, "lo'),
}


@pytest.mark.parametrize("damage", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("at", [3, 4, 5])
def test_damaged_metrics_are_put_back(damage, at):
    """The epochs are in the checkpoint; of the steps, those stay that can be read."""
    succeeds(train("--out", "whole"))
    folder = half(at=at)
    damage(folder.metrics)
    succeeds(train())
    found, whole = numbers(folder), numbers(RunFolder(Path("whole", LABEL)))
    assert [line for line in found if "train_loss" in line] == [line for line in whole if "train_loss" in line]
    assert [line for line in whole if line in found] == found


def test_a_checkpoint_of_before_versions_were_written_down_goes_on():
    """It has NumPy's state as NumPy pickles it, and no version."""
    succeeds(train("--out", "whole"))
    folder = half()
    saved(lambda state: {name: x for name, x in state.items() if name != "version"})(folder.checkpoint)
    succeeds(train())
    assert numbers(folder) == numbers(RunFolder(Path("whole", LABEL)))


def test_a_run_that_stops_before_its_result_ends_all_the_same():
    """Between the last checkpoint and the result, and after it."""
    folder = half(at=5)
    succeeds(train())
    result = folder.result.read_bytes()
    folder.result.unlink()
    succeeds(train())
    assert folder.result.read_bytes() == result


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "; did you mean tensorboard?"),
        ("Aim", "--log-with aim needs the package aim: pip install aim"),
    ],
)
def test_trackers_that_are_not_there(name, words, monkeypatch):
    monkeypatch.setattr(observers, "get_available_trackers", lambda: ["tensorboard"])
    refused(train("--log-with", name), words)
    assert content() == {}


@pytest.fixture
def disk():
    """A file system of 1 MiB."""
    path = Path("disk").resolve()
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk, left):
    """Leaves so many bytes, in pages of 4096."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a file system")
@pytest.mark.parametrize("tracked", [[], ["--tensorboard"]], ids=["", "tensorboard"])
def test_a_full_disk(disk, tracked):
    """Wherever it is full: at the first write, in a checkpoint, in what a tracker writes."""
    succeeds(train("--out", disk))
    succeeds(train("--out", "whole", "--optimizer", "SGD"))
    before, ended = content(disk), 0
    for left in range(0, 100_000, 12_288):
        fill(disk, left)
        result = train("--out", disk, "--optimizer", "SGD", "--checkpoint-seconds", "0", *tracked)
        (disk / "filler").unlink()
        if result.exit_code:
            refused(result, "the disk is full", "make room", "nothing recorded is lost")
        ended += not result.exit_code
        assert {path: data for path, data in content(disk).items() if path in before} == before
        if ended == 1:
            break
    assert left
    succeeds(train("--out", disk, "--optimizer", "SGD"))
    folders = [RunFolder(Path(out, LABEL.replace("AdaBelief", "SGD"))) for out in (disk, "whole")]
    assert numbers(folders[0]) == numbers(folders[1])
