"""Every Python block of the pages runs, and every example: on a CPU, at a tiny size."""

from __future__ import annotations

import pytest

from tests.docs.conftest import python
from tests.docs.pages import DISTRIBUTED, EXAMPLES, PAGES, ROOT, WITH_PYTHON, blocks
from tests.docs.run import SETUP, absent, called, imports, setup

pytestmark = pytest.mark.xdist_group("docs")


@pytest.mark.parametrize("what", WITH_PYTHON + EXAMPLES)
def test_it_runs(results, what):
    result = results[what]
    assert not result["error"], result["error"]
    if result["left_out"]:
        pytest.skip("; ".join(result["left_out"]))


def test_two_processes_share_a_model(tmp_path):
    if absent(imports(DISTRIBUTED)):
        pytest.skip(absent(imports(DISTRIBUTED)))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = python(*launch, str(ROOT / DISTRIBUTED), "--steps", "2", cwd=tmp_path)
    assert "step 1: loss" in said
    assert list((tmp_path / "fsdp2").iterdir())


@pytest.mark.parametrize("example", [*EXAMPLES, DISTRIBUTED])
def test_examples_are_short_and_say_how_to_start(example):
    text = (ROOT / example).read_text()
    assert len(text.splitlines()) < 60
    assert f"{example.rpartition('/')[2]} [--steps" in text


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
