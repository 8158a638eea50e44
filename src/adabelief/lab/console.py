"""The consoles of the command, for text that may be anybody's: paths, names, other packages' messages."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given.

    Rich by itself takes `[rl]` in a path or a message for a style, fails at `[/x]`, and makes a picture of `:x:`.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def silent_console() -> Console:
    """A console that shows nothing, for runs whose progress is told by others."""
    return Console(quiet=True)
