"""Errors of networks and data sets, told as the choices that led to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from adabelief.lab.engine.config import CONDITIONS, Config, short

BLAMED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks and data sets raise where sizes do not go together."""

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc")
"""Words of torch's and C++'s allocators, which raise RuntimeError."""


@contextmanager
def changes_blamed(config: Config, young: Callable[[], bool]) -> Iterator[None]:
    """Tells what goes wrong as what was asked for beside the usual: a network knows which sizes go together.

    Args:
        config: What was asked for.
        young: Whether nothing of the run is recorded: later on, it is not what was asked for that is wrong.

    Raises:
        ValueError: In place of an error of `BLAMED`; and where there is not enough memory, whenever that is.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(config) from error
    except BLAMED as error:
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise _out_of_memory(config) from error
        asked = _asked(config)
        if not asked or not young() or (isinstance(error, ValueError) and any(name in str(error) for name in asked)):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"the option {error} would be needed, which this scale does not have"
        change = " ".join(f"--set {name}={value}" for name, value in asked.items())
        raise ValueError(
            f"{reason} (with {change}); try other values: `adabelief tasks {config.task}` tells the usual ones"
        ) from error


def _out_of_memory(config: Config) -> ValueError:
    asked = {"batch_size": config.batch_size, **_asked(config)}
    return ValueError(
        f"there is not enough memory for {', '.join(f'{name}={value}' for name, value in asked.items())}: --set "
        "batch_size or sizes to less, or give more parts with --accumulate; nothing recorded is lost"
    )


def _asked(config: Config) -> dict[str, str]:
    """What `--set` changed."""
    return {name: short(value) for name, value in config.changes.items() if name not in CONDITIONS}
