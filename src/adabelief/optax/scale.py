"""AdaBelief's step as a transformation of gradients."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adabelief import options, rule
from adabelief.optax.arguments import DType, Scalar, Tree, check_dtype, check_scalar, explained, warn_if_never_adaptive
from adabelief.optax.leaves import map_leaves, stored, wide


class ScaleByBeliefState(NamedTuple):
    """State of `scale_by_belief`: the first three are those of `optax.scale_by_belief`, with the same meaning."""

    count: jax.Array  # type: ignore[assignment]  # optax's name, which hides the method of tuples there too
    """Steps taken, int32."""
    mu: Tree
    """m, the mean of the gradients."""
    nu: Tree
    """s, the mean of (g − m)²."""
    nu_max: Tree | None = None
    """With `amsgrad` the largest s so far, else None."""


@explained
def scale_by_belief(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    *,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    adaptive_from: Scalar = rule.ADAPTIVE_FROM,
    eps_before_adaptive: bool = True,
    max_update: Scalar | None = None,
    mu_dtype: DType | None = None,
    nu_dtype: DType | None = None,
) -> optax.GradientTransformation:
    r"""AdaBelief's step without learning rate, sign and decay; for `optax.chain`.

    Per gradient g at step t, element by element:

        m ← b1 · m + (1 − b1) · g
        s ← b2 · s + (1 − b2) · (g − m)² + eps
        update = m/(1 − b1^t) / (√(s/(1 − b2^t)) + eps)

    At b1 = 0, where g − m would always be 0, the residual is taken against the previous mean. Complex leaves are pairs
    of reals: real and imaginary part are an element each. The arithmetic is in float32 at least, whatever the gradients
    and the state are stored in; the update has the type of the gradient. A gradient that is None leaves its state as it
    was.

    Where `optax.scale_by_belief` differs: its `eps` stands in the root only and its `eps_root` in s only (both as `eps`
    give the same step as here), its state has the parameters' type, its residual is 0 at b1 = 0, and complex elements
    share the |g − m|² of both parts. A state of it continues here as `ScaleByBeliefState(*state)`.

    Args:
        b1: Decay rate of the mean of g, in [0, 1). This, b2 and eps: a number, or a scalar array, a traced one too.
        b2: Decay rate of the mean of (g − m)², in [0, 1).
        eps: Added to s at every step and to its root; it makes the denominator at least √(eps/(1−b2)) + eps.
        rectify: Take rectified steps as RAdam does.
        degenerated_to_sgd: With `rectify`, follow m before steps are adaptive (5 steps at b2 = 0.999) instead of
            waiting.
        amsgrad: Divide by the root of the largest s so far.
        adaptive_from: With `rectify`, the least length N_t of the simple moving average for an adaptive step.
        eps_before_adaptive: With `rectify`, add eps to s in the steps that are not adaptive yet as well.
        max_update: Bound on every element of the update, rectified or not, and of complex ones on both parts: a number
            above 0, a scalar array, or None for no bound. nan stays visible.
        mu_dtype: Type in which m is stored; by default the parameter's, or float32 if that is narrower. Complex leaves
            are stored as complex numbers of that precision, or complex64 if it is narrower.
        nu_dtype: The same for s, and its maximum. In bfloat16 s cannot decay where b2 > 0.998, and float16 has no eps
            below 6e-8: only for those who have measured it.

    Returns:
        The transformation; its state is a `ScaleByBeliefState`.

    Raises:
        ValueError: If a number is out of its range, or a dtype is no floating one. Arrays are not looked into.
        TypeError: For optax's arguments `eps_root` and `nesterov`; from `init` and `update`, for leaves that are
            neither real nor complex floating-point numbers.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import jax.numpy as jnp
        >>> belief = scale_by_belief(b1=0.5)
        >>> gradient = jnp.array([3.0, -1e-3])
        >>> update, state = belief.update(gradient, belief.init(gradient))
        >>> print(update.round(3))  # after the first gradient, sign(g)/b1
        [ 2. -2.]
    """
    check_scalar("b1", b1, options.BETA)
    check_scalar("b2", b2, options.BETA)
    check_scalar("eps", eps, options.RATE)
    check_scalar("adaptive_from", adaptive_from, options.ADAPTIVE_FROM)
    if max_update is not None:
        check_scalar("max_update", max_update, options.MAX_UPDATE)
    options.check_flags(
        dict(
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            amsgrad=amsgrad,
            eps_before_adaptive=eps_before_adaptive,
        )
    )
    check_dtype("mu_dtype", mu_dtype)
    check_dtype("nu_dtype", nu_dtype)
    if rectify:
        warn_if_never_adaptive(b2, adaptive_from)

    def init(params: Tree) -> ScaleByBeliefState:
        mu, nu = (
            map_leaves(lambda p, dtype=dtype: (jnp.zeros_like(p, stored(p, dtype)),), params=params)[0]
            for dtype in (mu_dtype, nu_dtype)
        )
        return ScaleByBeliefState(
            jnp.zeros([], jnp.int32), mu, nu, jax.tree.map(jnp.zeros_like, nu) if amsgrad else None
        )

    def update(updates: Tree, state: ScaleByBeliefState, params: Tree = None) -> tuple[Tree, ScaleByBeliefState]:
        count = optax.safe_increment(state.count)
        scalars = rule.coefficients(
            count.astype(float),
            lr=1.0,
            betas=(b1, b2),
            eps=eps,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            adaptive_from=adaptive_from,
            eps_before_adaptive=eps_before_adaptive,
            max_update=max_update,
            xp=jnp,
        )
        old = dict(mu=state.mu, nu=state.nu, nu_max=state.nu_max) if amsgrad else dict(mu=state.mu, nu=state.nu)
        steps, *moments = map_leaves(partial(_step, scalars=scalars), updates=updates, **old)
        return steps, ScaleByBeliefState(count, *moments)

    return optax.GradientTransformation(init, update)


def _step(g: Any, m: Any, s: Any, *s_max: Any, scalars: rule.Coefficients) -> tuple[jax.Array, ...]:
    """One leaf's step for a learning rate of 1, and its new state, each in its own type."""
    dtypes = [jnp.result_type(x) for x in (g, m, s, *s_max)]
    computed = jnp.result_type(*map(wide, (g, m, s)))
    arrays = [jnp.asarray(x, computed) for x in (g, m, s, *s_max)]
    if jnp.issubdtype(computed, jnp.complexfloating):
        parts = [_real_step(*map(part, arrays), scalars=scalars) for part in (jnp.real, jnp.imag)]
        new = [jax.lax.complex(real, imag) for real, imag in zip(*parts, strict=True)]
    else:
        new = _real_step(*arrays, scalars=scalars)
    return tuple(x.astype(dtype) for x, dtype in zip(new, dtypes, strict=True))


