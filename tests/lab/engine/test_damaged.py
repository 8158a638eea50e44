"""Files of a run that are damaged, or cannot be written, are named with the remedy; nothing recorded is lost."""

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

from adabelief.lab.engine.folder import RunFolder
from tests.lab.engine.commanded import LABEL, content, half, refused, succeeds, train
from tests.lab.running import numbers, weights

pytestmark = pytest.mark.usefixtures("in_tmp_path")


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


RECORDS = {"config": "configuration", "result": "result"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *[(text, "is damaged: ") for text in ("not JSON", "", "\0\0", '{"epochs": 2', "\udcff")],
        *[(text, "is damaged: it is no JSON object; ") for text in ("[]", '"text"')],
        ("{}", "is no {} of a run: it has no "),
        ('{"epochs": "two", "task": 1}', "is no {} of a run: its "),
    ],
)
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record(name, text, words):
    succeeds(train())
    folder = RunFolder(Path("runs", LABEL))
    path, before, whole = getattr(folder, name), numbers(folder), weights(folder)
    good = json.loads(path.read_text())
    path.write_bytes(text.encode(errors="surrogateescape"))
    refused(train(), f"{path} {words.format(RECORDS[name])}", "; remove it, and the same command writes it again")
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


@pytest.fixture
def disk(in_tmp_path):
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
