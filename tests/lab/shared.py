"""What two processes run, all of it in one start: python -m torch.distributed.run ... -m tests.lab.shared OUT."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.tasks import task
from tests.lab.tiny import linear

GANS = ("wgan-gp", "sngan")
SURE = {"width": 0.02, "batch_size": 20, "dropout": 0.0}
"""A tiny LSTM without chance."""


def plain(out: Path) -> None:
    """Without a word of the CPU."""
    changes = {"dropout": 0.0}
    session.run(linear(), plan(linear(), scale="smoke", changes=changes), out, log_with="tensorboard")


def norm(out: Path) -> None:
    """Batch normalization has buffers to exchange."""
    session.run(linear(), plan(linear(), scale="smoke", changes={"norm": True}), out)


def lstm(out: Path) -> None:
    """Streams, whose state goes from step to step."""
    which = task("ptb-lstm")
    session.run(which, plan(which, scale="smoke", changes=SURE, epochs=1), out, cpu=True)


def gans(out: Path) -> None:
    """Two modules, with buffers, and a gradient of a gradient."""
    for name in GANS:
        session.run(task(name), plan(task(name), scale="smoke", names=["Adam"], epochs=1), out, cpu=True)


RUNS: Mapping[str, Callable[[Path], None]] = {"plain": plain, "norm": norm, "lstm": lstm, "gans": gans}


if __name__ == "__main__":
    if torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    for name, run in RUNS.items():
        if name in ("lstm", "gans") or not torch.accelerator.is_available():  # two processes would take two
            run(Path(sys.argv[1]) / name)
