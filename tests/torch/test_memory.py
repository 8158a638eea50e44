"""What a step adds to a process's peak memory, each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adabelief.kernels import cpu

MIB = 2**20
CODE = """
import torch
from adabelief import AdaBelief
from adabelief.torch import update
update.CPU_BUCKET_BYTES = {bucket}
torch.set_num_threads(1)


def peak():  # in KiB; unlike ru_maxrss, not that of the process that started this one
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def ready(number, size):
    params = [torch.nn.Parameter(torch.ones(size, dtype=torch.{dtype})) for _ in range(number)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = AdaBelief(params, **{options})
    for p in params:  # the state, and its pages, before the first step
        optimizer._tensors(dict(optimizer.param_groups[0], params=[p]))
        for x in optimizer.state[p].values():
            x.add_(0)
    return optimizer


ready(1, 3).step()  # what the first call of every operator costs
optimizer = ready({number}, 48 * 2**19 // {number})
before = peak()
optimizer.step()
print(peak() - before)
"""


def added_mib(dtype: str, bucket: int, number: int = 48, **options) -> float:
    """MiB that a step of 96 MiB of parameters in float32 adds, in so many tensors."""
    code = CODE.format(dtype=dtype, bucket=bucket, number=number, options=options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    return int(done.stdout) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {}),
        ("float32", {"weight_decay": 0.1, "maximize": True, "amsgrad": True}),
        ("bfloat16", {"weight_decay": 0.1}),
    ],
)
def test_foreach_holds_one_copy_of_a_bucket(dtype, options):
    """48 tensors of 2 MiB in float32: a bucket of 8 MiB adds that and what the allocator does not give back of single
    tensors (6 MiB with torch 2.6; more where half precision is cast); one bucket for all adds 96 MiB."""
    options |= {"foreach": True}
    assert added_mib(dtype, 8 * MIB, **options) < 8 + (8 if dtype == "float32" else 20)
    assert added_mib(dtype, 2**40, **options) > 90


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_adds_no_memory(dtype):
    assert added_mib(dtype, 2**40, fused=True, weight_decay=0.1, amsgrad=True) < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True, "amsgrad": True}], ids=str)
def test_the_loop_holds_one_temporary_of_one_tensor(options):
    """And no more of a large tensor than torch's own AdamW, which holds two."""
    assert added_mib("float32", 2**40, number=1, foreach=False, **options) < 96 * 1.1
    assert added_mib("float32", 2**40, number=48, foreach=False, **options) < 8
