"""Shared among two and four processes, by whatever wrapper, an optimizer takes the steps of one process.

The whole table takes minutes (`make distributed`); else a sample of it. Each number of processes is started once, and
runs all of its cases.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed package", allow_module_level=True)

from tests.torch.distributed import cases
from tests.torch.distributed.worker import jobs

WHOLE = bool(os.environ.get("ADABELIEF_DISTRIBUTED"))
LIMIT = 3600 if WHOLE else 1200
"""Seconds after which processes hang; a quiet machine needs a tenth."""


@cache
def outcome(processes: int) -> dict[str, list[str]]:
    """What each process says of each case; nothing where it is well."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.torch.distributed.worker"]
        started = [
            subprocess.Popen(
                [*command, str(rank), str(processes), folder, "all" if WHOLE else "sample"],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        try:
            said = [process.communicate(timeout=LIMIT)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        lines = Path(folder, "results.jsonl").read_text().splitlines()
        found = dict(json.loads(line) for line in lines)
        return found if not any(process.returncode for process in started) else found | {"": said}


def named() -> list[object]:
    """All cases, those of one number of processes in one of pytest's own."""
    return [
        pytest.param(processes, name, id=name, marks=pytest.mark.xdist_group(f"distributed-{processes}"))
        for processes in (2, 4)
        for name in jobs(processes, WHOLE)
    ]


@pytest.mark.parametrize(("processes", "name"), named())
def test_processes_step_as_one(processes, name):
    found = outcome(processes)
    assert name in found, f"the processes ended before it: {found.get('')}"
    assert not any(found[name]), "\n".join(f"process {rank}: {said}" for rank, said in enumerate(found[name]) if said)


def test_the_sample_covers_the_table():
    sample = cases.sample()
    assert set(sample) <= set(cases.TABLE)
    for i in range(4):
        for j in range(i):
            pairs = {(case[i], case[j]) for case in cases.TABLE}
            assert {(case[i], case[j]) for case in sample} == pairs
