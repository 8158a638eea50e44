"""How long a step takes: ours beside AdamW, the published AdaBelief, another port, and the limit that memory sets.

    python benchmarks/step_time.py [CASE ...] [--device cuda] [--seconds 20] [--threads N] [--out DIR]

All arms step the same parameters and gradients in one process, in a new order each round, so that what slows the
machine down slows all of them; what is printed are medians, and medians of the ratios within a round. `limit` only
moves the bytes that a step has to: it reads g, p, m, s and writes p, m, s; on a GPU it copies as many. Extra memory is
what one step adds to the peak, on a CPU that of a fresh process. A step on a GPU is timed until the device is done.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu

Shapes = list[tuple[int, ...]]

GPT2_BLOCK: Shapes = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
GPT2_BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]


def resnet18() -> Shapes:
    """The shapes of ResNet-18's parameters."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for first in (True, False):
            shapes += [(width, inputs if first else width, 3, 3), (width,), (width,), (width, width, 3, 3)]
            shapes += [(width,), (width,)]
            if first and inputs != width:
                shapes += [(width, inputs, 1, 1), (width,), (width,)]
        inputs = width
    return [*shapes, (1000, 512), (1000,)]


CASES: dict[str, Shapes] = {
    "gpt2-124M": [(50257, 768), (1024, 768), *GPT2_BLOCK * 12, (768,), (768,)],
    "one-32M": [(32 * 2**20,)],
    "resnet18-11M": resnet18(),
    "odd-3M": [(1009, 997), (513, 1025), (333,), (1201, 1223), (7, 11, 13), (65537,)],
    "600x(8,256)": [(8, 256)] * 600,
    "200x16": [(16,)] * 200,
}


def arms(params: list[torch.nn.Parameter]) -> dict[str, Callable[[], object]]:
    """One step of every optimizer, over the same parameters."""
    optimizers = {
        "AdamW fused": torch.optim.AdamW(params, fused=True),
        "AdamW foreach": torch.optim.AdamW(params, foreach=True),
        "AdaBelief fused": AdaBelief(params, fused=True),
        "AdaBelief foreach": AdaBelief(params, foreach=True),
        "AdaBelief fused, rectify": AdaBelief(params, fused=True, rectify=True),
        "AdaBeliefW fused": AdaBeliefW(params, fused=True),
        "RangerAdaBelief fused": RangerAdaBelief(params, fused=True),
    }
    with contextlib.suppress(ImportError), contextlib.redirect_stdout(io.StringIO()):
        import adabelief_pytorch

        optimizers["adabelief-pytorch"] = adabelief_pytorch.AdaBelief(params, rectify=False, print_change_log=False)
    with contextlib.suppress(ImportError):
        import pytorch_optimizer

        optimizers["pytorch_optimizer"] = pytorch_optimizer.AdaBelief(params)
    steps: dict[str, Callable[[], object]] = {name: optimizer.step for name, optimizer in optimizers.items()}
    if params[0].is_cuda:
        source = torch.zeros(14 * sum(p.numel() for p in params), dtype=torch.uint8, device="cuda")
        return {"limit": partial(torch.empty_like(source).copy_, source), **steps}
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    rows = [
        [p.data_ptr(), p.grad.data_ptr(), m.data_ptr(), s.data_ptr(), 0, 0, p.numel(), 0]
        for p, (m, s) in zip(params, moments, strict=True)
        if p.grad is not None
    ]
    table = cpu.Table(rows, "traffic")

    def limit(kept: object = moments) -> None:  # the table knows addresses only
        table.update(0, [0.0] * len(cpu.SCALARS))

    return {"limit": limit, **steps}


