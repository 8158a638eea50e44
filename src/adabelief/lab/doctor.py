"""What there is on this machine, and which implementation serves which device; frameworks may be missing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from adabelief.kernels import cpu
from adabelief.lab.processor import processor

PACKAGES = ("adabelief", "torch", "numpy", "triton", "keras", "tensorflow", "tensorflow-cpu", "jax", "optax")
UNLISTED = {"tensorflow", "tensorflow-cpu"}
"""Of the packages, those that are left out where they are not installed: one backend of several, or its other name."""


class Served(NamedTuple):
    """What steps the tensors of a device, by default, and why it is that."""

    device: str
    implementation: str
    why: str


def machine() -> Iterator[tuple[str, str]]:
    """Names and values: Python, the system, the processor, threads and GPUs."""
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    yield "processor", f"{processor()}, {_count(os.cpu_count() or 1, 'core')}"
    try:
        import torch
    except ImportError:
        return
    yield "torch's threads", str(torch.get_num_threads())
    for i in range(torch.cuda.device_count()):
        yield f"GPU {i}", torch.cuda.get_device_name(i)


def versions() -> Iterator[tuple[str, str]]:
    """Packages and their versions."""
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in UNLISTED:
                yield name, "not installed"


def served() -> list[Served]:
    """What serves the CPU and the accelerator that torch finds, in PyTorch."""
    try:
        import torch
    except ImportError as error:
        return [Served("cpu", "none", f"torch cannot be imported ({error}): pip install 'adabelief[torch]'")]
    reason = cpu.unavailable()
    compiled = "" if reason else f"compiled C, {cpu.instruction_set()}, {_count(cpu.threads(), 'thread')}"
    rows = [_served("cpu", "C", compiled)]
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        rows += [_served(accelerator.type, "Triton", "Triton")] if accelerator else []
    return rows


def _served(device: str, language: str, kernel: str) -> Served:
    import torch

    from adabelief import AdaBelief
    from adabelief.torch import base, launch

    reason = launch.unserved(device)
    if reason:
        return Served(device, "foreach", f"no {language} kernel: {reason}")
    (group,) = AdaBelief([torch.zeros(1, device=device)]).param_groups
    if base.wanted(group):
        return Served(device, "fused", kernel)
    return Served(device, "foreach", f"{kernel} with fused=True")


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"
