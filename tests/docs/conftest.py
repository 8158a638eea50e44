"""What came of running pages and examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.docs.pages import EXAMPLES, ROOT, WITH_PYTHON

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)),
    "OMP_NUM_THREADS": "1",
    "KERAS_BACKEND": "torch",
}


def python(*arguments, cwd):
    """What Python prints; its arguments are those of the command."""
    command, more = [sys.executable, *arguments], {"capture_output": True, "text": True, "timeout": 900}
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """One process for all of them: imports take longer than what is run."""
    said = python("-m", "tests.docs.run", *WITH_PYTHON, *EXAMPLES, cwd=tmp_path_factory.mktemp("docs"))
    return {result["of"]: result for result in map(json.loads, said.splitlines())}
