"""What the optimizers show on a GPU alone: CUDA graphs, no waiting for the device, mixed precision, torch.compile."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses import FakeTensorMode

from adabelief import AdaBelief, AdaBeliefW, Probe, RangerAdaBelief
from adabelief.torch import proof
from tests.oracle import Oracle, array, set_gradients
from tests.torch.test_gpu import CASES, parameters

pytestmark = pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(proof.unavailable()), reason=proof.unavailable() or "there is no GPU"
)


def new_gradients(params, seed):
    """Into the memory that is there, as a captured graph needs it."""
    there = [p.grad for p in params]
    set_gradients(params, seed)
    for p, g in zip(params, there, strict=True):
        p.grad = g.copy_(p.grad)


def captured(step):
    """A graph of one step, after what it compiles and allocates has been: a first step on another stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def tensor_lr(value=0.05):
    return torch.tensor(value, device="cuda")


@on_gpu
@pytest.mark.parametrize("choice", ["fused", "foreach"])
@pytest.mark.parametrize("case", CASES)
def test_a_captured_graph_follows_the_learning_rate(case, choice):
    """betas and weight_decay are numbers, so they are the graph's own; a new graph takes new ones."""
    cls, options = CASES[case]
    params = parameters()
    optimizer = cls(params, lr=tensor_lr(), capturable=True, **{choice: True}, **options)
    oracle, graphs, seed = Oracle(optimizer), [], 0
    for changes in ({}, {"betas": (0.8, 0.99)}, {"weight_decay": 0.3}):
        optimizer.param_groups[0].update(changes)
        set_gradients(params, seed := seed + 1)
        oracle.step(lambda: graphs.append(captured(optimizer.step)))
        for lr in (0.05, 0.01, 0.0, 0.1):
            optimizer.param_groups[0]["lr"].fill_(lr)
            new_gradients(params, seed := seed + 1)
            oracle.step(graphs[-1].replay)


@on_gpu
@pytest.mark.parametrize("choice", ["fused", "foreach"])
@pytest.mark.parametrize("case", CASES)
def test_a_captured_graph_follows_tensors_of_betas_and_decay(case, choice):
    cls, options = CASES[case]
    params = parameters()
    lr, beta1, beta2, decay = map(tensor_lr, (0.05, 0.9, 0.999, 0.1))
    tensors = {"lr": lr, "betas": (beta1, beta2), "weight_decay": decay}
    optimizer = cls(params, capturable=True, **{choice: True}, **(options | tensors))
    oracle, graphs = Oracle(optimizer), []
    set_gradients(params, 0)
    oracle.step(lambda: graphs.append(captured(optimizer.step)))
    for seed, values in enumerate(((0.01, 0.9, 0.999, 0.3), (0.1, 0.8, 0.99, 0.0), (0.0, 0.95, 0.98, 0.2)), 1):
        for tensor, value in zip((lr, beta1, beta2, decay), values, strict=True):
            tensor.fill_(value)
        new_gradients(params, seed)
        oracle.step(graphs[0].replay)


@on_gpu
def test_a_graph_outlives_what_it_was_captured_from():
    """Eager steps, moved gradients and new plans in between leave it valid."""
    params = parameters()
    optimizer = AdaBelief(params, lr=tensor_lr(), capturable=True, fused=True)
    set_gradients(params, 0)
    graph, oracle = captured(optimizer.step), Oracle(optimizer)
    static = [p.grad for p in params]
    for p in params:
        oracle.states[p] = {name: array(x) for name, x in optimizer.state[p].items()} | {"step": 1}
    for seed in range(1, 7):
        set_gradients(params, seed)
        if seed % 2:
            oracle.step()
            continue
        for p, g in zip(params, static, strict=True):
            p.grad = g.copy_(p.grad)
        oracle.step(graph.replay)


@on_gpu
def test_training_as_one_graph_is_training():
    """Forward, backward and step; the gradients are made in the graph's own memory."""

    def start():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4)).cuda()
        return model, RangerAdaBelief(model.parameters(), lr=tensor_lr(0.01), k=2, capturable=True, fused=True)

    def step(model, optimizer, x):
        optimizer.zero_grad(set_to_none=True)
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    batches = torch.randn(8, 16, 32, device="cuda")
    model, optimizer = start()
    x = batches[0].clone()
    graph = captured(lambda: step(model, optimizer, x))
    eager, its_optimizer = start()
    step(eager, its_optimizer, batches[0])
    for i, batch in enumerate(batches):
        for each in (optimizer, its_optimizer):
            each.param_groups[0]["lr"].fill_(0.01 / (1 + i))
        x.copy_(batch)
        graph.replay()
        step(eager, its_optimizer, batch)
    for p, q in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@on_gpu
