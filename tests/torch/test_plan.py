"""The plan of addresses: whatever a user does between two steps, the next step touches what is there then."""

from __future__ import annotations

import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from torch._subclasses import FakeTensorMode

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.torch import launch, proof
from adabelief.torch.base import wanted
from tests.oracle import Oracle, set_gradients
from tests.torch.changes import CHANGES, parameters

needs_kernel = pytest.mark.skipif(bool(launch.unserved("cpu")), reason=launch.unserved("cpu") or "-")


def whole_memory(p: torch.Tensor) -> torch.Tensor:
    """All that p's storage holds, also what is no longer p's."""
    return torch.empty(0, dtype=p.dtype).set_(p.untyped_storage())


def holds(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the last step's plan would serve the next one."""
    lists = [group["params"] for group in optimizer.param_groups]
    held = optimizer._plan._proof.holds(lists, optimizer.state)
    if held:
        held.release()
    return bool(held)


@needs_kernel
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_next_step_sees_every_change(change, cls):
    """Beside a twin with foreach, which looks everything up in every step."""
    runs = []
    for options in ({"fused": True}, {"foreach": True}):
        params = parameters()
        optimizer = cls(params, lr=0.01, **options)
        for seed in range(3):
            set_gradients(params, seed)
            optimizer.step()
        optimizer.step()
        if options.get("fused"):
            assert optimizer._plan.parts[0].stepped  # it is the kernel that is tested
        change(optimizer, params)
        for _ in range(2):
            optimizer.step()
        runs.append((params, [optimizer.state[p] for p in params if p in optimizer.state]))
    (params, states), (twins, twin_states) = runs
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole_memory(p), whole_memory(q), rtol=1e-5, atol=1e-6)
    for state, twin_state in zip(states, twin_states, strict=True):
        assert state.keys() == twin_state.keys()
        for name, x in state.items():
            torch.testing.assert_close(x, twin_state[name], rtol=1e-5, atol=1e-7)


@needs_kernel
@pytest.mark.parametrize("which", ["parameter", "gradient", "state"])
def test_memory_that_was_given_back_is_not_touched(which):
    """A storage that was shrunk behind its tensor's back, twice, so that its address may be the old one."""
    params = parameters()
    optimizer = AdaBelief(params)
    set_gradients(params, 0)
    optimizer.step()
    tensor = {"parameter": params[0], "gradient": params[0].grad, "state": optimizer.state[params[0]]["exp_avg"]}[which]
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    assert holds(optimizer)
    address = tensor.data_ptr()
    storage.resize_(size - 4)
    assert not holds(optimizer)
    storage.resize_(size)
    if tensor.data_ptr() == address:
        assert holds(optimizer)


@needs_kernel
def test_plan_is_kept_while_it_holds():
    params = parameters()
    optimizer = AdaBelief(params, lr=0.01)
    plans = set()
    for seed in range(4):
        set_gradients(params, seed)  # new tensors every time
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9
        plans.add(id(optimizer._plan))
    assert len(plans) == 1


@needs_kernel
def test_profiler_shows_step_and_kernel_by_name():
    params = parameters()
    set_gradients(params, 0)
    optimizer = AdaBelief(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert {"Optimizer.step#AdaBelief.step", "adabelief::cpu_update"} <= {event.name for event in profile.events()}


@needs_kernel
def test_gradients_are_not_kept_alive():
    params = parameters()
    optimizer = AdaBelief(params)
    set_gradients(params, 0)
    optimizer.step()
    gradients = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    assert not any(g() is not None for g in gradients)


@needs_kernel
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief, partial(RangerAdaBelief, gc_loc=False)])
def test_layouts_that_the_kernel_takes(cls):
    """Dense memory in any order of dimensions, where the gradient has the same: transposed, channels last, complex."""
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(6, 4, generator=generator).t()),
        torch.nn.Parameter(torch.randn(4, 3, 2, 5, generator=generator).contiguous(memory_format=torch.channels_last)),
        torch.nn.Parameter(torch.randn(5, generator=generator, dtype=torch.complex64)),
    ]
    optimizer = cls(params, lr=0.01, fused=True)
    oracle = Oracle(optimizer)
    for seed in range(8):
        set_gradients(params, seed)
        for p in params:
            p.grad = torch.empty_like(p).copy_(p.grad)  # of p's own layout
        oracle.step()
    rest = [] if cls is AdaBelief else [params[0]]  # a transposed matrix has its rows scattered
    assert [params[i] for i in optimizer._plan.parts[0].rest if i != 2] == rest


