"""How a command ends that something goes wrong in: one message, and an exit status."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from adabelief.lab.console import plain_console

INTERRUPTED, FAILED = 130, 1


@contextmanager
def reported() -> Iterator[None]:
    """Turns what can go wrong in a run into one message, on stderr; whatever was recorded stays."""
    console = plain_console(stderr=True)
    try:
        yield
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from the last checkpoint.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        message = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            message = (
                f"the disk is full ({message}): make room and give the same command again; nothing recorded is lost"
            )
        console.print(f"Error: {message}", style="red", soft_wrap=True)
        raise typer.Exit(FAILED) from None