def _real_step(
    g: jax.Array, m: jax.Array, s: jax.Array, *s_max: jax.Array, scalars: rule.Coefficients
) -> list[jax.Array]:
    c = rule.Coefficients(*(jnp.asarray(scalar, m.dtype) for scalar in scalars))
    d = g - m
    # On CPUs XLA gives each result a loop, and writes it over the old value only where no later loop reads that. So m
    # waits for s, whose loop reads the old m: the `where` changes nothing but the order. And s ends in a sum of two
    # arrays, since a sum with a scalar counts as cheap enough to be computed again, from the old s, for the update.
    s = (c.beta2 * s + c.eps) + c.belief_gain * d * d
    m = jnp.where(s != s, s, m + c.mean_gain * d)
    new = [m, s] if not s_max else [m, s, jnp.maximum(s_max[0], s)]
    step = m / (jnp.sqrt(new[-1]) * c.root_scale + c.offset)
    if not (isinstance(scalars.bound, float) and scalars.bound == math.inf):
        step = cut(step, c.bound)
    return [c.step_size * step, *new]


def cut(x: jax.Array, bound: Any) -> jax.Array:
    """An array cut to [−bound, bound], a complex one in both parts; nan stays nan."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(cut(x.real, bound), cut(x.imag, bound))
    bound = jnp.asarray(bound, x.dtype)
    return jnp.clip(x, -bound, bound)