@needs_kernel
@pytest.mark.parametrize("capturable", [False, True])
def test_parameters_may_be_at_different_steps(capturable):
    params = parameters()
    optimizer = AdaBelief(params, lr=0.01, capturable=capturable)
    oracle = Oracle(optimizer)
    for seed in range(6):
        set_gradients(params, seed)
        if seed < 3:
            params[1].grad = params[2].grad = None
        oracle.step()
    (part,) = optimizer._plan.parts
    assert len(part.launches) == 2
    assert not part.rest


@needs_kernel
def test_fused_is_the_choice_on_the_cpu():
    params = parameters()
    set_gradients(params, 0)
    for options, chosen in [
        ({}, True),
        ({"foreach": True}, False),
        ({"foreach": False}, False),
        ({"fused": False}, False),
    ]:
        assert wanted(AdaBelief(params, **options).param_groups[0]) is chosen


ASKING = [({}, False), ({"capturable": True}, False), ({"fused": True}, True)]


@pytest.mark.parametrize("by_default", [{"cpu", "cuda"}, {"cpu"}], ids=["CUDA", "ROCm"])
def test_on_gpus_the_kernel_is_the_default_where_it_has_been_run(monkeypatch, by_default):
    """On the others it is for those who ask."""
    monkeypatch.setattr(launch, "unserved", lambda device_type: None)
    monkeypatch.setattr(launch, "BY_DEFAULT", by_default)
    with FakeTensorMode():
        params = [torch.nn.Parameter(torch.ones(3, device="cuda"))]
    for options, chosen in ASKING:
        assert wanted(AdaBelief(params, **options).param_groups[0]) is (chosen or "cuda" in by_default)


@needs_kernel
def test_a_kernel_that_is_not_the_default_takes_no_tensor_unasked(monkeypatch):
    """Nor those that come after one of another device, nor Keras's, which have no such option."""
    monkeypatch.setattr(launch, "BY_DEFAULT", set())
    for options, chosen in ASKING:
        params = parameters()
        optimizer = AdaBelief(params, **options)
        set_gradients(params, 0)
        (group,) = optimizer.param_groups
        assert bool(launch.kernel_for(optimizer._tensors(group), 0, optimizer._options(group))) is chosen


@pytest.mark.parametrize(("module", "loader"), [(cpu, "_library"), (proof, "_load")])
def test_without_the_kernel(monkeypatch, module, loader):
    monkeypatch.setattr(module, loader, lambda: "no compiler")
    with pytest.raises(ValueError, match=r"fused=True.*no compiler.*foreach=True"):
        AdaBelief(parameters(), fused=True)
    params = parameters()
    oracle = Oracle(AdaBelief(params, lr=0.01))
    set_gradients(params, 0)
    oracle.step()


@needs_kernel
def test_fused_where_there_is_no_kernel_says_so():
    meta = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match=r"fused=True.*meta.*foreach=True"):
        AdaBelief([meta], fused=True)
    optimizer = AdaBelief(parameters())
    with pytest.raises(ValueError, match="meta"):
        optimizer.add_param_group({"params": [meta], "fused": True})
    assert len(optimizer.param_groups) == 1


@needs_kernel
@pytest.mark.parametrize("other", ["foreach", "differentiable"])
def test_fused_excludes(other):
    with pytest.raises(ValueError, match=rf"fused=True and {other}=True"):
        AdaBelief(parameters(), fused=True, **{other: True})


THREADS = """
import os, torch
torch.set_num_threads({threads})
from adabelief import AdaBelief
big = torch.ones(2**22)
big.add_(1)  # torch's pool is there now
before = len(os.listdir("/proc/self/task"))
p = torch.nn.Parameter(torch.ones(2**20))
p.grad = torch.ones_like(p)
AdaBelief([p], fused=True).step()
maps = open("/proc/self/maps").read().splitlines()
print(len(os.listdir("/proc/self/task")) - before, len({{line.split()[-1] for line in maps if "libgomp" in line}}))
"""


@needs_kernel
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_torchs_own(threads):
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(threads=threads)], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.split() == ["0", "1"], done.stderr
