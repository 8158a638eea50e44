"""Where the compiled libraries are: beside the module that loads them, one for every version of Python (setup.py)."""

from __future__ import annotations

import sys
from pathlib import Path

SUFFIX = ".dll" if sys.platform == "win32" else ".so"

NOT_COMPILED = (
    "it was not compiled when the package was installed (no C compiler, or it failed); once there is one, "
    "pip install --no-cache-dir --force-reinstall --no-deps adabelief"
)
"""Why there is no library, and the remedy: without --no-cache-dir pip takes the wheel that it built without one."""


def library(module: str, name: str) -> Path | None:
    """The library `name` beside a module's file, or None where it was not compiled."""
    path = Path(module).with_name(name + SUFFIX)
    return path if path.exists() else None