@pytest.mark.parametrize("lr", [0.05, "tensor"])
@pytest.mark.parametrize("case", CASES)
def test_a_capturable_step_waits_for_nothing(case, lr):
    cls, options = CASES[case]
    params = parameters()
    optimizer = cls(params, lr=tensor_lr() if lr == "tensor" else lr, capturable=True, fused=True, **options)
    optimizer.grad_scale, optimizer.found_inf = (torch.tensor(x, device="cuda") for x in (8.0, 0.0))
    for seed in range(4):  # the plan, its first use, and moved gradients
        set_gradients(params, seed)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if seed else "default")
        try:
            optimizer.step()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_and_foreach_agree(case, dtype):
    """Large tensors, those of odd sizes and those of other layouts among them: what the reference is too slow for."""
    cls, options = CASES[case]
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(1024, 1024), (1009, 997), (64, 32, 3, 3), (65537,), ()]
    values = [torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).to(dtype) for shape in shapes]
    values[2] = values[2].contiguous(memory_format=torch.channels_last)
    sides = [[torch.nn.Parameter(x.clone()) for x in values] for _ in range(2)]
    choices = ("fused", "foreach")
    optimizers = [cls(side, lr=0.05, **{choice: True}, **options) for side, choice in zip(sides, choices, strict=True)]
    for _ in range(5):
        for p, q in zip(*sides, strict=True):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator, device="cuda"))
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert not optimizers[0]._plan.parts[0].rest
    wide = torch.promote_types(dtype, torch.float32)
    for p, q in zip(*sides, strict=True):
        tolerance = 1e-4 if wide is torch.float32 else 1e-11
        limit = max(2 * torch.finfo(dtype).eps, tolerance)
        torch.testing.assert_close(p, q, rtol=limit, atol=limit)


@on_gpu
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_with_a_scaler(dtype, capturable):
    """autocast and GradScaler: unscaling is the step's, and a step of infinite gradients is skipped."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).cuda()
    plain = copy.deepcopy(model)
    optimizer = AdaBeliefW(model.parameters(), lr=1e-2, fused=True, capturable=capturable)
    its_optimizer = AdaBeliefW(plain.parameters(), lr=1e-2, foreach=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, growth_interval=10**6)
    for i in range(6):
        x, scale = torch.randn(64, 16, device="cuda"), scaler.get_scale()
        for each in (model, plain):
            each.zero_grad()
            with torch.autocast("cuda", dtype):
                loss = each(x).float().square().mean()
            (loss * scale if each is plain else scaler.scale(loss)).backward()
        if i == 3:
            next(model.parameters()).grad[0, 0] = float("inf")
        else:
            torch._foreach_div_([p.grad for p in plain.parameters()], scale)
            its_optimizer.step()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(float(entry["step"]) == 5 for entry in optimizer.state.values())
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=5e-4)  # a last place of float32 may tip one of half precision


@on_gpu
@pytest.mark.parametrize("choice", ["fused", "foreach"])
def test_steps_of_infinite_gradients_are_left_out_on_the_device(choice):
    """By a captured graph too, and the host waits for nothing."""
    params = parameters()
    optimizer = AdaBelief(params, lr=tensor_lr(), capturable=True, skip_nonfinite=True, **{choice: True})
    set_gradients(params, 0)
    oracle, graphs = Oracle(optimizer), []
    oracle.step(lambda: graphs.append(captured(optimizer.step)))
    for seed, step in enumerate((optimizer.step, graphs[0].replay), 1):
        new_gradients(params, seed)
        params[1].grad[3] = float("inf")
        before = [p.detach().clone() for p in params]
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert int(optimizer.skipped) == seed
        new_gradients(params, 10 + seed)
        oracle.step(step)


@on_gpu
@pytest.mark.parametrize("choice", ["fused", "foreach"])
def test_a_probe_sees_what_it_sees_on_a_cpu(choice):
    verdicts = []
    for device in ("cuda", "cpu"):
        weight = torch.nn.Parameter(torch.ones(300, device=device))
        optimizer = AdaBelief([weight], lr=1e-3, eps=1e-8, **{choice: True})
        with Probe(optimizer, every=4) as probe:
            for seed in range(8):
                weight.grad = 1e-4 * torch.randn(300, generator=torch.Generator().manual_seed(seed)).to(device)
                optimizer.step()
        verdicts.append((probe.verdict, probe.report()["all"]["ruled_by_eps"]))
    assert verdicts[0] == verdicts[1]


@on_gpu
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("choice", ["fused", "foreach", "default"])
def test_compiled_steps_are_the_reference_s(choice, capturable):
    params = parameters()[:-1]
    choices = {"fused": {"fused": True}, "foreach": {"foreach": True}, "default": {}}
    optimizer = AdaBelief(params, lr=tensor_lr(), capturable=capturable, **choices[choice])
    oracle, step = Oracle(optimizer), torch.compile(optimizer.step)
    for seed in range(3):
        set_gradients(params, seed)
        optimizer.param_groups[0]["lr"].fill_(0.05 / (1 + seed))
        oracle.step(step)


@pytest.mark.parametrize("lr", [0.05, "tensor"])
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_foreach_and_the_loop_mix_no_devices(case, foreach, lr):
    """On a GPU that need not be there: types, shapes and devices as they would be, and no values."""
    cls, options = CASES[case]
    with FakeTensorMode():
        params = [torch.nn.Parameter(torch.ones(shape, device="cuda")) for shape in [(3, 5), (7,), (2, 3, 3, 3)]]
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer = cls(params, capturable=True, foreach=foreach, **options)
        (group,) = optimizer.param_groups
        if lr == "tensor":
            group["weight_decay"], *group["betas"] = (torch.ones((), device="cuda") for _ in range(3))
        group["lr"] = torch.ones((), device="cuda") if lr == "tensor" else lr
        optimizer.step()
    assert all(x.device.type == "cuda" for entry in optimizer.state.values() for x in entry.values())
