"""The parts of `make gpu` that step tensors, each in a process of its own: see gpu.py.

    python benchmarks/gpu_parts.py PART [--interpret]

A part prints what it finds line by line, as JSON: what stops it costs no more than what was still to come. Under
`--interpret` CPU tensors stand in for a GPU's, in tiny sizes, and Triton's interpreter (TRITON_INTERPRET=1) for its
kernel; a captured graph is then the step itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_time import (
    CASES,
    GPT2_BLOCK,
    Shapes,
    Step,
    arms,
    copy,
    measure,
    moved_by,
    moved_bytes,
    parameters,
    ratio,
    until_done,
)

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.lab.models.gpt import GPT
from adabelief.torch import launch

Row = dict[str, Any]
"""One line of a table: `table` names it; `met` says whether a line that is a check holds."""

SECONDS = 1.5
"""Of each kind of clock, for each case."""

ROUNDING = 0.01
"""Relative differences of losses that are none: in 100 steps float32's rounding grows to 0.001 or 0.002 on CPUs."""

STEPS: list[tuple[str, Shapes, torch.dtype]] = [
    ("gpt2-124M", CASES["gpt2-124M"], torch.float32),
    ("one-32M", CASES["one-32M"], torch.float32),
    ("1000x16", [(16,)] * 1000, torch.float32),
    ("gpt2-124M", CASES["gpt2-124M"], torch.bfloat16),
    ("resnet18-11M", CASES["resnet18-11M"], torch.float32),
    ("600x(8,256)", CASES["600x(8,256)"], torch.float32),
    ("one-32M", CASES["one-32M"], torch.bfloat16),
    ("200x16", CASES["200x16"], torch.float32),
]
"""Ordered by worth, like the parts themselves."""

TINY: list[tuple[str, Shapes, torch.dtype]] = [
    ("tiny", [(16,), (3, 5)], torch.float32),
    ("tiny", [(3, 5), (8, 512)], torch.bfloat16),  # of which one is large enough for codes
]


def device_name(interpret: bool) -> str:
    """Where the parts run; with the kernel's interpreter in place of the C kernel where that is on CPU tensors."""
    if interpret:
        from triton.language import standard

        from adabelief.kernels import gpu_codes, gpu_rule

        launch.KERNELS["cpu"] = launch.OnGpu, lambda: None
        # the interpreter adds up and compares by NumPy what it knows, and ours one by one
        gpu_rule._add, gpu_codes._most = standard._sum_combine, standard._elementwise_max
        return "cpu"
    return "cuda"


def machine(interpret: bool) -> Iterator[Row]:
    """What this is measured on.

    Raises:
        RuntimeError: If there is no GPU, or the kernel cannot serve it.
    """
    import triton

    row: Row = {"table": "machine", "device": platform.processor() or platform.machine()}
    if not interpret:
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU here; --interpret makes a dry run without one")
        properties = torch.cuda.get_device_properties(0)
        row |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "GiB": round(properties.total_memory / 2**30, 1),
            "CUDA": torch.version.cuda or torch.version.hip,
        }
    row |= {"torch": torch.__version__, "Triton": triton.__version__, "Python": platform.python_version()}
    yield row
    if reason := launch.unserved(device_name(interpret)):
        raise RuntimeError(f"there is no kernel: {reason}")


def on_device(step: Step) -> float:
    """Seconds that the device takes for a step, from its first kernel to its last.

    The device is kept busy while the host prepares the step, as in training; only where that takes longer does the
    device wait for it.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(4_000_000)  # cycles: about 2 ms
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def on_host(step: Step) -> float:
    """Seconds until the call returns, whatever the device still has to do; it had nothing to do before."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def steps(interpret: bool) -> Iterator[Row]:
    """Times of a step: until the device is done, on the device, and on the host."""
    device = device_name(interpret)
    seconds = 0.0 if interpret else SECONDS
    for case, shapes, dtype in TINY if interpret else STEPS:
        params = parameters(shapes, device, dtype)
        contenders, sizes, left_out = arms(params)
        contenders["limit"] = copy(params)
        whole = measure(contenders, seconds, partial(until_done, device=device))
        alone = whole if interpret else measure(contenders, seconds, on_device)
        host = whole if interpret else measure(contenders, seconds / 3, on_host)
        elements = sum(p.numel() for p in params)
        about = {
            "case": case,
            "tensors": len(shapes),
            "elements": elements,
            "dtype": str(dtype).removeprefix("torch."),
        }
        for name in contenders:
            moved = moved_by(params, sizes[name]) if name in sizes else moved_bytes(params)
            yield (
                {"table": "steps"}
                | about
                | {
                    "step": name,
                    "ms": median(whole[name]) * 1e3,
                    "x AdamW fused": ratio(whole, name, "AdamW fused"),
                    "device ms": median(alone[name]) * 1e3,
                    "share of a copy's bandwidth": ratio(alone, "limit", name) * moved / moved_bytes(params),
                    "bytes moved": moved / elements,
                    "bytes of state": sizes.get(name),
                    "host ms": median(host[name]) * 1e3,
                }
            )
        for name, reason in left_out.items():
            yield {"table": "left out"} | about | {"step": name, "why": reason}
        del contenders  # and with them all their state


