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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.kernels.layout import SCALARS, row

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


Step = Callable[[], object]


def _adabelief_pytorch(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    with contextlib.redirect_stdout(io.StringIO()):
        import adabelief_pytorch

        return adabelief_pytorch.AdaBelief(params, rectify=False, print_change_log=False)


def _pytorch_optimizer(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    import pytorch_optimizer

    return pytorch_optimizer.AdaBelief(params)


def _bitsandbytes(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    import bitsandbytes

    return bitsandbytes.optim.Adam8bit(params)


def _torchao(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    return AdamW8bit(params)


CONTENDERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "AdamW fused": partial(torch.optim.AdamW, fused=True),
    "AdamW foreach": partial(torch.optim.AdamW, foreach=True),
    "AdaBelief fused": partial(AdaBelief, fused=True),
    "AdaBelief fused, 8 bits": partial(AdaBelief, fused=True, state_bits=8),
    "AdaBelief fused, 16 bits": partial(AdaBelief, fused=True, state_bits=16),
    "AdaBelief fused, 24-bit weights, 8 bits": partial(AdaBelief, fused=True, state_bits=8, master_weight_bits=24),
    "AdaBelief foreach": partial(AdaBelief, foreach=True),
    "AdaBelief foreach, 8 bits": partial(AdaBelief, foreach=True, state_bits=8),
    "AdaBelief fused, rectify": partial(AdaBelief, fused=True, rectify=True),
    "AdaBeliefW fused": partial(AdaBeliefW, fused=True),
    "RangerAdaBelief fused": partial(RangerAdaBelief, fused=True),
    "adabelief-pytorch": _adabelief_pytorch,
    "pytorch_optimizer": _pytorch_optimizer,
    "bitsandbytes Adam8bit": _bitsandbytes,
    "torchao AdamW8bit": _torchao,
}
"""Who takes part. Whoever cannot make a step, because a package is missing for one, is left out with the reason."""


def arms(
    params: list[torch.nn.Parameter], names: Sequence[str] = tuple(CONTENDERS)
) -> tuple[dict[str, Step], dict[str, float], dict[str, str]]:
    """One step of every contender, over the same parameters, and beside them `limit`.

    Beside them the bytes of state that each has for a parameter, and why others are left out.
    """
    in_kernel = params[0].device.type == "cpu" and params[0].dtype == torch.float32
    steps: dict[str, Step] = {"limit": traffic(params) if in_kernel else copy(params)}
    sizes, left_out, elements = {}, {}, sum(p.numel() for p in params)
    for name in names:
        try:
            optimizer = CONTENDERS[name](params)
            optimizer.step()
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {error}"
        else:
            steps[name] = optimizer.step
            entries = (item for entry in optimizer.state.values() for item in entry.items())
            kept = [x for key, x in entries if isinstance(x, torch.Tensor) and key != "step"]
            sizes[name] = sum(x.numel() * x.element_size() for x in kept) / elements
    return steps, sizes, left_out


def moved_bytes(params: list[torch.nn.Parameter]) -> int:
    """What a step has to move: it reads g, p, m, s and writes p, m, s; m and s have at least 4 bytes an element."""
    return sum(p.numel() * (3 * p.element_size() + 4 * max(4, p.element_size())) for p in params)


def moved_by(params: list[torch.nn.Parameter], state: float) -> float:
    """The same of a step with so many bytes of state for a parameter, all of which it reads and writes."""
    return sum(p.numel() * (3 * p.element_size() + 2 * state) for p in params)


def copy(params: list[torch.nn.Parameter]) -> Step:
    """Copies as many bytes as a step moves, by the device's own copy."""
    source = torch.zeros(moved_bytes(params) // 2, dtype=torch.uint8, device=params[0].device)
    return partial(torch.empty_like(source).copy_, source)


def traffic(params: list[torch.nn.Parameter]) -> Step:
    """Moves what a step in float32 has to on a CPU, by the kernel's own loop."""
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    rows = [
        row(p=p.data_ptr(), g=p.grad.data_ptr(), m=m.data_ptr(), s=s.data_ptr(), elements=p.numel())
        for p, (m, s) in zip(params, moments, strict=True)
        if p.grad is not None
    ]
    table = cpu.Table(rows, cpu.TRAFFIC)

    def limit(kept: object = moments) -> None:  # the table knows addresses only
        table.update(0, [0.0] * len(SCALARS))

    return limit


def parameters(shapes: Shapes, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Normal parameters and gradients."""
    params = [torch.nn.Parameter(torch.randn(shape, device=device, dtype=dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def until_done(step: Step, device: str) -> float:
    """Seconds from a call until the device is done with it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def measure(steps: dict[str, Step], seconds: float, timed: Callable[[Step], float]) -> dict[str, list[float]]:
    """Seconds of every arm's step, as `timed` sees them, round after round, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, end = random.Random(0), None
    while end is None or time.perf_counter() < end or len(times["limit"]) < 5:
        for name in order.sample(list(steps), len(steps)):  # what ran before decides what is in the cache
            times[name].append(timed(steps[name]))
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
        step = CONTENDERS[name](parameters(CASES[case], device)).step
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
    CONTENDERS[name](parameters(shapes[:1])).step()  # what the first call costs
    step = CONTENDERS[name](parameters(shapes)).step
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
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the parameters")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="of these, and AdamW fused, alone", default=CONTENDERS
    )
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
        names = [name for name in CONTENDERS if name == "AdamW fused" or name in arguments.only]
        steps, sizes, left_out = arms(parameters(CASES[case], arguments.device, getattr(torch, arguments.dtype)), names)
        times = results[case] = measure(steps, arguments.seconds, partial(until_done, device=arguments.device))
        del steps  # and with them the memory of all contenders
        elements = sum(torch.Size(shape).numel() for shape in CASES[case])
        lines += [f"### {case}: {elements:,} elements in {len(CASES[case])} tensors, {len(times['limit'])} rounds", ""]
        lines += ["| step | ms | x AdamW fused | x limit | state B/parameter | extra MiB |"]
        lines += ["| :-- | --: | --: | --: | --: | --: |"]
        for name, seconds in times.items():
            skipped = arguments.no_memory or name == "limit"
            extra = "" if skipped else f"{extra_mib(case, name, arguments.device):.0f}"
            lines.append(
                f"| {name} | {median(seconds) * 1e3:.3f} | {ratio(times, name, 'AdamW fused'):.2f} "
                f"| {ratio(times, name, 'limit'):.2f} | {sizes.get(name, 0):.2f} | {extra} |"
            )
        lines += ["", *(f"{name} is left out ({reason})." for name, reason in left_out.items()), ""]
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
