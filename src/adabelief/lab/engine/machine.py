"""The machine that a run is made on: what it is, what it can do, and how it keeps memory."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from adabelief.lab.optimizers import default_form
from adabelief.lab.processor import processor

PACKAGES = (
    *("adabelief", "torch", "pytorch_optimizer", "accelerate", "torchvision", "datasets", "numpy"),
    *("tokenizers", "sacrebleu", "keras", "stable_baselines3", "gymnasium"),
)
"""Whose versions a run notes; empty where one is not installed."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def environment(accelerator: Any) -> dict[str, Any]:
    """Where a run takes place."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    device = accelerator.device
    return {
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "default_form": default_form(device),
        "command": sys.argv,
    }


def _commit() -> str:
    """The commit of the package's checkout, with a plus where it was changed; empty where there is none."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == tracked.returncode == 0 else ""


def keep_memory() -> None:
    """Has this process keep the memory that a step frees for the next one, instead of giving it back to the system.

    glibc gives large arrays back at once (above 32 MiB always), so that on a CPU every step has to get their pages
    anew, filled with zeros, one fault each. It holds for the whole process, and for good: for one that only trains.
    With another C library nothing happens.

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # large arrays come from the heap too
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and the heap does not shrink
