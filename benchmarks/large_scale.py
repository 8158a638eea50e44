"""What gradient release and CPU offload save, and what they cost, on a stack of linear layers.

    python benchmarks/large_scale.py [--device cuda] [--layers 48] [--width 1024] [--steps 6] [--out DIR]

Every arm trains the same model on the same data in a process of its own. `peak` is what the process held at most, on a
CPU above what it held before there was a model, on a GPU what torch had allocated there; `step` the median time of an
iteration and `update` that of `optimizer.step()` alone, until the device is done. Weights are compared at the end:
released ones must be those of the plain arm to the bit. On a CPU glibc is told to give back what is freed
(MALLOC_MMAP_THRESHOLD_): as it comes, it keeps most of it, and releasing gradients saves little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from adabelief import AdaBeliefW
from adabelief.torch import offload, release

MIB = 2**20

ARMS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "plain": ({}, lambda optimizer: nullcontext()),
    "released": ({}, partial(release, batch_mib=8)),
    "offloaded": ({}, offload),
    "8 bits": ({"state_bits": 8}, lambda optimizer: nullcontext()),
    "8 bits, released": ({"state_bits": 8}, partial(release, batch_mib=8)),
    "8 bits, offloaded": ({"state_bits": 8}, offload),
}
"""Options of AdaBeliefW, and what is done to it."""


def held(device: str) -> int:
    """Bytes that are held at most since the process began, on its CPU or on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def until_done(device: str) -> float:
    """The time, once the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(arm: str, device: str, layers: int, width: int, steps: int) -> dict[str, Any]:
    """One arm: its peak, its times, and a digest of its weights."""
    options, changed = ARMS[arm]
    warm = nn.Linear(8, 8).to(device)  # what the first call of every operator costs
    warm(torch.ones(2, 8, device=device)).sum().backward()
    AdaBeliefW(warm.parameters(), **options).step()
    before, iterations, updates = held(device), [], []
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)]).to(device)
    optimizer = AdaBeliefW(model.parameters(), lr=1e-3, **options)
    with changed(optimizer):
        for seed in range(steps):
            x = torch.randn(16, width, generator=torch.Generator().manual_seed(seed)).to(device)
            begin = until_done(device)
            model(x).square().mean().backward()
            between = until_done(device)
            optimizer.step()
            optimizer.zero_grad()
            end = until_done(device)
            iterations.append(1e3 * (end - begin))
            updates.append(1e3 * (end - between))
        peak = held(device) - before
    digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())).hexdigest()
    times = {"step_ms": median(iterations[1:]), "update_ms": median(updates[1:])}
    return {"arm": arm, "peak_mib": peak / MIB, **times, "weights": digest}


def main() -> int:
    """Runs the arms, prints a table, and says whether released weights are the plain ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    size = chosen.device, chosen.layers, chosen.width, chosen.steps
    if chosen.arm:
        print(json.dumps(train(chosen.arm, *size)))
        return 0
    rows = []
    weights = 4 * chosen.layers * (chosen.width**2 + chosen.width) / MIB
    print(f"weights of {weights:.0f} MiB, gradients of as much, {chosen.device}, torch {torch.__version__}")
    print(f"{'':18}{'peak MiB':>10}{'step ms':>10}{'update ms':>11}")
    for arm in (arm for arm in ARMS if chosen.device == "cuda" or "offloaded" not in arm):
        arguments = [
            f"--{name}={value}" for name, value in zip(("device", "layers", "width", "steps"), size, strict=True)
        ]
        done = subprocess.run(
            [sys.executable, __file__, "--arm", arm, *arguments],
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(f"{arm:18}{row['peak_mib']:10.0f}{row['step_ms']:10.1f}{row['update_ms']:11.1f}", flush=True)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "large_scale.json").write_text(json.dumps({"weights_mib": weights, "rows": rows}, indent=1))
    of = {row["arm"]: row["weights"] for row in rows}
    same = of["plain"] == of["released"] and of["8 bits"] == of["8 bits, released"]
    print("released weights are the plain ones, to the bit" if same else "RELEASED WEIGHTS DIFFER")
    return not same


if __name__ == "__main__":
    sys.exit(main())
