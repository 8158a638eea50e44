"""The probe: its numbers against a computation by hand, all implementations, compiled and distributed steps."""

from __future__ import annotations

import io
import json
import math
import warnings
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from adabelief import AdaBelief, AdaBeliefW, Probe, RangerAdaBelief
from adabelief.torch.probe import measure, show
from adabelief.torch.probe.sample import _spread
from tests.torch.cases import IMPLEMENTATIONS, parameter, skip_without_kernel

STEPS, LR, BETAS = 7, 0.01, (0.9, 0.99)
SHAPES = [(5, 7), (11,), (3, 2, 4)]

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


def gradients(params, seed, scale=1e-2):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(p.dtype)


def probed(cls, options, *, dtype=torch.float64, every=STEPS, steps=STEPS, step=None, **arguments):
    """An optimizer's parameters before its last step, and its probe."""
    params = [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]
    optimizer = cls(params, lr=LR, **({"betas": BETAS} | options))
    step = step(optimizer) if step else optimizer.step
    with Probe(optimizer, every, **arguments) as probe:
        for seed in range(steps):
            gradients(params, seed)
            before = [p.detach().clone().double().numpy() for p in params]
            step()
    return optimizer, before, probe


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


def flat(x, path=()):
    if isinstance(x, dict):
        return {key: value for name in x for key, value in flat(x[name], (*path, name)).items()}
    return {path: x}


def assert_same(report, expected, rel=1e-4):
    report, expected = flat(report), flat(expected)
    assert report.keys() == expected.keys()
    for key, value in expected.items():
        if "histogram" not in key:
            assert report[key] == (pytest.approx(value, rel=rel) if isinstance(value, float) else value), key


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


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def train(model, optimizer, steps=60, clip=None):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 8, generator=generator)
        optimizer.zero_grad()
        (1e-2 * (model(x) - x[:, :1]) ** 2).mean().backward()
        if clip:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()


@pytest.mark.parametrize(
    ("cls", "eps", "says", "ruled"),
    [
        (AdaBelief, 1e-8, "this is momentum SGD; eps <= 1e-1", (0.9, 1.0)),
        (AdaBelief, 1e-16, "this is adaptive; eps >= 1e-", (0.0, 0.05)),
        (torch.optim.AdamW, 1.0, "this is momentum SGD; eps <= 1e-", (0.9, 1.0)),
        (torch.optim.AdamW, 1e-8, "this is adaptive; eps >= 1e-", (0.0, 0.05)),
    ],
)
def test_verdict(cls, eps, says, ruled):
    model = small_model()
    optimizer = cls(model.parameters(), eps=eps)
    with Probe(optimizer, 20) as probe:
        train(model, optimizer)
    assert says in probe.verdict
    assert "\n" not in probe.verdict
    low, high = ruled
    assert low <= probe.report()["all"]["ruled_by_eps"] <= high


def test_what_the_verdict_recommends_is_so():
    """Where eps has drowned what the gradients say of s, too: in float32 nothing is left of it there."""
    advised = {}
    for eps in (1e-4, 1e-8, 1e-20):
        model = small_model()
        optimizer = AdaBelief(model.parameters(), eps=eps, lr=1e-6)
        with Probe(optimizer, 60) as probe:
            train(model, optimizer)
        advised[eps] = probe.report()["all"]["adaptive_eps"]["50"]
    assert advised[1e-8] == pytest.approx(advised[1e-20], rel=0.5)
    assert advised[1e-4] == pytest.approx(advised[1e-20], rel=0.9)
    assert advised[1e-20] < 1e-8


@pytest.mark.parametrize(
    ("stats", "line"),
    [
        ((0.73, 3e-13, 1e-9), "73 % of the elements are ruled by eps: this is momentum SGD; eps <= 1e-13 would be"),
        ((0.2, 3e-13, 1e-9), "20 % of the elements are ruled by eps: this is between momentum SGD and adaptive; eps"),
        ((0.004, 3e-13, 3e-9), "0.4 % of the elements are ruled by eps: this is adaptive; eps >= 1e-8 would be"),
        ((0.99999, 0.0, 1e-9), "99.99 % of the elements are ruled by eps: this is momentum SGD; eps <= 0 would be"),
    ],
)
def test_lines(stats, line):
    ruled, ninety, one = stats
    found = {"ruled_by_eps": ruled, "adaptive": True, "adaptive_eps": {"90": ninety, "1": one}}
    assert measure.verdict(found).startswith(line)


