"""The C kernel alone: every half-precision number, rounding, and numbers that are none."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch

from adabelief.kernels import cpu
from adabelief.kernels.layout import AMSGRAD, SCALARS, row

pytestmark = pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")

NEUTRAL = dict(gain=1.0, shrink=1.0, l2=0.0, mean_gain=0.1, beta2=0.999, belief_gain=0.001, eps=1e-16)
NEUTRAL |= dict(step_size=0.0, root_scale=1.0, offset=1e-8, bound=math.inf, alpha=0.5, synchronize=0.0, skip=0.0, t=1.0)


def scalars(**changes):
    return [(NEUTRAL | changes)[name] for name in SCALARS]


def addresses(**arrays):
    """A row of the kernel's table."""
    return row(**{name: x.data_ptr() for name, x in arrays.items()}, elements=arrays["p"].numel())


def update(p, g=None, flags=0, **changes):
    """One call of the kernel on one tensor; returns m and s."""
    wide = torch.promote_types(p.dtype, torch.float32)
    g = torch.zeros_like(p) if g is None else g
    m, s = torch.zeros_like(p, dtype=wide), torch.zeros_like(p, dtype=wide)
    cpu.Table([addresses(p=p, g=g, m=m, s=s)], str(p.dtype).removeprefix("torch.")).update(flags, scalars(**changes))
    return m, s


def every_half(dtype):
    return torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16).copy()).view(dtype)


def assert_same_bits(actual, expected):
    nan = expected.isnan()
    assert torch.equal(actual.isnan(), nan)
    assert torch.equal(actual[~nan].view(torch.int16), expected[~nan].view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_of_zero_changes_no_bit(dtype):
    p = every_half(dtype)
    update(p)
    assert_same_bits(p, every_half(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shrink", [0.7, 1.0 + 2**-11, 1e-3, 1e-6, 3e4, -1.0])
def test_rounding_is_that_of_torch(dtype, shrink):
    """To nearest even, over subnormal results and overflow."""
    p = every_half(dtype)
    update(p, shrink=shrink)
    assert_same_bits(p, (every_half(dtype).float() * np.float32(shrink)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_are_read_as_they_are(dtype):
    g = every_half(dtype).clone() if dtype.itemsize == 2 else torch.randn(1000, dtype=dtype)
    p = torch.zeros_like(g)
    m, _ = update(p, g, mean_gain=1.0)
    torch.testing.assert_close(m, g.to(m.dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bound", [math.inf, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_visible_and_alone(bad, bound):
    p, g = torch.ones(67), torch.ones(67)
    g[33] = bad
    m, s = update(p, g, step_size=0.1, bound=bound)
    others = torch.arange(67) != 33
    assert not m[33].isfinite()
    assert not s[33].isfinite()
    assert p[33].isnan()  # inf/inf, as in the reference
    assert all(x[others].isfinite().all() for x in (p, m, s))


def test_nan_wins_the_maximum():
    p, g, s_max = torch.ones(5), torch.tensor([1.0, float("nan"), 1.0, 0.0, 2.0]), torch.full((5,), 5e-4)
    m, s = torch.zeros(5), torch.zeros(5)
    cpu.Table([addresses(p=p, g=g, m=m, s=s, s_max=s_max)], "float32").update(AMSGRAD, scalars())
    assert torch.equal(torch.maximum(s, torch.full((5,), 5e-4)).isnan(), s_max.isnan())
    assert s_max[1].isnan()
    assert s_max[3] == np.float32(5e-4)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_split_lists_anywhere(threads):
    """Many tensors of awkward sizes: whatever the number of threads, every element is stepped once."""
    sizes = [1, 63, 64, 65, 0, 16384, 7, 100_003, 0, 31]
    before = torch.get_num_threads()
    results = []
    for n in (1, threads):
        torch.set_num_threads(n)
        tensors = [[torch.zeros(size) for _ in range(4)] for size in sizes]
        for i, (p, g, *_) in enumerate(tensors):
            p.fill_(1.0)
            g.copy_(torch.linspace(-1, 1, p.numel()) + i)
        rows = [addresses(**dict(zip("pgms", four, strict=True))) for four in tensors]
        table = cpu.Table(rows, "float32")
        for _ in range(3):
            table.update(0, scalars(step_size=0.1))
        results.append([x.clone() for four in tensors for x in four])
    torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


class Runtime:
    """An OpenMP runtime of a few functions, which asks for a part after the other."""

    def __init__(self, threads: int, region: str) -> None:
        def function(name, result, *arguments):
            return lambda body: setattr(self, name, ctypes.CFUNCTYPE(result, *arguments)(body))

        integer, pointer = ctypes.c_int, ctypes.c_void_p
        part, llvm_part = ctypes.CFUNCTYPE(None, pointer), ctypes.CFUNCTYPE(None, pointer, pointer, pointer)
        self.asked, thread = [], 0

        def gcc(run, work, asked, flags):
            self.asked.append(asked)
            each(lambda: run(work))

        def llvm(source, arguments, run, work):
            each(lambda: run(None, None, work))

        def each(run):
            nonlocal thread
            for thread in range(threads):  # noqa: B007
                run()

        function("omp_in_parallel", integer)(lambda: 0)
        function("omp_get_max_threads", integer)(lambda: 3)
        function("omp_get_num_threads", integer)(lambda: threads)
        function("omp_get_thread_num", integer)(lambda: thread)
        if region == "GCC":
            function("GOMP_parallel", None, part, pointer, ctypes.c_uint, ctypes.c_uint)(gcc)
        if region == "LLVM":
            function("__kmpc_global_thread_num", ctypes.c_int32, pointer)(lambda source: 7)
            push = [pointer, ctypes.c_int32, ctypes.c_int32]
            function("__kmpc_push_num_threads", None, *push)(lambda source, at, asked: self.asked.append((at, asked)))
            function("__kmpc_fork_call", None, pointer, ctypes.c_int32, llvm_part, pointer)(llvm)


@pytest.mark.parametrize(
    ("region", "asked"), [("GCC", [3]), ("LLVM", [(7, 3)]), ("neither", [])], ids=["GCC", "LLVM", "neither"]
)
@pytest.mark.parametrize("came", [1, 2, 3])
def test_threads_are_those_of_the_runtime_that_is_there(region, asked, came, monkeypatch):
    """Of GCC's kind or LLVM's, however many come; without one there is one thread."""
    runtime = Runtime(came, region)
    with monkeypatch.context() as patched:
        patched.setattr(cpu, "_scopes", [lambda: runtime])
        cpu._library.cache_clear()
        assert cpu.threads() == (3 if asked else 1)
        p = torch.full((100_003,), 2.0)
        update(p, shrink=0.5)
    cpu._library.cache_clear()
    assert cpu.threads() == torch.get_num_threads()
    assert torch.equal(p, torch.ones(100_003))
    assert runtime.asked == asked


def test_steps_are_counted_together():
    numbers = [torch.tensor(3.0) for _ in range(4)]
    others = [torch.tensor(7.0)]
    steps = cpu.Steps([[x.data_ptr() for x in numbers], [], [x.data_ptr() for x in others]])
    assert steps.count()
    assert steps.numbers.tolist() == [4.0, 0.0, 8.0]
    assert [float(x) for x in numbers + others] == [4.0] * 4 + [8.0]
    numbers[2].fill_(9)
    assert not steps.count()  # and none is counted
    assert [float(x) for x in numbers + others] == [4.0, 4.0, 9.0, 4.0, 8.0]


def test_instruction_set_is_named():
    assert cpu.instruction_set() in {"AVX-512", "AVX2", "NEON", "baseline"}