def captured(step: Step, device: str) -> Step:
    """A replay of a graph that has captured the step, which has been made once before, on another stream."""
    if device == "cpu":
        step()
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def graphs(interpret: bool) -> Iterator[Row]:
    """A captured step under a learning rate that changes, beside foreach's; and a step that waits for nothing."""
    device = device_name(interpret)
    shapes = [(16,), (3, 5)] if interpret else GPT2_BLOCK
    rates = (1e-3, 3e-4, 0.0, 2e-3)
    for name, cls in {"AdaBelief": AdaBelief, "AdaBeliefW": AdaBeliefW, "RangerAdaBelief": RangerAdaBelief}.items():
        ours, theirs = parameters(shapes, device), parameters(shapes, device)
        for p, q in zip(ours, theirs, strict=True):
            p.data.mul_(0.02)  # so that the last places of p are far below a step
            q.data.copy_(p.data)
            q.grad = p.grad
        lr = torch.tensor(rates[0], device=device)
        kernel = cls(ours, lr=lr, fused=True, capturable=True)
        foreach = cls(theirs, lr=lr, foreach=True, capturable=True)
        replay = captured(kernel.step, device)
        foreach.step()
        for rate in rates:
            lr.fill_(rate)
            for p in ours:
                p.grad.normal_()
            replay()
            foreach.step()
        error = max((p - q).abs().max().item() for p, q in zip(ours, theirs, strict=True)) / max(rates)
        eager = median(until_done(kernel.step, device) for _ in range(20 if device == "cuda" else 1))
        graph = median(until_done(replay, device) for _ in range(20 if device == "cuda" else 1))
        yield {
            "table": "graphs",
            "check": f"a captured {name}.step() follows the learning rate",
            "found": f"off foreach by {error:.1e} of the largest rate; eager {eager * 1e3:.3f} ms, replayed "
            f"{graph * 1e3:.3f} ms",
            "met": error < 1e-3,
        }
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        kernel.step()  # raises where the host waits for the device
        torch.cuda.set_sync_debug_mode("default")
    yield {"table": "graphs", "check": "a capturable step waits for nothing", "found": "no wait", "met": True}


def losses(model: GPT, optimizer: torch.optim.Optimizer, batches: list[torch.Tensor]) -> list[float]:
    """The losses of a training, one for each batch."""
    found = []
    for batch in batches:
        optimizer.zero_grad()
        logits = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return [x.item() for x in found]


def gpt(interpret: bool) -> Iterator[Row]:
    """A small GPT learns the README's bytes, by the same batches on the CPU and on the device."""
    device = device_name(interpret)
    width, layers, n, context, length = (16, 1, 2, 8, 3) if interpret else (128, 2, 16, 64, 100)
    text = torch.tensor(list((Path(__file__).parents[1] / "README.md").read_bytes()))
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(len(text) - context - 1, (length, n), generator=generator)
    batches = list(text[starts[..., None] + torch.arange(context + 1)])

    def trained(where: str, **options: Any) -> tuple[list[float], float]:
        torch.manual_seed(0)
        model = GPT(vocabulary=256, context=context, width=width, layers=layers).to(where)
        optimizer = AdaBeliefW(model.parameters(), lr=1e-3, **options)
        on_it, first = [batch.to(where) for batch in batches], length // 10 + 1
        found = losses(model, optimizer, on_it[:first])  # which compiles what has to be compiled
        start = time.perf_counter()
        found += losses(model, optimizer, on_it[first:])
        return found, (time.perf_counter() - start) / (length - first)

    expected, seconds = trained("cpu", foreach=True)
    yield {"table": "gpt", "training": "CPU, foreach", "first": expected[0], "last": expected[-1], "ms": seconds * 1e3}
    for name, options in {
        "fused": dict(fused=True),
        "foreach": dict(foreach=True),
        "fused, capturable": dict(fused=True, capturable=True),
    }.items():
        found, seconds = trained(device, **options)
        off = max(abs(x - y) / y for x, y in zip(found, expected, strict=True))
        yield {
            "table": "gpt",
            "training": f"{device}, {name}",
            "check": f"the losses of {length} steps are the CPU's ({name})",
            "first": found[0],
            "last": found[-1],
            "ms": seconds * 1e3,
            "found": f"off by {off:.1e} at most",
            "met": off < ROUNDING and found[-1] < found[0],
        }


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "machine": machine,
    "step times": steps,
    "graphs": graphs,
    "gpt": gpt,
}


def main() -> None:
    """Runs a part; see the first lines of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--interpret", action="store_true")
    arguments = parser.parse_args()
    for row in PARTS[arguments.part](arguments.interpret):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
