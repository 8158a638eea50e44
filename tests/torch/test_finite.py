"""`skip_nonfinite`: a step with inf or nan in its gradients changes nothing, and is counted."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.rule import coefficients
from adabelief.torch import finite
from adabelief.torch.update import Options, Recipe, Tensors, update
from tests.oracle import Oracle, set_gradients
from tests.torch.cases import IMPLEMENTATIONS, parameter, skip_without_kernel

BAD = (math.nan, math.inf, -math.inf)
CLASSES = [AdaBelief, AdaBeliefW, RangerAdaBelief]


def several():
    """Of several types and layouts, one without elements and one that will have no gradient."""
    params = [parameter(5, 3, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]
    return [*params, parameter(4, dtype=torch.complex64), parameter(0, 2), nn.Parameter(torch.ones(3, 2).t())]


def everything(optimizer):
    """Weights and state, as they are now."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy([params, [dict(optimizer.state[p]) for p in params]])


def same(now, then):
    (params, states), (params_then, states_then) = now, then
    assert all(torch.equal(p, q) for p, q in zip(params, params_then, strict=True))
    for state, before in zip(states, states_then, strict=True):
        assert state.keys() == before.keys()
        assert all(torch.equal(x, before[name]) for name, x in state.items())
    return True


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "capturable"])
@pytest.mark.parametrize("cls", CLASSES)
def test_a_bad_step_changes_nothing(cls, implementation):
    """And good ones are as ever: each is held to the reference."""
    options = IMPLEMENTATIONS.get(implementation, {implementation: True})
    skip_without_kernel(options)
    params = several()
    optimizer = cls(params, lr=1e-2, weight_decay=0.1, skip_nonfinite=True, **options)
    oracle, bad = Oracle(optimizer), 0
    for seed in range(12):
        set_gradients(params, seed)
        if seed % 4 == 0:
            oracle.step()
            continue
        before, which = everything(optimizer), seed % 5
        params[which].grad.view(-1)[seed % 3] = BAD[seed % 4 - 1]
        optimizer.step()
        bad += 1
        assert same(everything(optimizer), before)
        assert optimizer.skipped == bad
    assert isinstance(optimizer.skipped, int)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_what_is_found(dtype, bad):
    largest = torch.finfo(dtype).max
    x = torch.full((1001,), largest, dtype=dtype)
    x[::2] *= -1
    assert not finite.nonfinite([x, -x])  # although their sums, squares and moduli are infinite
    assert not finite.nonfinite([])
    for i in (0, 500, 1000):
        y = x.clone()
        (torch.view_as_real(y)[:, 1] if y.is_complex() else y)[i] = bad
        assert finite.nonfinite([x, y]) == finite.nonfinite([y.conj(), x]) == 1.0


def test_one_decision_for_the_groups_that_asked():
    params = [parameter(4, seed=seed) for seed in range(3)]
    groups = [{"params": [p], "skip_nonfinite": i != 1} for i, p in enumerate(params)]
    optimizer = AdaBelief(groups, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    before = everything(optimizer)
    params[2].grad[1] = math.nan
    optimizer.step()
    now = everything(optimizer)
    assert [torch.equal(p, q) for p, q in zip(now[0], before[0], strict=True)] == [True, False, True]
    assert [float(state["step"]) for state in now[1]] == [1.0, 2.0, 1.0]
    assert optimizer.skipped == 1
    params[2].grad[1], params[1].grad[0] = 1.0, math.nan  # what others have is no reason
    optimizer.step()
    assert optimizer.skipped == 1
    assert params[1][0].isnan()
    assert params[0].isfinite().all()


def test_the_count_is_saved():
    p = parameter(3)
    optimizer = AdaBelief([p], skip_nonfinite=True)
    p.grad = torch.full((3,), math.nan)
    optimizer.step()
    optimizer.step()
    other = AdaBelief([p], skip_nonfinite=True)
    assert other.skipped == 0
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copies = [other, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    optimizer.step()
    assert [each.skipped for each in copies] == [2, 2, 2]
    assert optimizer.skipped == 3
    older = optimizer.state_dict()
    del older["param_groups"][0]["skip_nonfinite"], older["param_groups"][0]["skipped"]
    other.load_state_dict(older)
    assert other.param_groups[0]["skip_nonfinite"]
    plain = AdaBelief([p])
    assert plain.skipped == 0
    assert "skipped" not in plain.state_dict()["param_groups"][0]


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_and_it_agree(fused):
    """With a scale left to the step, both look at gradients that are still scaled; without, the scaler skips alone."""
    skip_without_kernel({"fused": fused})
    model = nn.Linear(3, 2)
    optimizer = AdaBelief(model.parameters(), lr=0.1, fused=fused, skip_nonfinite=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, x in enumerate(torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))):
        optimizer.zero_grad()
        scaler.scale((model(x) ** 2).mean() * (math.inf if i == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert float(optimizer.state[model.weight]["step"]) == 4
    assert optimizer.skipped == (1 if fused else 0)
    assert scaler.get_scale() == 512.0


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(ValueError, match=r"skip_nonfinite=True has no derivative.*differentiable=False"):
        AdaBelief([parameter(3)], skip_nonfinite=True, differentiable=True)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("found", [0.0, 1.0])
def test_lists_leave_the_decision_to_the_device(found, foreach):
    """As on GPUs without the kernel: everything is computed, and what was there is put back."""
    params = [parameter(4, 3), parameter(5, dtype=torch.bfloat16)]
    set_gradients(params, 0)
    grads = [p.grad.fill_(math.inf) if found else p.grad for p in params]
    steps, zeros = (
        [torch.zeros(()) for _ in params],
        [[torch.zeros_like(p, dtype=torch.float32) for p in params] for _ in "mss"],
    )
    slow = [p.detach().float() for p in params]
    tensors = Tensors(
        [p.detach() for p in params], grads, steps, dict(zip(("m", "s", "s_max"), zeros, strict=True), slow=slow)
    )
    before = copy.deepcopy(tensors)
    recipe = Recipe(partial(coefficients, lr=0.1), k=1, skip=torch.tensor(found))
    update(tensors, recipe, Options(), foreach=foreach, traced=True)
    for xs, ys in zip(
        (tensors.params, steps, *zeros, slow), (before.params, before.steps, *before.columns.values()), strict=True
    ):
        assert all(torch.equal(x, y) == bool(found) for x, y in zip(xs, ys, strict=True))


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about its environment
@pytest.mark.parametrize("options", [{}, {"foreach": True}], ids=["chosen", "foreach"])
def test_compiled(options):
    """One graph, whatever the gradients hold."""
    torch._dynamo.reset()
    params = [parameter(5, 3), parameter(4, dtype=torch.bfloat16), parameter(2)]
    optimizer = RangerAdaBelief(params, lr=torch.tensor(1e-2), k=2, skip_nonfinite=True, **options)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(optimizer.step, fullgraph=True, backend=backend)
    oracle = Oracle(optimizer)
    set_gradients(params, 0)
    gradients = [p.grad for p in params]
    for seed in range(8):
        set_gradients(params, seed)
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.copy_(p.grad)
        if seed % 3:
            oracle.step(compiled)
            continue
        before = everything(optimizer)
        params[seed % 2].grad[1] = BAD[seed // 3]
        compiled()
        if seed:  # the first one begins the state
            assert same(everything(optimizer), before)
    assert optimizer.skipped == 3
    assert len(graphs) == 1
