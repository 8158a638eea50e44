"""Markdown as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfc; --line: #d5d5d0; --quiet: #f1f1ee;
        --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e0; --paper: #191a1c; --line: #44464a; --quiet: #25272a; --link: #8ab8f0; }
}
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 74rem; margin: 2rem auto 5rem; padding: 0 1.2rem; overflow-wrap: anywhere; }
p, ul, ol { max-width: 50rem; }
h1 { font-size: 1.9rem; line-height: 1.25; }
h3 { margin-top: 2.2rem; }
h2 { margin-top: 3.2rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
a { color: var(--link); }
code { font: .87em ui-monospace, monospace; background: var(--quiet); padding: .1em .3em; border-radius: 3px; }
img { max-width: 100%; height: auto; background: white; border: 1px solid var(--line); border-radius: 6px;
      padding: .5rem; box-sizing: border-box; vertical-align: top; }
img:not([src^="data:image/gif"]) { width: 58rem; }
p:has(> img) { max-width: none; margin-bottom: 0; }
p:has(> img) + p { margin-top: .5rem; font-size: .85rem; opacity: .85; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .78rem; line-height: 1.4; font-variant-numeric: tabular-nums;
        border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); overflow-wrap: normal; }
th, td { padding: .32rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { vertical-align: bottom; border-bottom: 1px solid var(--ink); font-weight: 600; line-height: 1.25; }
td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 15rem; }
td:last-child:has(> code) { min-width: 18rem; overflow-wrap: anywhere; }
th code, td code { background: none; padding: 0; font-size: .95em; }
tbody tr:hover { background: var(--quiet); }
"""


def page(markdown: str, images: Mapping[str, str]) -> str:
    """Renders a page that needs no other file.

    Args:
        markdown: CommonMark with tables; its first heading is the page's title.
        images: The data URI of each image that the text shows, by the name that it has there.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    titles = []
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            titles.append(content.content)
            token.attrSet("id", slug(content.content))
    for image in _images(tokens):
        image.attrSet("src", images[str(image.attrGet("src"))])
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(titles[0])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def slug(heading: str) -> str:
    """A heading's anchor, as Markdown viewers make it: `## In short` is `#in-short`."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _images(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or [] if child.type == "image"]
