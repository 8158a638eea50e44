"""The plan of addresses: whatever a user does between two steps, the next step touches what is there then."""

from __future__ import annotations

import copy
import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.kernels import cpu
from adabelief.torch import launch, proof
from adabelief.torch.base import wanted
from tests.oracle import Oracle, set_gradients

needs_kernel = pytest.mark.skipif(bool(launch.unserved("cpu")), reason=launch.unserved("cpu") or "-")


def parameters(device: str = "cpu") -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator))
        for s in [(8, 4), (5,), (), (2, 3, 3, 3), (4, 4), (8, 4)]
    ]


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


def replace_parameter_memory(o, params):
    params[0].data = params[0].data.clone() * 2


def transpose_parameter(o, params):
    params[4].data = params[4].data.t()


def shorten_parameter(o, params):
    """The same address, fewer elements."""
    p = params[0]
    p.data = p.data[:3]
    p.grad = None
    p.grad = torch.ones_like(p)
    o.state[p] = {name: x[:3].clone() if x.ndim else x for name, x in o.state[p].items()}


def narrow_parameter(o, params):
    """The same address and number of elements, another type."""
    p = params[1]
    values = p.detach().to(torch.bfloat16)
    p.grad = None
    p.data = p.data.view(torch.bfloat16)[:5].copy_(values)
    p.grad = torch.ones_like(p)


def shorten_state(o, params):
    """The same address, fewer elements; the parameter's own are fewer as well."""
    for x in (params[0], *o.state[params[0]].values()):
        x.data = x.data[:3] if x.ndim else x.data
    params[0].grad = None
    params[0].grad = torch.ones_like(params[0])


def replace_gradients(o, params):
    o.zero_grad()
    set_gradients(params, 77)


def drop_gradients(o, params):
    params[1].grad = params[3].grad = None


def bring_gradient_back(o, params):
    params[1].grad = None
    o.step()
    params[1].grad = torch.ones(5)


def strided_gradient(o, params):
    params[0].grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(5)).t()


def expanded_gradient(o, params):
    params[1].grad = torch.ones(1).expand(5)


def replace_state_tensor(o, params):
    entry = o.state[params[0]]
    entry["exp_avg"] = entry["exp_avg"] * 0.5


def replace_state_memory(o, params):
    entry = o.state[params[3]]
    entry["exp_avg_var"].data = entry["exp_avg_var"].data * 2


def replace_state_entry(o, params):
    o.state[params[2]] = {name: x.clone() for name, x in o.state[params[2]].items()}
    o.state[params[2]]["exp_avg"] += 1


def delete_state_entry(o, params):
    del o.state[params[0]]


def clear_state(o, params):
    o.state.clear()


def replace_state(o, params):
    o.state = copy.copy(o.state)
    o.state[params[0]] = {}


def swap_state_entries(o, params):
    """The same entries in the same order, of other parameters."""
    keys = list(o.state)
    i, j = (next(n for n, key in enumerate(keys) if key is p) for p in (params[0], params[5]))
    keys[i], keys[j] = keys[j], keys[i]
    entries = list(o.state.values())
    o.state.clear()
    o.state.update(zip(keys, entries, strict=True))


def set_step(o, params):
    o.state[params[0]]["step"].fill_(100.0)


def load(o, params):
    o.load_state_dict(copy.deepcopy(o.state_dict()))


def turn_on_amsgrad(o, params):
    o.param_groups[0]["amsgrad"] = True


def change_options(o, params):
    o.param_groups[0].update(lr=0.5, weight_decay=0.3, maximize=True, betas=(0.8, 0.95), eps=1e-6)


def add_group(o, params):
    params.append(torch.nn.Parameter(torch.ones(3)))
    o.add_param_group({"params": params[-1], "lr": 0.2})
    params[-1].grad = torch.ones(3)


def remove_parameter(o, params):
    o.state.pop(o.param_groups[0]["params"].pop(1))


def swap_parameter(o, params):
    """As accelerate and FSDP do."""
    new = torch.nn.Parameter(params[0].detach().clone() + 1)
    new.grad = torch.ones_like(new)
    o.param_groups[0]["params"][0] = params[0] = new


def resize_gradient(o, params):
    params[1].grad.data = torch.arange(5.0)


def double_gradient(o, params):
    """Another type behind the same object."""
    params[1].grad.data = torch.arange(5.0, dtype=torch.float64)


class Doubled(torch.Tensor):
    """Worth twice what its memory says."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            args = tree_map_only(cls, lambda x: 2 * x.as_subclass(torch.Tensor), args)
            return function(*args, **kwargs or {})


def subclassed_gradient(o, params):
    params[1].grad = torch.arange(5.0).as_subclass(Doubled)


def negated_gradient(o, params):
    """Its memory holds the opposite of its value."""
    params[2].grad = torch.tensor(1 + 2j).conj().imag


def swap_tensors(o, params):
    """The same objects, with each other's tensors inside."""
    for p in params:
        p.grad = None
    torch.utils.swap_tensors(params[0], params[5])
    set_gradients(params, 9)


def swap_state_tensors(o, params):
    torch.utils.swap_tensors(o.state[params[0]]["exp_avg"], o.state[params[5]]["exp_avg"])


def tuple_of_parameters(o, params):
    o.param_groups[0]["params"] = tuple(o.param_groups[0]["params"])


def replace_step(o, params):
    for p in params:
        o.state[p]["step"] = o.state[p]["step"].double()


def widen_state(o, params):
    """The same address and shape, another type."""
    entry, memory = o.state[params[1]], torch.zeros(5, dtype=torch.float64)
    entry["exp_avg"].data = memory.view(torch.float32)[:5].copy_(entry["exp_avg"].detach())
    o.step()
    entry["exp_avg"].data = memory.copy_(entry["exp_avg"].detach().double())


def shorten_everything(o, params):
    """The same addresses and strides, fewer rows; the gradient's memory has room for all."""
    p = params[0]
    p.grad = None
    for x in (p, *o.state[p].values()):
        x.data = x.data[:3] if x.ndim else x.data
    p.grad = torch.ones(8, 4)[:3]


CHANGES = [
    *(double_gradient, subclassed_gradient, negated_gradient, swap_tensors, swap_state_tensors, replace_step),
    *(tuple_of_parameters, widen_state, shorten_everything),
    *(replace_parameter_memory, transpose_parameter, shorten_parameter, replace_gradients, drop_gradients),
    *(bring_gradient_back, narrow_parameter, shorten_state, swap_state_entries),
    *(strided_gradient, expanded_gradient, replace_state_tensor, replace_state_memory, replace_state_entry),
    *(delete_state_entry, clear_state, replace_state, set_step, load, turn_on_amsgrad, change_options, add_group),
    *(remove_parameter, swap_parameter, resize_gradient),
]


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


def test_on_gpus_the_kernel_is_for_those_who_ask(monkeypatch):
    """Until it has been run on one."""
    monkeypatch.setattr(launch, "unserved", lambda device_type: None)
    with FakeTensorMode():
        params = [torch.nn.Parameter(torch.ones(3, device="cuda"))]
    for options, chosen in ASKING:
        assert wanted(AdaBelief(params, **options).param_groups[0]) is chosen


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
        [sys.executable, "-c", THREADS.format(threads=threads)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["0", "1"], done.stderr
