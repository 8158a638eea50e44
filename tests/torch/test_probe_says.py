"""What a probe says, to whom, and of what: verdicts, notes, names, outputs, errors."""

from __future__ import annotations

import io
import json
import math
import warnings
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, Probe
from adabelief.torch.probe import measure, show
from tests.torch.cases import parameter, skip_without_kernel
from tests.torch.probing import assert_same, gradients, probed, small_model, train


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
        ({"jsonl": 3}, "jsonl must be a path, text or pathlib.Path, got 3"),
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
    with pytest.raises(TypeError, match=r"named_parameters must be pairs .* got Parameter; pass model.named_param"):
        Probe(optimizer, named_parameters=[p])
    with pytest.raises(TypeError, match=r"named_parameters must be pairs .* got int; pass model.named_param"):
        Probe(optimizer, named_parameters=3)
    with pytest.raises(FileNotFoundError, match=r"jsonl='none/probe.jsonl': there is no folder none; make it"):
        Probe(optimizer, jsonl="none/probe.jsonl")
    with Probe(optimizer) as probe, pytest.raises(RuntimeError, match="already entered; leave it first"):
        probe.__enter__()
    assert probe.report() == {}
    assert "0 steps so far, and every=100" in probe.verdict
    with pytest.raises(ValueError, match="nothing was probed yet"):
        probe.picture()
    p.grad = None
    with Probe(optimizer, 1) as probe:
        optimizer.step()
    assert probe.verdict == "nothing was probed yet: in 1 steps no parameter had a gradient; call backward first."


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
    console = Console(width=80, file=io.StringIO())
    console.print(probe.table())
    shown = console.file.getvalue()
    assert "momentum SGD" in shown
    assert "0.weight" in shown
    assert "0.0032" in shown
    assert "…" not in shown, "every number is whole"
    figure = probe.picture(tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 1000
    assert all(math.log10(x).is_integer() for axes in figure.axes for x in axes.get_xlim())
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
