"""Markdown as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from adabelief.lab.report.chapter import Picture

LONG = 90
"""Characters of a command; a longer one is folded."""


def page(markdown: str, pictures: Mapping[str, Picture]) -> str:
    """Renders a page that needs no other file.

    Args:
        markdown: CommonMark with tables; its first heading is the page's title.
        pictures: Each picture that the text shows, by the link that it has there.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    headings = [(opening, content.content) for opening, content in pairwise(tokens) if opening.type == "heading_open"]
    for opening, text in headings:
        opening.attrSet("id", slug(text))
    chapters = [text for opening, text in headings if opening.tag == "h2"]
    rules = {
        "heading_open": _heading_open,
        "heading_close": _heading_close,
        "fence": _fence,
        "paragraph_open": _paragraph,
        "paragraph_close": _paragraph,
        "table_open": lambda *_: '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
        "image": lambda tokens, i, options, env: _figure(pictures[str(tokens[i].attrGet("src"))]),
    }
    renderer: Any = parser.renderer
    renderer.rules.update(rules)
    body = renderer.render(tokens, parser.options, {})
    style = (resources.files("adabelief.lab.report") / "page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(headings[0][1])}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{_contents(chapters)}<main>\n{body}</main>\n</body>\n</html>\n"
    )


def slug(heading: str) -> str:
    """A heading's anchor, as Markdown viewers make it: `## In short` is `#in-short`."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _contents(chapters: Sequence[str]) -> str:
    if len(chapters) < 2:
        return "<nav></nav>\n"  # the page's grid has a place for it
    links = "".join(f'<li><a href="#{slug(text)}">{escape(text)}</a></li>' for text in chapters)
    return f'<nav aria-label="Contents"><details open><summary>Contents</summary><ul>{links}</ul></details></nav>\n'


def _heading_open(tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    """A heading links to itself, so that its place in the page can be passed on; the title needs no place."""
    tag, anchor = tokens[i].tag, tokens[i].attrGet("id")
    return f'<{tag} id="{anchor}">' + ("" if tag == "h1" else f'<a href="#{anchor}">')


def _heading_close(tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    tag = tokens[i].tag
    return f"{'' if tag == 'h1' else '</a>'}</{tag}>\n"


def _paragraph(tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    """A picture by itself is no paragraph, and a tight list has none either."""
    opens = tokens[i].type == "paragraph_open"
    content = tokens[i + 1 if opens else i - 1]
    alone = [child.type for child in content.children or []] == ["image"]
    if alone or tokens[i].hidden:
        return "" if opens else "\n"
    return "<p>" if opens else "</p>\n"


def _fence(tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    code = tokens[i].content.strip()
    block = f"<pre><code>{escape(code)}</code></pre>"
    if len(code) <= LONG:
        return f"{block}\n"
    start = code[:LONG].rpartition(" ")[0] or code[:LONG]
    return f'<details class="command"><summary><code>{escape(start)} …</code></summary>{block}</details>\n'


def _figure(picture: Picture) -> str:
    """A picture at its own size: as an SVG, which has its own colours on dark pages, or as a film with two versions."""
    files, title = picture.files, escape(picture.title)
    if "gif" in files:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_data("gif", files["dark.gif"])}">'
        image = f'<picture>{dark}<img alt="{title}" src="{_data("gif", files["gif"])}"></picture>'
    else:
        image = f'<img alt="{title}" src="{_data("svg+xml", files["svg"])}">'
    name = f"figure-{slug(picture.name)}"
    return (
        f'<figure id="{name}"><div class="scroll" tabindex="0" role="region" aria-label="figure">'
        f'<a href="#{name}">{image}</a></div></figure>'
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
