"""Every shell command of the pages is one: options, targets, files and extras that there are; quick ones run."""

from __future__ import annotations

import re
import shlex
import sys
from typing import NamedTuple

import pytest
import typer.main
from typer.testing import CliRunner

from adabelief.lab.arguments import parse_grid, parse_seeds
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.commands import app
from adabelief.settings import SETTINGS
from tests.docs.pages import PAGES, ROOT, blocks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMANDS = typer.main.get_command(app).commands
MAKEFILE = (ROOT / "Makefile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

SPAN = re.compile(r"`((?:adabelief|make|torchrun|accelerate|pip|python -m|python [\w./]+\.py|[\w./]+\.py) [^`]+)`")
"""Commands within a line of text."""

QUICK = re.compile(r"adabelief (settings( \w+)?|doctor|tasks|--version|(tune \w+|compare) --example)")
OTHERS = ("cd", "export", "git", "ls")
"""Commands of the system that are taken at their word."""


class Command(NamedTuple):
    """A command and where it stands."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def commands(page: str) -> list[Command]:
    """The commands of a page: of its shell blocks line by line, and within its text."""
    found = []
    for block in blocks(page, "sh", "bash", "shell", "console"):
        text = block.text.replace("\\\n", "  ")
        found += [Command(page, block.line + i, line) for i, line in enumerate(text.splitlines()) if line.strip()]
    for i, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        found += [Command(page, i, text) for text in SPAN.findall(line) if "..." not in text]
    return [command for command in found if not command.text.lstrip().startswith("#")]


ALL = [command for page in PAGES for command in commands(page)]


def check(words: list[str]) -> None:
    """Raises, or asserts, where a command is none."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # the environment
        words = words[1:]
    program, *rest = words
    if program == "adabelief" or rest[:2] == ["-m", "adabelief"]:
        check_adabelief(rest[2 * (program != "adabelief") :])
    elif program in ("torchrun", "accelerate") and "-m" in rest:
        assert rest[rest.index("-m") + 1] == "adabelief"
        check_adabelief(rest[rest.index("-m") + 2 :])
    elif program == "make":
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"the Makefile has no {target}"
    elif program in ("pip", "python -m pip") or rest[:2] == ["-m", "pip"]:
        for extra in re.findall(r"(?:adabelief|\.)\[([^\]]+)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(EXTRAS), f"pyproject.toml has no extra {extra}"
    elif program in ("python", "python3", "torchrun", "accelerate") or program.endswith(".py"):
        script = next(word for word in words if word.endswith(".py") or word == "-m")
        if script != "-m":  # of another package
            text = (ROOT / script).read_text()
            options = {word.partition("=")[0] for word in words[words.index(script) :] if word.startswith("--")}
            assert all(option in text for option in options), f"{script} knows not all of {options}"
    else:
        assert program in OTHERS, f"{program} is not known to this test"


def check_adabelief(words: list[str]) -> None:
    """Has the command's own parser read them; what is a name is looked up."""
    name, *rest = [word for word in words if word not in ("--version", "-h", "--help")] or ["doctor"]
    assert name in COMMANDS, f"there is no command {name}"
    if not rest or rest[0].startswith("TASK"):  # a name, in a sentence
        return
    given = COMMANDS[name].make_context(name, rest).params
    known = SETTINGS if name == "settings" else CATALOGUE
    assert given.get("task") in (None, *known)
    parse_grid(given.get("change") or [])
    if "seeds" in given:
        parse_seeds(given["seeds"])


def words(command: Command) -> list[str]:
    """The words of a command up to a comment, a pipe or a file that takes its output."""
    found = shlex.split(command.text, comments=True)
    return found[: next((i for i, word in enumerate(found) if word in (">", "|", "&&")), len(found))]


def test_there_are_commands():
    assert len(ALL) > 50


@pytest.mark.parametrize("command", ALL, ids=str)
def test_commands_are_read(command):
    check(words(command))


@pytest.mark.parametrize("command", sorted({" ".join(words(c)) for c in ALL if QUICK.fullmatch(" ".join(words(c)))}))
def test_quick_ones_run(command):
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert done.output


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link
