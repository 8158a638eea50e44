"""What a checkpoint holds beside modules and optimizers, and how it is written."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adabelief.lab import files


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
    """Writes a checkpoint, whole or not at all."""
    with files.replacing(path) as unfinished:
        torch.save(state, unfinished)
