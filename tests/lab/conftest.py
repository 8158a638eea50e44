"""Runs by two processes, which torchrun starts once for all tests that compare with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """A folder for each of `shared.RUNS`, with what two processes ran; the tests of the group `torchrun` share it."""
    out = tmp_path_factory.mktemp("two")
    arguments = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.lab.shared", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return out
