"""A folder in which the command runs."""

import pytest

from adabelief.lab import tasks
from tests.lab.tiny import reading


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    """The command has one task, which is quick; runs go to `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "task", lambda name: reading())
