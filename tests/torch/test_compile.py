"""torch.compile: the same numbers, one graph, and no recompilation when lr changes."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch.optim import lr_scheduler

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch
from tests.oracle import Oracle, set_gradients

CASES = {
    "AdaBelief": (AdaBelief, {"weight_decay": 0.1, "max_update": 0.5}),
    "foreach": (AdaBelief, {"foreach": True, "weight_decay": 0.1, "max_update": 0.5}),
    "loop": (AdaBelief, {"foreach": False, "rectify": True}),
    "AdaBeliefW": (AdaBeliefW, {"amsgrad": True, "rectify": True}),
    "Ranger": (RangerAdaBelief, {"weight_decay": 0.1, "k": 3}),
}


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("lr", [torch.tensor(0.01), 0.01], ids=["tensor", "float"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_step(case, lr):
    """By inductor; of the second graph, which a float needs, one shows the code, and the others the graph alone."""
    torch._dynamo.reset()
    counters.clear()
    cls, options = CASES[case]
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in [(3, 4), (5,), (), (2, 3, 3, 3)]]
    params.append(torch.nn.Parameter(params[0].detach().to(torch.bfloat16)))
    optimizer = cls(params, lr=lr if isinstance(lr, float) else lr.clone(), **options)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        if isinstance(lr, float) and case != "foreach":
            return graph
        return torch._inductor.compile(graph, inputs)

    compiled = torch.compile(optimizer.step, fullgraph=True, backend=backend)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    oracle = Oracle(optimizer)
    set_gradients(params, 0)
    gradients = [p.grad for p in params]
    for seed in range(9):
        set_gradients(params, seed)
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.copy_(p.grad)
        oracle.step(compiled)
        scheduler.step()
    # A float lr is recompiled once, when it first changes, as in torch's own optimizers; a tensor never.
    assert counters["stats"]["unique_graphs"] == (2 if isinstance(lr, float) else 1)
    through_kernel = "foreach" not in options and not launch.unserved("cpu")
    assert all(("adabelief.update" in str(graph.graph)) == through_kernel for graph in graphs)


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


SCHEDULES = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)),
}
STEPS = 12
"""More than torch's limit of graphs for one function."""


def trained(cls, schedule, tensor, whole):
    """Trains with a compiled step, or one compiled function for all of a training step; graphs, and weights."""
    torch._dynamo.reset()
    counters.clear()
    model, x = network(), torch.linspace(-1, 1, 12).reshape(4, 3)
    optimizer = cls(model.parameters(), lr=torch.tensor(0.01) if tensor else 0.01)
    step = optimizer.step  # before a scheduler wraps it, which no compiler follows

    def train():
        loss = model(x).square().mean()
        loss.backward()
        if whole:
            step()
        return loss.detach()

    # no compiler follows a backward within a function, and torch's own step breaks its graph before it begins
    fullgraph = not whole and cls is not torch.optim.AdamW
    compiled = torch.compile(train if whole else step, backend="eager", fullgraph=fullgraph)
    scheduler = SCHEDULES[schedule](optimizer)
    for _ in range(STEPS):
        loss = compiled() if whole else train()
        if not whole:
            compiled()
        optimizer.zero_grad()
        scheduler.step(*([loss] if schedule == "ReduceLROnPlateau" else []))
    return counters["stats"]["unique_graphs"], [p.detach() for p in model.parameters()]


def trained_eagerly(schedule):
    """The same without a compiler."""
    model, x = network(), torch.linspace(-1, 1, 12).reshape(4, 3)
    optimizer = AdaBeliefW(model.parameters(), lr=0.01)
    scheduler = SCHEDULES[schedule](optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step(*([loss.detach()] if schedule == "ReduceLROnPlateau" else []))
    return [p.detach() for p in model.parameters()]


GRAPHS = {
    (name, part, tensor): 1 + (not tensor) for name in SCHEDULES for part in ("step",) for tensor in (False, True)
}
GRAPHS |= {("OneCycleLR", "step", True): 2}  # its momentum is a number, which is recompiled once as well
GRAPHS |= {("StepLR", "training", True): 2, ("OneCycleLR", "training", False): 3}  # one is forward's


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize(("schedule", "part", "tensor"), GRAPHS)
def test_schedules_make_no_more_graphs_than_for_adamw(schedule, part, tensor):
    ours, weights = trained(AdaBeliefW, schedule, tensor, part == "training")
    theirs, _ = trained(torch.optim.AdamW, schedule, tensor, part == "training")
    assert ours <= theirs
    assert ours <= GRAPHS[schedule, part, tensor]
    for found, expected in zip(weights, trained_eagerly(schedule), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_one_graph_serves_all_tensors_of_hyperparameters(cls):
    """They are written to, as whoever captures a CUDA graph has to; the steps are the reference's."""
    torch._dynamo.reset()
    counters.clear()
    lr, beta1, beta2, decay = map(torch.tensor, (0.01, 0.9, 0.999, 0.1))
    p = torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3))
    optimizer = cls([p], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    step, oracle = torch.compile(optimizer.step, fullgraph=True, backend="eager"), Oracle(optimizer)
    set_gradients([p], 0)
    gradient = p.grad
    for seed in range(10):
        set_gradients([p], seed)
        p.grad = gradient.copy_(p.grad)
        for tensor, value in ((lr, 0.01 / (1 + seed)), (beta1, 0.95 - 0.01 * seed), (decay, 0.1 * seed)):
            tensor.fill_(value)
        oracle.step(step if seed < 7 else None)  # and those of an eager step
    assert counters["stats"]["unique_graphs"] == 1
