"""`adabelief.compat` beside the package whose place it takes."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings

import pytest
import torch

import adabelief
from adabelief.compat import AdaBelief

theirs = pytest.importorskip("adabelief_pytorch").AdaBelief


def test_the_signature_is_theirs():
    ours, published = (inspect.signature(cls).parameters.values() for cls in (AdaBelief, theirs))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in published]


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"lr": 0.1, "rectify": False, "weight_decouple": False}]
)
def test_steps_are_theirs_and_so_are_those_of_the_call_that_is_told(options):
    p, q, r = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(3))
    with pytest.warns(DeprecationWarning, match="the same optimizer is adabelief.AdaBelief") as caught:
        ours = AdaBelief([p], **options)
    call = str(caught[0].message).split("the same optimizer is ")[1]
    told = eval(call, {"adabelief": adabelief, "params": [r]})
    with contextlib.redirect_stdout(io.StringIO()):
        published = theirs([q], **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        p.grad = torch.randn(7, generator=generator)
        q.grad, r.grad = p.grad.clone(), p.grad.clone()
        for optimizer in (ours, published, told):
            optimizer.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert torch.equal(p, r)


def test_nothing_is_printed_and_their_checkpoints_load(capsys):
    q = torch.nn.Parameter(torch.ones(3))
    published = theirs([q])
    capsys.readouterr()
    q.grad = torch.ones(3)
    published.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = AdaBelief([torch.nn.Parameter(torch.ones(3))])
    ours.load_state_dict(published.state_dict())
    assert capsys.readouterr().out == ""
    assert float(next(iter(ours.state.values()))["step"]) == 1
