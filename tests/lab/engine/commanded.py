"""The command on a task that is quick, its runs, and what it says."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from adabelief.lab.commands import app
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.folder import RunFolder
from tests.lab.running import cut
from tests.lab.tiny import reading

LABEL = "reading-smoke/AdaBelief/seed0"


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
