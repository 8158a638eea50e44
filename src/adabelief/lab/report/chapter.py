"""What a report is made of: chapters, and the pictures in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

FIGURES = "figures"
"""The folder of the figures, beside the report."""


class Picture(NamedTuple):
    """A figure of a report.

    Attributes:
        name: What its files are called.
        title: What it shows, for those who do not see it.
        files: Its bytes by the files' suffix; `dark.gif` is for pages with light on dark.
    """

    name: str
    title: str
    files: Mapping[str, bytes]

    @property
    def link(self) -> str:
        """The file that the Markdown shows: on white, since whoever shows it may have a dark page."""
        return f"{FIGURES}/{self.name}.{'gif' if 'gif' in self.files else 'png'}"

    def __str__(self) -> str:
        return f"![{self.title}]({self.link})"


class Chapter(NamedTuple):
    """A part of a report, with a heading of its own.

    Attributes:
        heading: Its heading; an empty one has the text before all chapters.
        text: Markdown, without the heading.
        findings: What it says, in a sentence each, for the summary at the top.
        pictures: The figures that its text shows.
        files: Other files that belong to it, by name.
    """

    heading: str
    text: str
    findings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    files: Mapping[str, str] = {}
