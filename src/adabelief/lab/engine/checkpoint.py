"""What a checkpoint holds beside modules and optimizers, how it is written, and how it is read with no trust in it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adabelief.lab import files

VERSION = 1
"""Of what a checkpoint holds; those of before it was written down have the same."""

_MAKERS = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
NUMBERS: list[Any] = [
    *(np.ndarray, np.dtype, *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}),
    *_MAKERS,
    *((maker, f"numpy.core.multiarray.{maker.__name__}") for maker in _MAKERS),  # as NumPy 1 calls them
]
"""What may be read beside torch's own: NumPy's arrays and numbers."""


def random_state() -> dict[str, Any]:
    """The state of every global generator that a run may draw from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - libraries may draw from it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Takes up what `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
        OSError: If that is not possible; also where torch says something else of it.
    """
    with files.full_disk_told(path), files.replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"version": VERSION, **state}, file)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running anything that is in it: tensors, numbers and texts.

    Raises:
        ValueError: If it is damaged, or has something else in it.
    """
    try:
        with torch.serialization.safe_globals(NUMBERS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise refusal(path, "it is damaged, or has what could run code when it is read") from error
    except Exception as error:  # whatever the bytes lead torch to
        raise refusal(path, f"it is damaged: {str(error).partition(chr(10))[0] or type(error).__name__}") from error
    version = state.get("version", VERSION) if isinstance(state, dict) else None
    if version != VERSION:
        raise refusal(path, f"it is no checkpoint of this version of the lab, {VERSION}, but of {version}")
    return dict(state)


def refusal(path: Path, reason: str) -> ValueError:
    """What is said of a checkpoint that a run cannot go on from."""
    return ValueError(
        f"{path} cannot be used: {reason}; put a copy of it back, or remove it, and the run begins anew. "
        "Nothing was changed"
    )