def test_rectified_steps_that_are_not_adaptive_yet():
    *_, probe = probed(AdaBelief, {"rectify": True}, every=3, steps=3)
    assert "not adaptive yet" in probe.verdict


def test_beta1_of_0_has_no_residual():
    *_, probe = probed(AdaBelief, {"betas": (0.0, 0.99), "eps": 1e-6})
    stats = probe.report()["all"]
    assert set(stats["residual"].values()) == {None}
    assert stats["constant"] == 0
    assert 0 <= stats["ruled_by_eps"] <= 1


GRADIENTS = {
    "thresholded": (lambda i, x: x.clamp(-0.5, 0.5), "cut element by element at ±0.5"),
    "constant": (lambda i, x: torch.linspace(-1, 1, x.numel()).view(x.shape), "the same in every step"),
    "zero": (lambda i, x: torch.zeros_like(x), "always been 0"),
    "usual": (lambda i, x: x, None),
    "bf16": (lambda i, x: x.bfloat16().float(), None),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_that_no_eps_helps_are_named_once(kind):
    make, text = GRADIENTS[kind]
    p = parameter(40, 50)
    optimizer = AdaBelief([("fc.weight", p)])
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Probe(optimizer, 60) as probe:
            for i in range(180):
                p.grad = make(i, torch.randn(p.shape, generator=generator))
                optimizer.step()
    said = [str(w.message) for w in caught]
    assert len(said) == (text is not None)
    assert all(text in line and "fc.weight" in line for line in said)
    assert len(probe.report()["notes"]) == len(said)
    report = probe.report()["all"]
    assert {name for name in ("thresholded", "constant", "zero") if report[name]} <= {kind}
    assert report["zero"] == (kind == "zero")


def test_what_is_not_finite_is_counted_apart():
    p = parameter(8)
    optimizer = AdaBelief([p])
    with Probe(optimizer, 1) as probe:
        p.grad = torch.tensor([1.0, math.nan, math.inf, 1, 1, 2, 3, 4])
        optimizer.step()
    stats = probe.report()["all"]
    assert stats["not_finite"] == 0.25
    assert stats["denominator"]["99"] is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_types(dtype):
    params = [nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype))]
    optimizer = AdaBelief(params)
    with Probe(optimizer, 1) as probe:
        params[0].grad = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(dtype).t()
        optimizer.step()
    stats = probe.report()["all"]
    assert stats["elements"] == 30 * (1 + dtype.is_complex)
    # After one step m = (1 − beta1) · g.
    assert stats["residual"]["50"] == pytest.approx(0.9, rel=1e-2)


def test_a_scaled_gradient_is_seen_without_its_scale():
    skip_without_kernel({"fused": True})
    reports = []
    for scale in (None, 1024.0):
        p = parameter(30)
        optimizer = AdaBelief([p], fused=True)
        if scale:
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
        with Probe(optimizer, 1) as probe:
            gradients([p], 0, scale=scale or 1.0)
            optimizer.step()
        reports.append(probe.report())
    assert_same(reports[1], reports[0], rel=1e-6)


def test_names():
    model = small_model()
    given = dict(model.named_parameters())
    for params, arguments, names in (
        (model.parameters(), {}, ["0.0", "0.1", "0.2", "0.3"]),
        (model.parameters(), {"named_parameters": model.named_parameters()}, list(given)),
        (model.parameters(), {"named_parameters": {f"_orig_mod.{k}": p for k, p in given.items()}}, list(given)),
        (model.named_parameters(), {}, list(given)),
    ):
        optimizer = AdaBelief(params)
        with Probe(optimizer, 1, **arguments) as probe:
            train(model, optimizer, steps=1)
        assert list(probe.report()["layers"]) == names
    optimizer = AdaBelief(
        [{"params": [given["0.weight"]], "name": "first", "eps": 1e-8}, {"params": [given["2.weight"]]}]
    )
    with Probe(optimizer, 1) as probe:
        train(model, optimizer, steps=1)
    assert list(probe.report()["groups"]) == ["first", "1"]
    assert [stats["eps"] for stats in probe.report()["groups"].values()] == [1e-8, 1e-16]


