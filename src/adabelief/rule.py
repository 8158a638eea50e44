"""The AdaBelief rule on one page, for every framework.

For a parameter p with gradient g at step t = 1, 2, ..., element by element:

    p ← shrink · p                                       decoupled weight decay
    g ← g + l2 · p                                       coupled weight decay
    d = g − m                                            m is still the previous mean
    m ← m + mean_gain · d                                = beta1 · m + (1 − beta1) · g
    s ← beta2 · s + belief_gain · d² + eps               belief_gain · d² = (1 − beta2) · (g − m)², m the new mean
    p ← p − step_size · cut(m / (√s · root_scale + offset))      cut to [−bound, bound], where `max_update` sets a bound

`coefficients` gives the named scalars at step t; it is the only place where a power of beta, a bias correction or the
rectification is computed, whatever the framework. `reference_step` is the whole step in NumPy float64: slow, plain, and
what every fast implementation is tested against.

The eps that stays in s is, after bias correction, exactly the constant eps/(1−beta2), so the denominator never falls
below sqrt(eps/(1−beta2)) + eps: see `denominator_floor`.

Nothing but that floor bounds a step. With b = beta1 = beta2, V the mean of (g − m_old)² (all means with the same
weights) and x = m/√V, but for eps:

    the mean of g² is m² + b·V      so Adam steps x/√(x² + b), less than 1 however predictable the gradient is,
    s is b²·V                       and AdaBelief x/b, without a bound: x grows where g hardly changes.

Hence `max_update`, which cuts the step before the learning rate.

Source: Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", NeurIPS 2020;
rectification from Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020; Lookahead from
Zhang et al., NeurIPS 2019; gradient centralization from Yong et al., ECCV 2020.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADAPTIVE_FROM = 5.0
"""Rectified steps are adaptive from this length N_t of the simple moving average on."""


class Coefficients(NamedTuple):
    """The scalars of one step (see the module's first lines for where each one stands).

    `mean_gain`, `beta2`, `belief_gain` and `l2` do not depend on t. While a rectified step is not adaptive yet,
    root_scale is 0 and offset is 1, so that the same line is the momentum step p − step_size · m. `bound` is infinite
    where there is none; step_size · bound = lr · max_update.
    """

    shrink: Any
    l2: Any
    mean_gain: Any
    beta2: Any
    belief_gain: Any
    eps: Any
    step_size: Any
    root_scale: Any
    offset: Any
    bound: Any


class Floats:
    """The array namespace of Python's own floats: what `coefficients` needs of NumPy, in `math`."""

    exp, expm1, log, sqrt = math.exp, math.expm1, math.log, math.sqrt

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        """X where the condition holds, else y."""
        return x if condition else y


def coefficients(
    t: Any,
    *,
    lr: Any = 1e-3,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-16,
    weight_decay: Any = 0.0,
    weight_decouple: bool = False,
    fixed_decay: bool = False,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    adaptive_from: Any = ADAPTIVE_FROM,
    eps_before_adaptive: bool = True,
    max_update: Any = None,
    xp: Any = Floats,
) -> Coefficients:
    r"""The scalars of step t, in any array namespace.

    Plain: step_size = lr/(1 − beta1^t) and root_scale = 1/√(1 − beta2^t).

    Rectified: with N_∞ = 2/(1 − beta2) − 1 and N_t = N_∞ − 2·t·beta2^t/(1 − beta2^t), the step is adaptive where
    N_t ≥ `adaptive_from`: root_scale = 1 and
    step_size = lr/(1 − beta1^t) · √(1 − beta2^t) · √[(N_t−4)(N_t−2)N_∞ / ((N_∞−4)(N_∞−2)N_t)].
    Before that it is lr/(1 − beta1^t) · m (`degenerated_to_sgd`) or no move at all.

    Every formula is written so that single precision is enough: 1 − beta^t and N_t lose no digits where t is small,
    and t may be traced, so no Python branch is taken on it.

    Args:
        t: Step number, from 1: a Python number, or an array of `xp` of any shape; a traced one too.
        lr: Learning rate; a number or an array of `xp`.
        betas: Decay rates of the two averages, each in [0, 1).
        eps: Added to s at every step and to the root.
        weight_decay: Decay rate.
        weight_decouple: Decay the parameter by 1 − lr·weight_decay instead of adding weight_decay·p to the gradient.
        fixed_decay: With `weight_decouple`, decay by 1 − weight_decay, whatever lr is (but for 0: then nothing moves).
        rectify: Rectify the early steps as RAdam does.
        degenerated_to_sgd: Before rectified steps are adaptive, follow the mean gradient instead of standing still.
        adaptive_from: Least N_t of an adaptive step, at least 4.
        eps_before_adaptive: Add eps to s in the steps that are not adaptive yet as well (ranger-adabelief does not).
        max_update: No step is longer than lr · max_update: plain, rectified (with RAdam's factor) or not adaptive yet;
            a number above 0, or None for no bound.
        xp: Where `exp`, `expm1`, `log`, `sqrt` and `where` come from: Python floats by default, or `numpy`, `torch`,
            `jax.numpy`, `keras.ops`.

    Returns:
        The scalars, as `xp`'s arrays where they depend on t.

    Example:
        >>> c = coefficients(1, lr=0.1, betas=(0.5, 0.75), eps=1e-8)
        >>> round(c.step_size, 12), round(c.root_scale, 12)
        (0.2, 2.0)
        >>> [coefficients(t, rectify=True).root_scale for t in (5, 6)]
        [0.0, 1.0]
    """
    beta1, beta2 = betas
    coupled = 0.0 if weight_decouple else weight_decay
    shrink = 1.0 if not weight_decouple else 1.0 - lr * weight_decay
    if weight_decouple and fixed_decay:  # at lr = 0 nothing moves: a step that only begins the state is of that kind
        shrink = 1.0 - weight_decay * _where(lr > 0, 0.0 * lr + 1.0, 0.0 * lr, xp)  # 0 or 1 in the type of lr
    # g − m_new = beta1·(g − m_old); at beta1 = 0 that would vanish for every gradient, so the factor is dropped there.
    residual = _where(beta1 > 0, beta1, 1.0, xp)
    correction1 = -xp.expm1(t * _log(beta1, xp))
    correction2 = -xp.expm1(t * _log(beta2, xp))
    step_size = lr / correction1
    bound = math.inf if max_update is None else max_update * correction1
    root_scale, offset, eps_in_s = 1.0 / xp.sqrt(correction2), eps, eps
    if rectify:
        n, n_max = sma_length(t, beta2, xp), sma_limit(beta2)
        adaptive = n >= adaptive_from
        n = xp.where(adaptive, n, ADAPTIVE_FROM)  # keeps the root below real where its value is not used
        n_max = _where(n_max > 4, n_max, ADAPTIVE_FROM, xp)
        variance_ratio = ((n - 4) * (n - 2) / n) / ((n_max - 4) * (n_max - 2) / n_max)
        factor = xp.where(adaptive, xp.sqrt(correction2 * variance_ratio), 1.0 if degenerated_to_sgd else 0.0)
        step_size = step_size * factor
        if max_update is not None:
            bound = bound / xp.where(factor > 0, factor, 1.0)  # for a step of length 0 any will do
        root_scale = xp.where(adaptive, 0.0 * n + 1.0, 0.0)  # 0 or 1 in the type of t
        offset = root_scale * eps + (1.0 - root_scale)
        eps_in_s = eps if eps_before_adaptive else root_scale * eps
    belief_gain = (1.0 - beta2) * residual * residual
    return Coefficients(
        shrink, coupled, 1.0 - beta1, beta2, belief_gain, eps_in_s, step_size, root_scale, offset, bound
    )


def sma_limit(beta2: Any) -> Any:
    """N_∞ = 2/(1 − beta2) − 1, the length that RAdam's simple moving average tends to.

    Rectified steps never become adaptive where it is below 5, that is for beta2 < 2/3.
    """
    return 2.0 / (1.0 - beta2) - 1.0


def sma_length(t: Any, beta2: Any, xp: Any = Floats) -> Any:
    """N_t = N_∞ − 2·t·beta2^t/(1 − beta2^t), without its cancellation for small t.

    With x = −t·log(beta2) and the Langevin function L(y) = coth(y) − 1/y, the same quantity is
    N_∞ + 2/log(beta2) + t·(1 − L(x/2)), which is used where x is small.

    Example:
        >>> round(sma_length(6, 0.999), 4)
        5.9942
    """
    log_beta2 = _log(beta2, xp)
    x = -t * log_beta2
    far = sma_limit(beta2) - 2.0 * t * xp.exp(-x) / -xp.expm1(-x)
    y = xp.where(x < 2.0, x / 2.0, 1.0)
    langevin = y / (3 + y**2 / (5 + y**2 / (7 + y**2 / (9 + y**2 / (11 + y**2 / (13 + y**2 / 15))))))
    near = sma_limit(beta2) + 2.0 / log_beta2 + t * (1.0 - langevin)
    return xp.where(x < 2.0, near, far)


def denominator_floor(eps: float, beta2: float) -> float:
    """sqrt(eps/(1 − beta2)) + eps: below this the bias-corrected denominator never falls.

    An eps of 1e-8 (the CNN settings) makes it 3.2e-3, near SGD; 1e-16 makes it 3.2e-7, like Adam at its default.

    Example:
        >>> f"{denominator_floor(1e-8, 0.999):.1e} {denominator_floor(1e-16, 0.999):.1e}"
        '3.2e-03 3.2e-07'
    """
    return math.sqrt(eps / (1.0 - beta2)) + eps


def reference_step(
    p: Any,
    g: Any,
    state: dict[str, Any] | None = None,
    *,
    amsgrad: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    use_gc: bool = False,
    gc_conv_only: bool = False,
    gc_loc: bool = True,
    k: int = 0,
    alpha: float = 0.5,
    **options: Any,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """One whole step in NumPy float64: the expected value of every implementation.

    Args:
        p: Parameter, an array of any shape; a complex one is stepped as its real and its imaginary part.
        g: Its gradient, of the same shape.
        state: What the previous call returned, or None before the first step: `step`, `exp_avg`, `exp_avg_var`, and
            `max_exp_avg_var` or `slow_buffer` where they are used.
        amsgrad: Take the root of the maximum over time of s.
        maximize: Climb instead of descending.
        grad_scale: Divide the gradient by this first.
        use_gc: Centralize: subtract the mean over all dimensions but the first, for tensors of at least 2 dimensions.
        gc_conv_only: Centralize tensors of at least 4 dimensions only.
        gc_loc: Centralize the gradient (True), or else the step m / (√s · root_scale + offset): by the mean of the cut
            steps, so that no element carries its row along, and what is left is cut.
        k: Lookahead in every k-th step: slow ← slow + alpha · (p − slow), then p ← slow; 0 for none.
        alpha: Lookahead's share of the way from the slow weights to the fast ones.
        **options: Those of `coefficients`.

    Returns:
        The new parameter and the new state; the arguments are left as they were.

    Example:
        >>> p, state = reference_step([1.0, 2.0], [0.5, -0.5], lr=0.1, betas=(0.9, 0.999), eps=0.0)
        >>> p.round(4)  # the first step is lr/beta1 · sign(g)
        array([0.8889, 2.1111])
    """
    p, g = np.asarray(p), np.asarray(g)
    arguments: dict[str, Any] = {"amsgrad": amsgrad, "maximize": maximize, "grad_scale": grad_scale, "use_gc": use_gc}
    arguments |= {"gc_conv_only": gc_conv_only, "gc_loc": gc_loc, "k": k, "alpha": alpha, **options}
    if np.iscomplexobj(p):
        (p_real, s_real), (p_imag, s_imag) = (
            reference_step(
                part(p),
                part(g),
                {n: x if n == "step" else part(x) for n, x in (state or {}).items()},
                **arguments,
            )
            for part in (np.real, np.imag)
        )
        return p_real + 1j * p_imag, {n: x if n == "step" else x + 1j * s_imag[n] for n, x in s_real.items()}

    p, g = p.astype(np.float64), g.astype(np.float64) / (-grad_scale if maximize else grad_scale)
    state = dict(state or {})
    t = int(state.get("step", 0)) + 1
    m, s = state.get("exp_avg", np.zeros_like(p)), state.get("exp_avg_var", np.zeros_like(p))
    slow = state.get("slow_buffer", p)
    centralized = use_gc and p.ndim > (3 if gc_conv_only else 1)
    c = coefficients(t, **options)

    p = c.shrink * p
    g = g + c.l2 * p
    if centralized and gc_loc:
        g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
    d = g - m
    m = m + c.mean_gain * d
    s = c.beta2 * s + c.belief_gain * d**2 + c.eps
    state |= {"step": t, "exp_avg": m, "exp_avg_var": s}
    if amsgrad:
        s = state["max_exp_avg_var"] = np.maximum(state.get("max_exp_avg_var", 0.0), s)
    step = m / (np.sqrt(s) * c.root_scale + c.offset)
    if centralized and not gc_loc:
        step = step - np.clip(step, -c.bound, c.bound).mean(axis=tuple(range(1, step.ndim)), keepdims=True)
    p = p - c.step_size * np.clip(step, -c.bound, c.bound)
    if k:
        if t % k == 0:
            p = slow = slow + alpha * (p - slow)
        state["slow_buffer"] = slow
    return p, state


def _log(beta: Any, xp: Any) -> Any:
    if isinstance(beta, (int, float)):  # in double precision, also for a traced t of a narrower type
        return math.log(beta) if beta > 0 else -math.inf
    return xp.log(beta)


def _where(condition: Any, x: Any, y: Any, xp: Any) -> Any:
    """`xp.where` for what is often a plain number in any namespace."""
    return Floats.where(condition, x, y) if isinstance(condition, bool) else xp.where(condition, x, y)
