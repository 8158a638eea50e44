"""Puts chapters together: `report.md`, `report.html`, and the files of every chapter, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from adabelief.lab import files
from adabelief.lab.report import html
from adabelief.lab.report.chapter import FIGURES, Chapter

MANIFEST = "manifest.json"
"""The names of the report's files: the next report in the folder takes away these, and no other."""


def markdown(title: str, intro: str, chapters: Sequence[Chapter]) -> str:
    """The report's text: title, what it says in short, and the chapters."""
    parts = [f"# {title}", intro, _in_short(chapters)]
    for chapter in chapters:
        parts += [f"## {chapter.heading}", chapter.text]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(out: Path, title: str, intro: str, chapters: Sequence[Chapter]) -> None:
    """Writes a report into a folder.

    What an earlier report wrote there, by its manifest, is removed first: an old curve must not pass for a new one.

    Raises:
        OSError: If a file cannot be written.
    """
    text = markdown(title, intro, chapters)
    pictures = [picture for chapter in chapters for picture in chapter.pictures]
    made: dict[str, str | bytes] = {
        f"{FIGURES}/{picture.name}.{suffix}": content
        for picture in pictures
        for suffix, content in picture.files.items()
    }
    for chapter in chapters:
        made.update(chapter.files)
    made.update({"report.md": text, "report.html": html.page(text, {picture.link: picture for picture in pictures})})
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    _forget(out)
    # First the manifest: should the writing end halfway, the next report still knows what is this one's.
    files.write(out / MANIFEST, json.dumps({"files": sorted(made)}, indent=2) + "\n")
    for name, content in made.items():
        files.write(out / name, content)


def _in_short(chapters: Sequence[Chapter]) -> str:
    lines = [
        line
        for chapter in chapters
        if chapter.findings
        for line in (
            f"- **[{chapter.heading}](#{html.slug(chapter.heading)})**",
            *(f"    - {finding}" for finding in chapter.findings),
        )
    ]
    if not lines and not any(chapter.pictures for chapter in chapters):
        lines = ["Nothing has finished."]
    return "\n".join(["## In short", "", *lines]) if lines else ""


def _forget(out: Path) -> None:
    try:
        manifest = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        return
    names = manifest.get("files") if isinstance(manifest, Mapping) else None
    for name in names if isinstance(names, list) else ():
        path = out / str(name)
        if path.resolve().is_relative_to(out.resolve()) and path.is_file():
            path.unlink()
