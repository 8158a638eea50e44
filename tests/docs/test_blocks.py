"""Every Python block of the pages runs, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, blocks
from tests.docs.run import SETUP, called, setup

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]

pytestmark = pytest.mark.xdist_group("docs")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of all pages, one process for all of them: imports take longer than blocks."""
    own = {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)), "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run", *WITH_PYTHON],
        cwd=tmp_path_factory.mktemp("docs"),
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return {result["page"]: result for result in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_blocks_run(results, page):
    result = results[page]
    assert not result["error"], result["error"]
    if result["left_out"]:
        pytest.skip("the other blocks ran; " + "; ".join(f"line {line}: {why}" for line, why in result["left_out"]))


@pytest.mark.parametrize(
    ("page", "said"), [("docs/index.md", "% of the test images"), ("docs/memory.md", "5.01 bytes a parameter")]
)
def test_pages_say_what_is_so(results, page, said):
    assert said in results[page]["said"]


def test_the_trainings_of_the_first_page_learn(results):
    found = [float(line.partition("%")[0]) for line in results["docs/index.md"]["said"].splitlines() if "%" in line]
    assert len(found) == 3
    assert min(found) > 85  # chance is 10


def test_every_setup_has_its_page():
    assert {path.stem for path in SETUP.iterdir()} <= set(map(called, PAGES))
    for page in WITH_PYTHON:
        assert set(setup(page)) <= set(range(1, len(blocks(page, "python")) + 1))
