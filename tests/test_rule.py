"""The scalar part against the published formulae in 50 digits, in every array namespace."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from adabelief import rule
from adabelief.rule import Floats, coefficients, denominator_floor, reference_step, sma_length

BETAS = [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9999), (0.0, 0.999), (0.95, 0.8), (0.9, 0.5), (0.9, 0.0)]
STEPS = [*range(1, 13), 100, 1000, 1999, 2001, 100_000]


def published(t, betas, lr, rectify):
    """step_size and root_scale as the papers write them, in 50 digits."""
    with mpmath.workdps(50):
        beta1, beta2 = map(mpmath.mpf, betas)
        correction1, correction2 = 1 - beta1**t, 1 - beta2**t
        if not rectify:
            return lr / correction1, 1 / mpmath.sqrt(correction2)
        n_max = 2 / (1 - beta2) - 1
        n = n_max - 2 * t * beta2**t / correction2
        if n < 5:
            return lr / correction1, mpmath.mpf(0)
        r = mpmath.sqrt((n - 4) * (n - 2) * n_max / ((n_max - 4) * (n_max - 2) * n))
        return lr / correction1 * r * mpmath.sqrt(correction2), mpmath.mpf(1)


NAMESPACES = {
    "floats": (Floats, float, 2e-12),
    "numpy": (np, np.float64, 2e-12),
    "numpy32": (np, np.float32, 1e-6),
    "torch": (torch, lambda t: torch.tensor(t, dtype=torch.float64), 2e-12),
    "torch32": (torch, lambda t: torch.tensor(t, dtype=torch.float32), 1e-6),
}


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_published_formulae(namespace, betas, rectify):
    xp, number, tolerance = NAMESPACES[namespace]
    for t in STEPS:
        c = coefficients(number(t), lr=0.01, betas=betas, rectify=rectify, xp=xp)
        for actual, expected in zip((c.step_size, c.root_scale), published(t, betas, 0.01, rectify), strict=True):
            assert float(actual) == pytest.approx(float(expected), rel=tolerance), t


@pytest.mark.parametrize("xp", [np, torch])
def test_vectors_of_steps(xp):
    t = np.arange(1.0, 40.0)
    c = coefficients(t if xp is np else torch.from_numpy(t), betas=(0.9, 0.99), rectify=True, xp=xp)
    for i, each in enumerate(t):
        one = coefficients(float(each), betas=(0.9, 0.99), rectify=True)
        assert float(c.step_size[i]) == pytest.approx(one.step_size, rel=1e-13)
        assert float(c.offset[i]) == pytest.approx(one.offset, rel=1e-13)


def test_array_hyper_parameters():
    one = coefficients(7.0, lr=0.1, betas=(0.9, 0.99), rectify=True)
    scalars = {"lr": np.array(0.1), "betas": (np.array(0.9), np.array(0.99)), "eps": np.array(1e-16)}
    traced = coefficients(np.array(7.0), **scalars, rectify=True, xp=np)
    assert np.allclose(np.array(traced, dtype=float), np.array(one), rtol=1e-12)


def test_first_adaptive_step():
    first = {beta2: next(t for t in range(1, 100) if sma_length(t, beta2) >= 5) for beta2 in (0.999, 0.99, 0.9, 0.8)}
    assert first == {0.999: 6, 0.99: 6, 0.9: 6, 0.8: 7}
    assert rule.sma_limit(0.6) < 5


@pytest.mark.parametrize(
    "options",
    [{}, {"rectify": True}, {"rectify": True, "degenerated_to_sgd": False}, {"rectify": True, "adaptive_from": 4}],
    ids=str,
)
@pytest.mark.parametrize("betas", [*BETAS, (0.9, 0.6)])  # 0.6: where adaptive_from is 4, the factor is 0 in the end
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_bound(namespace, betas, options):
    """Times the step's size it is that of the longest step; before the bias of m is corrected, as the step is."""
    xp, number, tolerance = NAMESPACES[namespace]
    for t in STEPS:
        c = coefficients(number(t), lr=0.01, betas=betas, max_update=0.5, xp=xp, **options)
        longest = float(c.step_size) * float(c.bound)
        assert longest == pytest.approx(0.005 if float(c.step_size) else 0.0, rel=tolerance), t
        assert coefficients(number(t), betas=betas, xp=xp, **options).bound == math.inf


def test_why_a_bound():
    """What the module says of Adam's step and of AdaBelief's."""
    b, m, v, s, belief = 0.9, 0.0, 0.0, 0.0, 0.0
    for g in np.random.default_rng(0).standard_normal(50) + 3.0:
        belief = b * belief + (1 - b) * (g - m) ** 2
        m = b * m + (1 - b) * g
        v, s = b * v + (1 - b) * g**2, b * s + (1 - b) * (g - m) ** 2
        x = m / math.sqrt(belief)
        assert v == pytest.approx(m**2 + b * belief)
        assert s == pytest.approx(b**2 * belief)
        assert m / math.sqrt(v) == pytest.approx(x / math.sqrt(x**2 + b))
        assert m / math.sqrt(s) == pytest.approx(x / b)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("decouple", [False, True])
def test_decay(decouple, fixed):
    c = coefficients(3, lr=0.1, weight_decay=0.2, weight_decouple=decouple, fixed_decay=fixed)
    assert c.l2 == (0.0 if decouple else 0.2)
    assert c.shrink == pytest.approx((0.8 if fixed else 0.98) if decouple else 1.0)


@pytest.mark.parametrize("eps", [1e-8, 1e-16])
def test_floor_is_the_denominator_at_constant_gradient(eps):
    """A gradient that never changes leaves nothing in s but eps: then the bias-corrected denominator is its floor."""
    s = 0.0
    for t in range(1, 3001):
        c = coefficients(t, eps=eps)
        s = c.beta2 * s + c.eps
        assert math.sqrt(s) * c.root_scale + c.offset == pytest.approx(denominator_floor(eps, 0.999), rel=1e-10)


def test_reference_leaves_its_arguments_alone():
    p, g = np.ones(3), np.full(3, 0.5)
    _, state = reference_step(p, g)
    kept = {name: np.array(x) for name, x in state.items()}
    reference_step(p, g, state, weight_decay=0.1, amsgrad=True, use_gc=True, k=1)
    assert np.array_equal(p, np.ones(3))
    assert np.array_equal(g, np.full(3, 0.5))
    assert all(np.array_equal(state[name], x) for name, x in kept.items())


def test_reference_by_hand():
    """Two steps with numbers small enough for a page of arithmetic."""
    p, state = reference_step(1.0, 2.0, lr=0.5, betas=(0.5, 0.75), eps=0.0)
    # m = 1, g - m = 1, s = 0.25; m_hat = 2, s_hat = 1
    assert (float(p), float(state["exp_avg"]), float(state["exp_avg_var"])) == pytest.approx((0.0, 1.0, 0.25))
    p, state = reference_step(p, 0.0, state, lr=0.5, betas=(0.5, 0.75), eps=0.0)
    # m = 0.5, g - m = -0.5, s = 0.1875 + 0.0625; m_hat = 2/3, s_hat = 4/7
    assert (float(state["exp_avg"]), float(state["exp_avg_var"])) == pytest.approx((0.5, 0.25))
    assert float(p) == pytest.approx(-0.5 * (2 / 3) / math.sqrt(4 / 7))
