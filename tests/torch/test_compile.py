"""torch.compile: the same numbers, one graph, and no recompilation when lr changes."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

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