def parameters(shapes: Shapes, device: str = "cpu") -> list[torch.nn.Parameter]:
    """Normal parameters and gradients."""
    params = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def measure(shapes: Shapes, seconds: float, device: str) -> dict[str, list[float]]:
    """Seconds of every arm's step, round after round, after two rounds of warm-up."""
    steps = arms(parameters(shapes, device))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, end = random.Random(0), None
    while end is None or time.perf_counter() < end or len(times["limit"]) < 5:
        for name in order.sample(list(steps), len(steps)):  # what ran before decides what is in the cache
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            times[name].append(time.perf_counter() - start)
        if end is None and len(times["limit"]) == 2:
            times = {name: [] for name in steps}
            end = time.perf_counter() + seconds
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """The median over the rounds of one arm's time to another's."""
    return median(a / b for a, b in zip(times[name], times[to], strict=True))


def extra_mib(case: str, name: str, device: str) -> float:
    """What one step adds to the peak of memory, in MiB, after a first step."""
    if device == "cuda":
        step = arms(parameters(CASES[case], device))[name]
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    done = subprocess.run(
        [sys.executable, __file__, case, "--peak-of", name], capture_output=True, text=True, check=True
    )
    return float(done.stdout) / 1024


def print_peak(shapes: Shapes, name: str) -> None:
    """For `extra_mib`: one step of an arm on its own."""
    step = arms(parameters(shapes[:1]))[name]  # what the first call costs
    step()
    step = arms(parameters(shapes))[name]
    step()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    step()
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def machine(device: str = "cpu") -> str:
    """The device, and versions."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}; {versions}"
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {cpu.instruction_set()} kernel; "
        f"{versions}"
    )


def chart(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Bars of the ratios to AdamW fused, a group for each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.2 + 1.9 * len(results)), layout="constrained")
    for axes, (case, times) in zip(figure.subplots(len(results), squeeze=False).flat, results.items(), strict=True):
        names = list(times)[::-1]
        ratios = [ratio(times, name, "AdamW fused") for name in names]
        bars = axes.barh(names, ratios, color=["#d55e00" if "AdaBelief" in n else "#999999" for n in names])
        axes.bar_label(bars, [f"{x:.2f}" for x in ratios], padding=3)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_title(case, loc="left")
        axes.set_xscale("log")
    axes.set_xlabel("time of a step / AdamW fused")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures and prints; see the first lines of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda is ROCm too (default cpu)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case, at least five rounds (default 20)")
    parser.add_argument("--threads", type=int, help="of torch and of the kernel (default: torch's)")
    parser.add_argument("--out", type=Path, help="folder for step_time.md and step_time.png")
    parser.add_argument("--no-memory", action="store_true", help="do not measure extra memory")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"CASE: there is no {', '.join(unknown)}; there are {', '.join(CASES)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cases = arguments.cases or list(CASES)
    if arguments.peak_of:
        return print_peak(CASES[cases[0]], arguments.peak_of)

    lines = [f"`{' '.join(['python', 'benchmarks/step_time.py', *sys.argv[1:]])}` on {machine(arguments.device)}.", ""]
    results = {}
    for case in cases:
        times = results[case] = measure(CASES[case], arguments.seconds, arguments.device)
        elements = sum(torch.Size(shape).numel() for shape in CASES[case])
        lines += [f"### {case}: {elements:,} elements in {len(CASES[case])} tensors, {len(times['limit'])} rounds", ""]
        lines += ["| step | ms | x AdamW fused | x limit | GB/s | extra MiB |", "| :-- | --: | --: | --: | --: | --: |"]
        for name, seconds in times.items():
            skipped = arguments.no_memory or name == "limit"
            extra = "" if skipped else f"{extra_mib(case, name, arguments.device):.0f}"
            lines.append(
                f"| {name} | {median(seconds) * 1e3:.3f} | {ratio(times, name, 'AdamW fused'):.2f} "
                f"| {ratio(times, name, 'limit'):.2f} | {28e-9 * elements / median(seconds):.1f} | {extra} |"
            )
        lines.append("")
        print("\n".join(lines), flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            with (arguments.out / "step_time.md").open("a" if len(results) > 1 else "w") as file:
                file.write("\n".join(lines))
            chart(results, arguments.out / "step_time.png")
        lines = []
    return None


if __name__ == "__main__":
    main()
