r"""AdaBelief for JAX: gradient transformations to use with optax, or in place of an optimizer of optax.

    from adabelief.optax import adabelief
    optimizer = adabelief(1e-3)

`scale_by_belief` is the rule without learning rate and decay; `adabelief`, `adabeliefw` and `ranger_adabelief` are
chains of it and of optax's own pieces. Everything in them may be jitted, vmapped, scanned and sharded. The state has
the structure and the shapes of the parameters and, where `init` runs outside of jit, their sharding; inside, give jit
the `out_shardings`, which `optax.tree_utils.tree_map_params` makes from those of the parameters.

Donate parameters and state to a jitted step, and return them in the order of the arguments: JAX pairs what is donated
with what is returned by type and order, and XLA copies what would be written over a tensor that is still needed.

Hyperparameters may be scheduled with `optax.inject_hyperparams`. Two of its habits to know: it takes every callable for
a schedule, so name those that are none (`static_args=("mask",)`), and it stores numbers in the parameters' type, where
b2 = 0.999 becomes 1 for bfloat16: pass `hyperparam_dtype=jnp.float32` with half-precision parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

from adabelief import rule

try:
    import jax
    import jax.numpy as jnp
    import optax
except ImportError as error:
    raise ImportError("AdaBelief for JAX needs jax and optax: pip install 'adabelief[jax]'") from error

__all__ = [
    "LookaheadState",
    "ScaleByBeliefState",
    "adabelief",
    "adabeliefw",
    "lookahead",
    "ranger_adabelief",
    "scale_by_belief",
]


class ScaleByBeliefState(NamedTuple):
    """State of `scale_by_belief`: the first three are those of `optax.scale_by_belief`, with the same meaning."""

    count: Any
    """Steps taken, int32."""
    mu: Any
    """m, the mean of the gradients."""
    nu: Any
    """s, the mean of (g − m)²."""
    nu_max: Any = None
    """With `amsgrad` the largest s so far, else None."""


class LookaheadState(NamedTuple):
    """State of `lookahead`."""

    count: Any
    """Steps taken, int32."""
    slow: Any
    """The slow weights, in float32 at least."""


def scale_by_belief(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    *,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    adaptive_from: Any = rule.ADAPTIVE_FROM,
    eps_before_adaptive: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
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
        mu_dtype: Type in which m is stored; by default the parameter's, or float32 if that is narrower. Complex leaves
            are stored as complex numbers of that precision, or complex64 if it is narrower.
        nu_dtype: The same for s, and its maximum. In bfloat16 s cannot decay where b2 > 0.998, and float16 has no eps
            below 6e-8: only for those who have measured it.

    Returns:
        The transformation; its state is a `ScaleByBeliefState`.

    Raises:
        ValueError: If a number is out of its range, or a dtype is no floating one. Arrays are not looked into.
        TypeError: From `init` and `update`, for leaves that are neither real nor complex floating-point numbers.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import jax.numpy as jnp
        >>> belief = scale_by_belief(b1=0.5)
        >>> gradient = jnp.array([3.0, -1e-3])
        >>> update, state = belief.update(gradient, belief.init(gradient))
        >>> print(update.round(3))  # after the first gradient, sign(g)/b1
        [ 2. -2.]
    """
    _check_number("b1", b1, "in [0, 1)", lambda x: 0 <= x < 1)
    _check_number("b2", b2, "in [0, 1)", lambda x: 0 <= x < 1)
    _check_number("eps", eps, "finite and at least 0", lambda x: 0 <= x < math.inf)
    _check_number("adaptive_from", adaptive_from, "at least 4", lambda x: x >= 4)
    _check_dtype("mu_dtype", mu_dtype)
    _check_dtype("nu_dtype", nu_dtype)
    if rectify and isinstance(b2, Real) and isinstance(adaptive_from, Real) and rule.sma_limit(b2) < adaptive_from:
        warnings.warn(
            f"b2 = {b2}: rectified steps never become adaptive, since N_inf = 2/(1 - b2) - 1 = "
            f"{rule.sma_limit(b2):.3g} is below {adaptive_from:g}. Use a larger b2 or rectify=False.",
            stacklevel=2,
        )

    def init(params: Any) -> ScaleByBeliefState:
        mu, nu = (
            jax.tree.map(lambda p, dtype=dtype: jnp.zeros_like(p, _stored(p, dtype)), params)
            for dtype in (mu_dtype, nu_dtype)
        )
        return ScaleByBeliefState(
            jnp.zeros([], jnp.int32), mu, nu, jax.tree.map(jnp.zeros_like, nu) if amsgrad else None
        )

    def update(updates: Any, state: ScaleByBeliefState, params: Any = None) -> tuple[Any, ScaleByBeliefState]:
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
            xp=jnp,
        )
        old = [state.mu, state.nu, state.nu_max] if amsgrad else [state.mu, state.nu]
        steps, *moments = _map(lambda g, *moments: _step(g, *moments, scalars=scalars), updates, *old)
        return steps, ScaleByBeliefState(count, *moments)

    return optax.GradientTransformation(init, update)


