"""What the site's build adds to mkdocs: formulas as MathML, and a check that every public name has its place."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mathml import block, formula
from mkdocs.exceptions import PluginError

SOURCES = Path(__file__).parents[2] / "src"

MATHS = "√←·²≤≥∞−"
"""What no program has in it, and every formula of ours."""

INLINE = re.compile(rf"(?<!<span></span>)(?<!<pre>)<code>([^<]*[{MATHS}][^<]*)</code>")

BLOCK = re.compile(
    r'<div class="[^"]*highlight[^"]*">\s*<pre[^>]*>(?:<span></span>)?'
    rf"<code>([^<]*[{MATHS}][^<]*)</code></pre>\s*</div>"
)
"""Code blocks without a language."""


def on_page_content(content: str, **_: Any) -> str:
    """Typesets the formulas of a page, those of its docstrings too."""
    return INLINE.sub(_typeset(formula), BLOCK.sub(_typeset(block), content))


def _typeset(how: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    def typeset(found: re.Match[str]) -> str:
        try:
            return how(html.unescape(found[1]))
        except (ValueError, IndexError):  # no formula: code it stays
            return found[0]

    return typeset


def public_names() -> set[str]:
    """Names of every `__all__` of the package, with their modules."""
    names = set()
    for path in SOURCES.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names |= {f"{module}.{name}" for name in ast.literal_eval(node.value)}
    return names


def on_env(env: Any, config: Any, **_: Any) -> Any:
    """Fails where a public name is on no page of the API."""
    urls = config.plugins["autorefs"]
    missing = {name for name in public_names() if not _has(urls, name)}
    if missing:
        raise PluginError(f"public, but on no page of docs/api: {', '.join(sorted(missing))}")
    return env


def _has(urls: Any, name: str) -> bool:
    of_its_module = f"{name}.{name.rpartition('.')[2]}"  # a module of the same name hides what is imported from it
    for each in (name, of_its_module):
        try:
            urls.get_item_url(each)
        except KeyError:
            continue
        return True
    return False