def test_nothing_is_left_behind_and_nothing_is_changed():
    models = small_model(), small_model()
    optimizers = [AdaBelief(model.parameters()) for model in models]
    state = torch.get_rng_state()
    with Probe(optimizers[0], 2) as probe:
        train(models[0], optimizers[0], steps=5)
    train(models[1], optimizers[1], steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)
    assert not optimizers[0]._optimizer_step_post_hooks
    train(models[0], optimizers[0], steps=5)
    assert probe.steps == 5
    with probe:  # once more
        train(models[0], optimizers[0], steps=5)
    assert probe.report()["step"] == 15


def test_bad_input():
    p = parameter(2)
    optimizer = AdaBelief([p])
    for arguments, message in (
        ({"every": 0}, "every must be a whole number, at least 1, got 0"),
        ({"every": 2.5}, "every must be a whole number, at least 1, got 2.5"),
        ({"sample": 0}, "sample must be a whole number, at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Probe(optimizer, **arguments)
    with pytest.raises(TypeError, match=r"optimizer must be AdaBelief.* got SGD; pass one of these"):
        Probe(torch.optim.SGD([p]))

    class Wrapped:
        def __init__(self):
            self.optimizer = optimizer

    with pytest.raises(TypeError, match=r"got Wrapped; pass its \.optimizer"):
        Probe(Wrapped())
    with pytest.raises(TypeError, match="writer must have add_scalar, got 'runs'"):
        Probe(optimizer, writer="runs")
    with Probe(optimizer) as probe, pytest.raises(RuntimeError, match="already entered; leave it first"):
        probe.__enter__()
    assert probe.report() == {}
    assert "0 steps so far, and every=100" in probe.verdict
    with pytest.raises(ValueError, match="nothing was probed yet"):
        probe.picture()


def test_outputs(tmp_path):
    from rich.console import Console

    writer, written = Mock(spec=["add_scalar"]), []  # of TensorBoard's SummaryWriter
    writer.add_scalar = lambda *arguments: written.append(arguments)
    model, file = small_model(), tmp_path / "probe.jsonl"
    optimizer = AdaBelief(model.parameters(), eps=1e-8)
    with Probe(optimizer, 20, named_parameters=model.named_parameters(), jsonl=file, writer=writer) as probe:
        train(model, optimizer)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40, 60]
    assert records[-1] == probe.report()
    names = {(name, step) for name, _, step in written}
    assert {("probe/ruled_by_eps/layers/0.weight", 20), ("probe/floor/groups/0", 60)} <= names
    assert len(names) == len(written)
    console = Console(width=200, file=io.StringIO())
    console.print(probe.table())
    shown = console.file.getvalue()
    assert "momentum SGD" in shown
    assert "0.weight" in shown
    figure = probe.picture(tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 1000
    floors = [line.get_xdata()[0] for axes in figure.axes for line in axes.lines]
    assert floors == pytest.approx([math.sqrt(1e-8 / 1e-3)])
    shares = records[-1]["all"]["histogram"]["denominator"]["shares"]
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_composer_reads_the_optimizer():
    """As its OptimizerMonitor does: after the step, with the gradients still there."""
    model = small_model()
    optimizer = AdaBelief(model.parameters(), eps=1e-8)
    metrics = {"kept": 1.0}
    for name, p in model.named_parameters():
        metrics = optimizer.report_per_parameter_metrics(p, name, metrics)
    assert metrics == {"kept": 1.0}  # nothing was stepped yet
    with Probe(optimizer, 60, named_parameters=model.named_parameters()) as probe:
        train(model, optimizer)
    for name, p in model.named_parameters():
        metrics = optimizer.report_per_parameter_metrics(p, name, metrics)
        assert metrics[f"ruled_by_eps/{name}"] == probe.report()["layers"][name]["ruled_by_eps"]
    assert metrics["kept"] == 1.0
    assert len(metrics) == 1 + 4 * len(show.curves(probe.report()["all"]))