def adabelief(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    maximize: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaBelief: Adam that divides by how far the gradient strays from its own mean.

    Per parameter p with gradient g at step t, element by element:

        g ← g + weight_decay · p
        m ← b1 · m + (1 − b1) · g
        s ← b2 · s + (1 − b2) · (g − m)² + eps
        p ← p − learning_rate · m/(1 − b1^t) / (√(s/(1 − b2^t)) + eps)

    Half-precision parameters and gradients are stepped in float32, with float32 state, and the update is rounded once,
    to the parameter's type. More, on b1 = 0, complex leaves and None, in `scale_by_belief`.

    **Choosing eps.** The eps that stays in s makes the denominator at least √(eps/(1−b2)) + eps: 3.2e-3 for 1e-8, which
    is close to SGD, and 3.2e-7 for 1e-16, which is as adaptive as Adam. Take 1e-8 where SGD beats Adam (image
    classification), 1e-12 to 1e-16 where Adam beats SGD (Transformers, GANs, RNNs); a good eps of Adam corresponds to
    its square here (`adabelief.eps_from_adam`). With eps = 0, a weight whose gradient has always been 0 becomes nan
    (0/0).

    **Clipping.** Clip by norm (`optax.clip_by_global_norm`), not by value: elements clamped to a bound step after step
    look perfectly predictable, g − m tends to 0 and the step grows up to the limit that eps sets.

    Args:
        learning_rate: A number, a scalar array or a schedule: a function of the number of steps taken before.
        b1: Decay rate of the mean of g, in [0, 1).
        b2: Decay rate of the mean of (g − m)², in [0, 1).
        eps: Added to s at every step and to its root; see above.
        weight_decay: Coupled decay rate, a number, a scalar array or a schedule; `adabeliefw` decays p itself.
        mask: Where to decay: a tree of bools with the structure of the parameters or a prefix of it, or a function from
            parameters to one. Everywhere by default.
        rectify: Take rectified steps as RAdam does; with `amsgrad` they use the largest s as well.
        degenerated_to_sgd: With `rectify`, follow m in the first steps (5 at b2 = 0.999) instead of waiting.
        amsgrad: Divide by the root of the largest s so far.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters where there is a decay; without them, updates have the type of
        the gradients.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: From `init` and `update`, for leaves that are neither real nor complex floating-point numbers.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimizer = adabelief(0.1)
        >>> loss = lambda weight: (weight**2).sum()
        >>> @jax.jit
        ... def step(weight, state):
        ...     updates, state = optimizer.update(jax.grad(loss)(weight), state, weight)
        ...     return optax.apply_updates(weight, updates), state
        >>> weight = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(weight)
        >>> for _ in range(200):
        ...     weight, state = step(weight, state)
        >>> bool(loss(weight) < 1e-3)
        True
    """
    belief = scale_by_belief(
        b1,
        b2,
        eps,
        rectify=rectify,
        degenerated_to_sgd=degenerated_to_sgd,
        amsgrad=amsgrad,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    return _optimizer(learning_rate, weight_decay, mask, [belief], maximize=maximize)


def adabeliefw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-2,
    mask: Any = None,
    fixed_decay: bool = False,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    maximize: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaBelief with decoupled weight decay, 1e-2 unless told otherwise: to `adabelief` what adamw is to adam.

        p ← p · (1 − learning_rate · weight_decay), then AdaBelief's step without decay

    Everything else, arguments and errors too, is as in `adabelief`.

    Args:
        learning_rate: A number, a scalar array or a schedule.
        b1: Decay rate of the mean of g.
        b2: Decay rate of the mean of (g − m)².
        eps: Added to s at every step and to its root.
        weight_decay: Decoupled decay rate, a number, a scalar array or a schedule.
        mask: Where to decay, everywhere by default.
        fixed_decay: Decay by the factor 1 − weight_decay, whatever the learning rate is.
        rectify: Take rectified steps as RAdam does.
        degenerated_to_sgd: With `rectify`, follow m in the first steps instead of waiting.
        amsgrad: Divide by the root of the largest s so far.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: From `init` and `update`, for leaves that are neither real nor complex floating-point numbers.

    Source: Zhuang et al., NeurIPS 2020; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> weight = jnp.ones(1)
        >>> optimizer = adabeliefw(0.1, weight_decay=0.5)
        >>> updates, state = optimizer.update(jnp.zeros(1), optimizer.init(weight), weight)
        >>> print(optax.apply_updates(weight, updates))
        [0.95]
    """
    belief = scale_by_belief(
        b1,
        b2,
        eps,
        rectify=rectify,
        degenerated_to_sgd=degenerated_to_sgd,
        amsgrad=amsgrad,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    return _optimizer(
        learning_rate, weight_decay, mask, [belief], weight_decouple=True, fixed_decay=fixed_decay, maximize=maximize
    )


def ranger_adabelief(
    learning_rate: optax.ScalarOrSchedule,
    alpha: Any = 0.5,
    k: Any = 6,
    b1: Any = 0.95,
    b2: Any = 0.999,
    eps: Any = 1e-5,
    *,
    adaptive_from: Any = rule.ADAPTIVE_FROM,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    weight_decouple: bool = True,
    fixed_decay: bool = False,
    use_gc: bool = True,
    gc_conv_only: bool = False,
    gc_loc: bool = True,
    gc_outputs_last: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    maximize: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Ranger with AdaBelief: gradient centralization, rectified AdaBelief, and Lookahead.

        g ← g − mean of g over all dimensions but the first         (gradient centralization)
        p ← the rectified, decoupled AdaBelief step with g          (see `adabeliefw`)
        in every k-th step: slow ← slow + alpha · (p − slow), p ← slow           (Lookahead)

    The defaults are those of ranger-adabelief 0.1.0; as there, eps enters s only from the first adaptive step on. The
    slow weights are part of the state (see `lookahead`), so that this is an optimizer like any other.

    Args:
        learning_rate: A number, a scalar array or a schedule.
        alpha: Lookahead's share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations of Lookahead, at least 1.
        b1: Decay rate of the mean of g.
        b2: Decay rate of the mean of (g − m)².
        eps: Added to s at every adaptive step and to its root. The default makes the denominator at least 0.1, close to
            momentum SGD; 1e-12 is what the authors use.
        adaptive_from: Least length N_t of the simple moving average for an adaptive step, at least 4.
        weight_decay: Decay rate, a number, a scalar array or a schedule.
        mask: Where to decay, everywhere by default.
        weight_decouple: Decay p itself instead of adding the decay to g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        use_gc: Centralize gradients.
        gc_conv_only: Only those of at least 4 dimensions (convolutions), instead of at least 2.
        gc_loc: Centralize the gradient (True), or else the step m / (√s + eps).
        gc_outputs_last: Average over all dimensions but the last instead of the first. The one left out should be that
            of the outputs: the first in PyTorch's and equinox's kernels, the last in flax's, haiku's and Keras's.
        degenerated_to_sgd: Follow m before steps are adaptive, instead of waiting.
        amsgrad: Divide by the root of the largest s so far.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: From `init` and `update`, for leaves that are neither real nor complex floating-point numbers.

    Source: ranger-adabelief 0.1.0; Zhuang et al., NeurIPS 2020; Zhang et al., "Lookahead Optimizer", NeurIPS 2019; Yong
    et al., "Gradient Centralization", ECCV 2020.

    Example:
        >>> import jax.numpy as jnp
        >>> weight, gradient = jnp.ones((2, 3)), jnp.full((2, 3), 7.0)
        >>> optimizer = ranger_adabelief(1e-3)
        >>> updates, state = optimizer.update(gradient, optimizer.init(weight), weight)
        >>> bool((updates == 0).all())  # the same along every row: nothing is left once centralized
        True
    """
    belief = scale_by_belief(
        b1,
        b2,
        eps,
        rectify=True,
        degenerated_to_sgd=degenerated_to_sgd,
        amsgrad=amsgrad,
        adaptive_from=adaptive_from,
        eps_before_adaptive=False,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    scaled = [belief]
    if use_gc:
        scaled.insert(0 if gc_loc else 1, _centralize(4 if gc_conv_only else 2, -1 if gc_outputs_last else 0))
    return _optimizer(
        learning_rate,
        weight_decay,
        mask,
        scaled,
        weight_decouple=weight_decouple,
        fixed_decay=fixed_decay,
        maximize=maximize,
        last=[lookahead(alpha, k)],
    )


def lookahead(alpha: Any = 0.5, k: Any = 6) -> optax.GradientTransformation:
    r"""Lookahead as the last piece of a chain; the slow weights are its state.

    With u the update that the pieces before it made for the parameter p, in every k-th step

        slow ← slow + alpha · (p + u − slow)
        update = slow − p

    and u as it is in the steps between. So the parameters are always the fast weights, and no
    `optax.LookaheadParams` pairs are needed as for `optax.lookahead`. Evaluate after a k-th step, where slow and fast
    weights agree.

    Args:
        alpha: Share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations, at least 1.

    Returns:
        The transformation; its state is a `LookaheadState`, its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range (arrays are not looked into), or `update` gets no parameters.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
    https://arxiv.org/abs/1907.08610.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.chain(optax.sgd(1.0), lookahead(alpha=0.5, k=2))
        >>> weight, state = jnp.zeros(1), optimizer.init(jnp.zeros(1))
        >>> for _ in range(4):
        ...     updates, state = optimizer.update(jnp.ones(1), state, weight)
        ...     weight = optax.apply_updates(weight, updates)
        ...     print(weight)
        [-1.]
        [-1.]
        [-2.]
        [-2.]
    """
    _check_number("alpha", alpha, "in [0, 1]", lambda x: 0 <= x <= 1)
    _check_number("k", k, "whole and at least 1", lambda x: x >= 1 and x == int(x))

    def init(params: Any) -> LookaheadState:
        slow = jax.tree.map(lambda p: jnp.array(p, _wide(p), copy=True), params)  # p itself may be donated
        return LookaheadState(jnp.zeros([], jnp.int32), slow)

    def update(updates: Any, state: LookaheadState, params: Any = None) -> tuple[Any, LookaheadState]:
        if params is None:
            raise ValueError("lookahead needs the parameters: call update(gradients, state, params)")
        count = optax.safe_increment(state.count)
        sync = count % k == 0

        def synchronized(u: Any, slow: Any, p: Any) -> tuple[Any, Any, Any]:
            wide = jnp.result_type(slow)
            start, move = jnp.asarray(p, wide), jnp.asarray(u, wide)
            move = jnp.where(sync, slow + jnp.asarray(alpha, wide) * (start + move - slow) - start, move)
            return move.astype(jnp.result_type(u)), jnp.where(sync, start + move, slow), p

        updates, slow, _ = _map(synchronized, updates, state.slow, params)
        return updates, LookaheadState(count, slow)

    return optax.GradientTransformation(init, update)


def _optimizer(
    learning_rate: Any,
    weight_decay: Any,
    mask: Any,
    scaled: list[optax.GradientTransformation],
    *,
    weight_decouple: bool = False,
    fixed_decay: bool = False,
    maximize: bool = False,
    last: list[optax.GradientTransformation] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The chain of an optimizer, from what scales its gradients."""
    _check_number("learning_rate", learning_rate, "finite and at least 0", lambda x: 0 <= x < math.inf)
    _check_number("weight_decay", weight_decay, "finite and at least 0", lambda x: 0 <= x < math.inf)
    no_decay = isinstance(weight_decay, Real) and weight_decay == 0
    decay = optax.identity() if no_decay else optax.add_decayed_weights(weight_decay, mask)
    if not weight_decouple:
        pieces = [decay, *scaled, optax.scale_by_learning_rate(learning_rate)]
    elif fixed_decay:
        rate = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
        pieces = [*scaled, rate, decay, optax.scale(-1.0)]
    else:
        pieces = [*scaled, decay, optax.scale_by_learning_rate(learning_rate)]
    climb = [optax.scale(-1.0)] if maximize else []
    return _rounded_once(optax.chain(*climb, *pieces, *(last or [])))


def _centralize(min_dim: int, kept: int) -> optax.GradientTransformation:
    """`optax.centralize` for leaves of at least `min_dim` dimensions, with a choice of the dimension that is kept."""

    def centralized(x: Any) -> Any:
        if x.ndim < min_dim:
            return x
        dims = [*range(x.ndim)]
        del dims[kept]
        return x - x.mean(tuple(dims), keepdims=True)

    return optax.stateless(lambda updates, params: jax.tree.map(centralized, updates))


def _rounded_once(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`inner` in float32 at least, its updates rounded to the parameters' type, or the gradients' if there are none."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        like = updates if params is None else params
        wide, state = inner.update(_widened(updates), state, None if params is None else _widened(params), **extra)
        return _map(lambda u, x: (jnp.asarray(u, jnp.result_type(x)), x), wide, like)[0], state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _step(g: Any, m: Any, s: Any, *s_max: Any, scalars: rule.Coefficients) -> tuple[Any, ...]:
    """One leaf's step for a learning rate of 1, and its new state, each in its own type."""
    stored = [jnp.result_type(x) for x in (g, m, s, *s_max)]
    wide = jnp.result_type(*map(_wide, (g, m, s)))
    arrays = [jnp.asarray(x, wide) for x in (g, m, s, *s_max)]
    if jnp.issubdtype(wide, jnp.complexfloating):
        parts = [_real_step(*map(part, arrays), scalars=scalars) for part in (jnp.real, jnp.imag)]
        new = [jax.lax.complex(real, imag) for real, imag in zip(*parts, strict=True)]
    else:
        new = _real_step(*arrays, scalars=scalars)
    return tuple(x.astype(dtype) for x, dtype in zip(new, stored, strict=True))


def _real_step(g: Any, m: Any, s: Any, *s_max: Any, scalars: rule.Coefficients) -> list[Any]:
    c = rule.Coefficients(*(jnp.asarray(scalar, m.dtype) for scalar in scalars))
    d = g - m
    # On CPUs XLA gives each result a loop, and writes it over the old value only where no later loop reads that. So m
    # waits for s, whose loop reads the old m: the `where` changes nothing but the order. And s ends in a sum of two
    # arrays, since a sum with a scalar counts as cheap enough to be computed again, from the old s, for the update.
    s = (c.beta2 * s + c.eps) + c.belief_gain * d * d
    m = jnp.where(s != s, s, m + c.mean_gain * d)
    new = [m, s] if not s_max else [m, s, jnp.maximum(s_max[0], s)]
    return [c.step_size * m / (jnp.sqrt(new[-1]) * c.root_scale + c.offset), *new]


def _map(f: Callable[..., tuple[Any, ...]], *trees: Any) -> list[Any]:
    """The trees of what `f` returns for each row of leaves; where the first tree has None, the row stays as it is."""
    structure: Any
    first, structure = jax.tree.flatten(trees[0], is_leaf=lambda x: x is None)
    rows = zip(first, *map(structure.flatten_up_to, trees[1:]), strict=True)
    new = [row if row[0] is None else f(*row) for row in rows]
    columns = zip(*new, strict=True) if new else [()] * len(trees)
    return [structure.unflatten(column) for column in columns]


def _widened(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, _wide(x)), tree)


def _wide(x: Any) -> Any:
    """The type to compute in: that of x, or float32 where it is narrower."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"AdaBelief steps real and complex floating-point numbers, got a leaf of type {dtype} and shape "
            f"{jnp.shape(x)}: leave it out with optax.masked or optax.partition"
        )
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _stored(x: Any, dtype: Any) -> Any:
    """The type of state for x: the wide one, or else the one that was asked for, made complex where x is."""
    wide = _wide(x)
    if dtype is None:
        return wide
    return jnp.promote_types(dtype, jnp.complex64) if jnp.issubdtype(wide, jnp.complexfloating) else jnp.dtype(dtype)


def _check_number(name: str, value: Any, range_: str, holds: Callable[[Any], bool]) -> None:
    """Raises ValueError for a plain number out of its range; arrays, traced values and schedules pass."""
    if isinstance(value, Real) and not holds(value):
        raise ValueError(f"{name} must be {range_}, got {value!r}")


def _check_dtype(name: str, dtype: Any) -> None:
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} must be a real floating-point type such as jnp.float32 or None, got {dtype!r}")
