"""The pages that people read, the code in them, and the examples."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if path.name != "report.md"  # which the lab writes
)

FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>not run|needs): (?P<said>[^>]*?) -->\n\s*)?"
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
"""A block; before it, where it cannot run everywhere, `<!-- not run: REASON -->` or `<!-- needs: MODULE, ... -->`."""


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    line: int
    """Of the page; the first one of the block."""
    language: str
    text: str
    not_run: str
    """Why it is not run; empty where it is."""
    needs: tuple[str, ...]
    """Modules that not everyone has."""


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in some languages."""
    text, found = (ROOT / page).read_text(), []
    for fence in FENCE.finditer(text):
        if fence["language"] in languages:
            line = text.count("\n", 0, fence.start("text")) + 1
            needs = tuple(re.split(r",\s*", fence["said"])) if fence["mark"] == "needs" else ()
            not_run = fence["said"] if fence["mark"] == "not run" else ""
            body = textwrap.dedent(fence["text"])
            found.append(Block(page, line, fence["language"], body, not_run, needs))
    return found


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]

DISTRIBUTED = "examples/accelerate_fsdp2.py"
"""It takes two processes."""

EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.py"))
EXAMPLES.remove(DISTRIBUTED)
