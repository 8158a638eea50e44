"""Processes that do a job together: which ends are made good, which are told, and that nobody is left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from adabelief.lab.engine import workers
from adabelief.lab.engine.workers import TERMINATED, hire

pytestmark = [
    pytest.mark.xdist_group("workers"),  # they share the process that has imported everything
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals"),
]


def ends(folder: Path, how: int | None, times: int, parent: object) -> None:
    """Notes that it has begun, and ends by a signal, by an exit code above 0 or, after so many times, as it should."""
    mine = folder / str(os.getpid())
    mine.touch()
    if len([*folder.iterdir()]) > times:
        return
    if how is None:
        raise KeyError("no such arm")
    if how < 0:
        os.kill(os.getpid(), -how)
        time.sleep(60)
    os._exit(how)


@pytest.mark.parametrize("by", [-signal.SIGKILL, -signal.SIGTERM, TERMINATED])
def test_who_is_ended_from_outside_is_replaced(by, tmp_path):
    ticks = []
    hire(partial(ends, tmp_path, by, 1), 1, preload=[__name__], tick=lambda: ticks.append(1))
    assert len([*tmp_path.iterdir()]) == 2
    assert ticks


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (-signal.SIGKILL, "workers=1: one was ended by SIGKILL, 1 before it; is there memory for as many?"),
        (-signal.SIGTERM, "workers=1: one was ended by SIGTERM, 1 before it"),
        (3, "workers=1: one ended with exit code 3 before it could work"),
        (None, "worker 1 was ended by KeyError: 'no such arm'"),
    ],
)
def test_what_is_not_made_good_is_told(how, message, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "REPLACED", 1)
    with pytest.raises(ChildProcessError, match=message):
        hire(partial(ends, tmp_path, how, 99), 1, preload=[__name__], tick=lambda: None)


def deaf(folder: Path, parent: object) -> None:
    """Does not leave when it is told to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "begun").write_text(str(os.getpid()))
    time.sleep(600)


def test_who_does_not_leave_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.1)

    def tick() -> None:
        if (tmp_path / "begun").exists() and (tmp_path / "begun").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hire(partial(deaf, tmp_path), 1, preload=[__name__], tick=tick)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)
