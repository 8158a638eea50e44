"""Runs the Python blocks of pages: `python -m tests.docs.run PAGE ...` prints a line of JSON for each.

The blocks of a page share a namespace. What a page takes for granted, its reader's model and data, is in setup/, in a
file of the page's name: what stands before `# before block N` runs before the first block, the rest before the N-th.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import random
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.docs.pages import blocks

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


def run(page: str) -> dict[str, Any]:
    """Runs a page; `error` is empty where all of it ran, `left_out` says of blocks why they did not."""
    before, left_out, said, start = setup(page), [], io.StringIO(), time.process_time()
    names: dict[str, Any] = {"__name__": "__page__"}
    try:
        with contextlib.redirect_stdout(said):
            for number, block in enumerate(blocks(page, "python"), 1):
                absent = [name for name in block.needs if not importlib.util.find_spec(name)]
                reason = block.not_run or ", ".join(f"no {name} here" for name in absent)
                if reason:
                    left_out.append([block.line, reason])
                    continue
                _seed()
                exec(compile(before.get(number, ""), f"set-up of {page}, block {number}", "exec"), names)
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
    except BaseException:
        error = traceback.format_exc()
    else:
        error = ""
    seconds = time.process_time() - start
    return {"page": page, "error": error, "left_out": left_out, "said": said.getvalue(), "seconds": seconds}


def _seed() -> None:
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "torch")  # nothing else has to be loaded for it
    results = [run(page) for page in sys.argv[1:]]
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # whatever a page has left behind: threads, process groups
