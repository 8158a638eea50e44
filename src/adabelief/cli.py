"""The command `adabelief`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command; where a package that it needs is missing, says how to get it."""
    try:
        from adabelief.lab.commands import app

        app(prog_name="adabelief")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "adabelief":
            raise
        sys.exit(f"adabelief: the command needs {package}, which is not installed: pip install 'adabelief[lab]'")
