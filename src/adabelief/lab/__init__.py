"""The lab: AdaBelief and its rivals on the paper's tasks, and a report of what came out.

It needs the `lab` extra (`pip install 'adabelief[lab]'`); the command `adabelief` is its door. `tune` searches the
settings of a training function of one's own; it needs the `tune` extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adabelief.lab.search.search import Trial
    from adabelief.lab.search.tune import tune

__all__ = ["Trial", "tune"]


if not TYPE_CHECKING:  # to a type checker it would say that there is every name, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name == "tune":
            from adabelief.lab.search.tune import tune

            return tune
        if name == "Trial":
            from adabelief.lab.search.search import Trial

            return Trial
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
