"""The probe's numbers against a computation by hand, in all implementations, compiled and distributed steps."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from adabelief import AdaBelief, AdaBeliefW, Probe, RangerAdaBelief
from adabelief.torch.probe import measure
from adabelief.torch.probe.sample import _spread
from tests.torch.cases import IMPLEMENTATIONS, parameter, skip_without_kernel
from tests.torch.probing import BETAS, LR, SHAPES, STEPS, assert_same, gradients, probed

RULES = {
    "plain": (AdaBelief, {"eps": 1e-6}),
    "eps that nobody sees": (AdaBelief, {"eps": 1e-16}),
    "coupled decay": (AdaBelief, {"eps": 1e-6, "weight_decay": 0.1}),
    "decoupled decay": (AdaBeliefW, {"eps": 1e-6}),
    "amsgrad": (AdaBelief, {"eps": 1e-6, "amsgrad": True}),
    "rectify": (AdaBelief, {"eps": 1e-6, "rectify": True}),
    "maximize": (AdaBelief, {"eps": 1e-6, "maximize": True}),
    "Ranger": (RangerAdaBelief, {"eps": 1e-6, "betas": BETAS}),
    "AdamW": (torch.optim.AdamW, {"eps": 1e-3}),
    "Adam": (torch.optim.Adam, {"eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}),
}


def quantile(x, q):
    return np.quantile(x, q, method="inverted_cdf")


def by_hand(optimizer, p, before):
    """What the documentation defines, from the state, in as few steps as there are."""
    group, state = optimizer.param_groups[0], optimizer.state[p]
    adam, ranger = isinstance(optimizer, torch.optim.Adam), isinstance(optimizer, RangerAdaBelief)
    (beta1, beta2), eps, t = group["betas"], group["eps"], int(state["step"])
    m = state["exp_avg"].double().numpy()
    second = "exp_avg_sq" if adam else "exp_avg_var"
    s = state[f"max_{second}" if group["amsgrad"] else second].double().numpy()
    g = p.grad.double().numpy() * (-1 if group["maximize"] else 1)
    if not (isinstance(optimizer, (AdaBeliefW, RangerAdaBelief, torch.optim.AdamW))):
        g = g + group["weight_decay"] * before
    if ranger and g.ndim > 1:
        g = g - g.mean(tuple(range(1, g.ndim)), keepdims=True)
    s_hat = s / (1 - beta2**t)
    # Ranger adds eps from its first adaptive step on, the sixth.
    entered = sum(beta2**i for i in range(t - 5 if ranger else t))
    within = 0.0 if adam else eps * entered / (1 - beta2**t)
    v, denominator = s_hat - within, np.sqrt(s_hat) + eps
    floor = eps if adam else math.sqrt(within)
    return {
        "ruled_by_eps": np.mean(np.sqrt(v) < floor),
        "floor": floor,
        "denominator": quantile(denominator, 0.5),
        "residual": quantile(np.abs(g - m) / np.abs(g), 0.25),
        "step": quantile(np.abs(m) / (1 - beta1**t) / denominator, 0.99),
        "adaptive_eps": quantile(np.sqrt(v) if adam else v * eps / within, 0.1),
    }


@pytest.mark.parametrize("rule", RULES)
def test_numbers_are_those_computed_by_hand(rule):
    cls, options = RULES[rule]
    optimizer, before, probe = probed(cls, options)
    report = probe.report()
    assert json.loads(json.dumps(report)) == report
    assert report["step"] == STEPS
    for i, p in enumerate(optimizer.param_groups[0]["params"]):
        stats, expected = report["layers"][f"0.{i}"], by_hand(optimizer, p, before[i])
        assert stats["elements"] == stats["sampled"] == p.numel()
        found = {
            **{name: stats[name] for name in ("ruled_by_eps", "floor")},
            "denominator": stats["denominator"]["50"],
            "residual": stats["residual"]["25"],
            "step": stats["step"]["99"],
            "adaptive_eps": stats["adaptive_eps"]["90"],
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-6), (name, i)
        decay = 1 - LR * optimizer.param_groups[0]["weight_decay"]
        decoupled = isinstance(optimizer, (AdaBeliefW, RangerAdaBelief, torch.optim.AdamW))
        now = p.detach().numpy()
        update = now - before[i] * (decay if decoupled else 1)
        ratio = np.linalg.norm(update) / np.linalg.norm(now)
        assert stats["update_to_weight"] == pytest.approx(ratio, rel=1e-6), i


def test_a_group_weighs_its_layers_by_their_elements():
    """Of a large tensor every element stands for many."""
    x = np.array([1.0, 2.0, 3.0])
    assert measure.quantile(x, np.array([1.0, 1.0, 8.0]), [0.1, 0.2, 0.21]) == [1.0, 2.0, 3.0]
    params = [parameter(4, dtype=torch.float64), parameter(400, dtype=torch.float64)]
    optimizer = AdaBelief(params, eps=1e-8)
    with Probe(optimizer, 1, sample=4) as probe:
        params[0].grad, params[1].grad = torch.full((4,), 1.0).double(), torch.full((400,), 1e-9).double()
        optimizer.step()
    report = probe.report()
    assert report["all"]["sampled"] == 8
    assert report["all"]["ruled_by_eps"] == pytest.approx(400 / 404)
    assert [stats["ruled_by_eps"] for stats in report["layers"].values()] == [0, 1]


@pytest.mark.parametrize("size", [1, 1000, 1025, 1500, 10**6, 10**10])
def test_samples_are_spread_and_the_same_every_time(size):
    sample = _spread(size, 1024)
    assert np.array_equal(sample, _spread(size, 1024))
    assert len(set(sample.tolist())) == len(sample) > 0.7 * min(size, 1024)
    assert 0 <= sample.min() <= sample.max() < size
    if size > 1024:  # no stretch of three times the mean distance without one
        assert np.diff(sample).max() < 3 * size / 1024


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_all_implementations_agree(cls, implementation):
    skip_without_kernel(IMPLEMENTATIONS[implementation])
    options = {"eps": 1e-6, "betas": BETAS}
    *_, expected = probed(cls, options | {"foreach": False})
    *_, probe = probed(cls, options | IMPLEMENTATIONS[implementation], dtype=torch.float32)
    assert_same(probe.report(), expected.report())


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("implementation", ["default", "foreach", "loop"])
def test_compiled_steps_are_seen_in_one_graph(implementation):
    """Compiled before the probe is there; it makes one more graph, and leaves the first as it was."""
    torch._dynamo.reset()
    counters.clear()
    reports = []
    for compiled in (False, True):
        params = [parameter(*shape, seed=i) for i, shape in enumerate(SHAPES)]
        optimizer = AdaBelief(params, eps=1e-6, lr=torch.tensor(LR), **IMPLEMENTATIONS[implementation])
        step = optimizer.step
        if compiled:
            step = torch.compile(step, fullgraph=True, backend="aot_eager")
        for seed in range(9):
            gradients(params, seed)
            if seed == 1:
                probe = Probe(optimizer, every=3).__enter__()
            if seed == 8:
                probe.__exit__(None)
            step()
        assert probe.steps == 7
        reports.append(probe.report())
    assert reports[1]["step"] == 7
    assert_same(reports[1], reports[0])
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_step_is_seen():
    torch._dynamo.reset()
    model = nn.Linear(6, 4)
    optimizer = AdaBelief(model.parameters())

    @torch.compile(backend="aot_eager")
    def step(x):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()

    with Probe(optimizer, 2, named_parameters=model.named_parameters()) as probe:
        for seed in range(5):
            step(torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)))
    assert (probe.steps, probe.report()["step"]) == (5, 4)
    assert list(probe.report()["layers"]) == ["weight", "bias"]


def distributed(rank: int, mesh: torch.distributed.DeviceMesh, folder: str) -> None:
    """What one of two processes checks (in test_distributed.py, which starts them): together they see the whole."""
    from torch.distributed.fsdp import fully_shard

    def run(options, *, parted, probes=True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 1), nn.Linear(1, 90), nn.Linear(90, 1)).double()
        if parted:
            fully_shard(model, mesh=mesh)
        optimizer, file = AdaBelief(model.parameters(), lr=LR, eps=1e-6, **options), Path(folder, f"{len(seen)}.jsonl")
        probe = Probe(
            optimizer, 2, sample=64, named_parameters=model.named_parameters(), jsonl=file if parted else None
        )
        with probe if probes else nullcontext():
            for seed in range(5):
                x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                optimizer.zero_grad()
                (model(x) ** 2).mean().backward()
                optimizer.step()
        seen.append(probe)
        torch.distributed.barrier()
        return probe.report(), [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    seen: list[Probe] = []
    expected, _ = run({}, parted=False)
    for options in ({}, {"foreach": True}):
        report, written = run(options, parted=True)
        assert report["processes"] == [2, 2], report["processes"]
        assert_same({**report, "processes": [1, 1]}, expected, rel=1e-9)
        assert [record["processes"] for record in written] == [[2, 2], [2, 2]], written
        assert_same(written[-1], report)
        torch.distributed.barrier()
    report, written = run({"foreach": False}, parted=True, probes=rank == 0)  # nobody waits for the other
    assert report.get("processes") == ([1, 2] if rank == 0 else None)
    assert len(written) == 2
