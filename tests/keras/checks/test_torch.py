"""What only the PyTorch backend has: lists through the update of `adabelief.torch`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.keras.checks.common import QUIET, Reference, array, gradients, new_variables, only

pytestmark = [QUIET, only["torch"]]


def test_stateless_apply_leaves_its_arguments():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2)
    optimizer.build(variables)

    def apply(grads, variables):
        everything = (*variables, *optimizer.variables)
        before = [array(v) for v in everything]
        state = [v.value for v in optimizer.variables]
        news = optimizer.stateless_apply(state, grads, [v.value for v in variables])
        for v, x in zip(everything, before, strict=True):
            assert np.array_equal(array(v), x)
        for v, x in zip(everything, [*news[0], *news[1]], strict=True):
            v.assign(x)

    reference = Reference(optimizer, variables)
    for t in range(4):
        reference.step(gradients(t), apply=apply)


def test_lists_go_through_one_update(monkeypatch):
    from adabelief.keras import torch_backend
    from adabelief.torch.launch import unserved

    variables = new_variables()
    optimizer = AdaBeliefW(1e-2)
    reference = Reference(optimizer, variables)
    monkeypatch.setattr(optimizer, "update_step", None)
    calls = []
    foreach = torch_backend.update
    monkeypatch.setattr(
        torch_backend,
        "update",
        lambda *a, **k: calls.extend([len(a[0].params)] if a[0].params else []) or foreach(*a, **k),
    )
    for t in range(5):
        reference.step(gradients(t))
    if unserved("cpu"):
        assert calls == [len(variables)] * 5
        return
    assert calls == []
    plan = optimizer._lists._lists[True].plan
    reference.step(gradients(5))
    assert optimizer._lists._lists[True].plan is plan
    # gradients in another layout, and of another type, are left to foreach
    reference.step(gradients(6), apply=lambda g, v: optimizer.apply([*g[:2], g[2].t().contiguous().t(), g[3]], v))
    reference.step(gradients(7), apply=lambda g, v: optimizer.apply([x.double() for x in g], v))
    assert calls == [1, len(variables)]


def test_update_step_alone_is_the_same():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2, weight_decay=0.1)
    optimizer.build(variables)

    def apply(grads, variables):
        for g, v in zip(grads, variables, strict=True):
            optimizer.update_step(g, v, 1e-2)
        optimizer._iterations.assign_add(1)

    import torch

    reference = Reference(optimizer, variables)
    with torch.no_grad():
        for t in range(10):
            reference.step(gradients(t), apply=apply)


def test_sparse_gradient_is_refused():
    variable = keras.Variable(np.ones((3, 2)))
    with pytest.raises(ValueError, match="to_dense"):
        AdaBelief().apply([ops.ones((3, 2)).to_sparse()], [variable])
