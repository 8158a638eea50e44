"""Runs pages and examples: `python -m tests.docs.run PAGE.md EXAMPLE.py ...` prints a line of JSON for each.

Each runs in a folder of its own. The Python blocks of a page share a namespace. What a page takes for granted, its
reader's model and data, is in setup/, in a file of the page's name: what stands before `# before block N` runs before
the first block, the rest before the N-th. An example is a script, which is told to take two steps.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import re
import runpy
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, blocks

SETUP = Path(__file__).parent / "setup"


def called(page: str) -> str:
    """A page's name as that of a file."""
    return page.removeprefix("docs/").removesuffix(".md").replace("/", "-")


def setup(page: str) -> dict[int, str]:
    """What runs before which block, from 1."""
    file = SETUP / f"{called(page)}.txt"
    if not file.exists():
        return {}
    first, *parts = re.split(r"^# before block (\d+)\n", file.read_text(), flags=re.MULTILINE)
    return {1: first} | {int(n): text for n, text in zip(parts[::2], parts[1::2], strict=True)}


def page_run(page: str) -> Iterator[str]:
    """Runs the blocks of a page, and yields why some of them did not."""
    before, names = setup(page), {"__name__": "__page__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        reason = block.not_run or absent(block.needs)
        if reason:
            yield f"line {block.line}: {reason}"
            continue
        _seed()
        exec(compile(before.get(number, ""), f"set-up of {page}, block {number}", "exec"), names)
        exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)


def example_run(script: str) -> Iterator[str]:
    """Runs an example, or yields why not."""
    reason = absent(imports(script))
    if reason:
        yield reason
        return
    _seed()
    sys.argv = [script, "--steps", "2", *(["--trials", "1"] if "--trials" in (ROOT / script).read_text() else [])]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def imports(script: str) -> tuple[str, ...]:
    """The packages that a script imports."""
    nodes = ast.parse((ROOT / script).read_text()).body
    modules = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return tuple(module.partition(".")[0] for module in modules)


def absent(modules: tuple[str, ...]) -> str:
    """Which of them there are not here; empty for none."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    return f"{', '.join(missing)} is not installed" if missing else ""


def run(what: str) -> dict[str, Any]:
    """Runs one; `error` is empty where all of it ran, `left_out` says what did not, and why."""
    left_out, said, start, error, home = [], io.StringIO(), time.process_time(), "", Path.cwd()
    folder = home / called(what)
    folder.mkdir()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said):
            left_out = [*(page_run if what.endswith(".md") else example_run)(what)]
    except BaseException:
        error = traceback.format_exc()
    os.chdir(home)
    seconds = time.process_time() - start
    return {"of": what, "error": error, "left_out": left_out, "said": said.getvalue(), "seconds": seconds}


def _seed() -> None:
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "torch")  # nothing else has to be loaded for it
    results = [run(what) for what in sys.argv[1:]]
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # whatever they have left behind: threads, process groups
