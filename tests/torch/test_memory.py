"""What a step adds to a process's peak memory: each case in a process forked from one that has imported torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adabelief.kernels import cpu

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.xdist_group("memory"),  # they share the process that has imported everything
]

MIB = 2**20
CODE = """
import json, os, sys, torch
from adabelief import AdaBelief
from adabelief.torch import update
torch.set_num_threads(1)


def peak():  # in KiB; unlike ru_maxrss, not that of the process that started this one
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def ready(number, size, dtype, options):
    params = [torch.nn.Parameter(torch.ones(size, dtype=getattr(torch, dtype))) for _ in range(number)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = AdaBelief(params, **options)
    for p in params:  # the state, and its pages, before the first step
        optimizer._tensors(dict(optimizer.param_groups[0], params=[p]))
        for x in optimizer.state[p].values():
            x.add_(0)
    return optimizer


def added(bucket, number, *case):
    update.CPU_BUCKET_BYTES = bucket
    ready(1, 3, *case).step()  # what the first call of every operator costs
    optimizer = ready(number, 48 * 2**19 // number, *case)
    before = peak()
    optimizer.step()
    return peak() - before


for line in sys.stdin:
    if not os.fork():
        print(added(*json.loads(line)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        print("failed", flush=True)
"""


@pytest.fixture(scope="module")
def added_mib():
    """A function for the MiB that a step of 96 MiB of parameters in float32 adds, in so many tensors."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CODE], **pipes) as process:

        def ask(dtype: str, bucket: int, number: int = 48, **options) -> float:
            print(json.dumps([bucket, number, dtype, options]), file=process.stdin, flush=True)
            return int(process.stdout.readline()) / 1024

        yield ask
        process.stdin.close()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {}),
        ("float32", {"weight_decay": 0.1, "maximize": True, "amsgrad": True}),
        ("bfloat16", {"weight_decay": 0.1}),
    ],
)
def test_foreach_holds_one_copy_of_a_bucket(added_mib, dtype, options):
    """48 tensors of 2 MiB in float32: a bucket of 8 MiB adds that and what the allocator does not give back of single
    tensors (6 MiB with torch 2.6; more where half precision is cast); one bucket for all adds 96 MiB."""
    options |= {"foreach": True}
    assert added_mib(dtype, 8 * MIB, **options) < 8 + (8 if dtype == "float32" else 20)
    assert added_mib(dtype, 2**40, **options) > 90


@pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_adds_no_memory(added_mib, dtype):
    assert added_mib(dtype, 2**40, fused=True, weight_decay=0.1, amsgrad=True) < 0.5


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True, "amsgrad": True}], ids=str)
def test_the_loop_holds_one_temporary_of_one_tensor(added_mib, options):
    """And no more of a large tensor than torch's own AdamW, which holds two."""
    assert added_mib("float32", 2**40, number=1, foreach=False, **options) < 96 * 1.1
    assert added_mib("float32", 2**40, number=48, foreach=False, **options) < 8
