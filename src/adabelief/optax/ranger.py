"""Ranger: gradient centralization, rectified AdaBelief, and Lookahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from adabelief import options, rule
from adabelief.optax.arguments import DType, Scalar, ScalarOrSchedule, Tree, check_scalar, explained
from adabelief.optax.leaves import map_leaves, wide
from adabelief.optax.optimizers import chained
from adabelief.optax.scale import cut, scale_by_belief


class LookaheadState(NamedTuple):
    """State of `lookahead`."""

    steps_since_sync: jax.Array
    """Steps since slow and fast weights last agreed, int32; `count`, which users look up by name, is the belief's."""
    slow: Tree
    """The slow weights, in float32 at least."""


@explained
def ranger_adabelief(
    learning_rate: ScalarOrSchedule,
    alpha: Scalar = 0.5,
    k: Scalar = 6,
    b1: Scalar = 0.95,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-5,
    *,
    adaptive_from: Scalar = rule.ADAPTIVE_FROM,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Tree | Callable[[Tree], Tree] = None,
    weight_decouple: bool = True,
    fixed_decay: bool = False,
    use_gc: bool = True,
    gc_conv_only: bool = False,
    gc_loc: bool = True,
    gc_outputs_last: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    max_update: Scalar | None = None,
    maximize: bool = False,
    mu_dtype: DType | None = None,
    nu_dtype: DType | None = None,
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
        max_update: Bound on every element of a step, as a multiple of the learning rate, as in `adabelief`: Lookahead's
            way back to the slow weights apart. Steps are centralized (`gc_loc=False`) by the mean of the cut ones, so
            that no element carries its row along, and what is left is cut.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: For optax's arguments `eps_root` and `nesterov`; from `init` and `update`, for leaves that are
            neither real nor complex floating-point numbers.

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
    options.check_flags(dict(use_gc=use_gc, gc_conv_only=gc_conv_only, gc_loc=gc_loc, gc_outputs_last=gc_outputs_last))
    of_steps = use_gc and not gc_loc
    if max_update is not None:
        check_scalar("max_update", max_update, options.MAX_UPDATE)
    belief = scale_by_belief(
        b1,
        b2,
        eps,
        rectify=True,
        degenerated_to_sgd=degenerated_to_sgd,
        amsgrad=amsgrad,
        adaptive_from=adaptive_from,
        eps_before_adaptive=False,
        max_update=None if of_steps else max_update,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    scaled = [belief]
    if use_gc:
        min_dim, kept = 4 if gc_conv_only else 2, -1 if gc_outputs_last else 0
        scaled.insert(of_steps, _centralize(min_dim, kept, max_update if of_steps else None))
    return chained(
        learning_rate,
        weight_decay,
        mask,
        scaled,
        weight_decouple=weight_decouple,
        fixed_decay=fixed_decay,
        maximize=maximize,
        last=[lookahead(alpha, k)],
    )


def lookahead(alpha: Scalar = 0.5, k: Scalar = 6) -> optax.GradientTransformation:
    r"""Lookahead as the last piece of a chain; the slow weights are its state.

    With u the update that the pieces before it made for the parameter p, in every k-th step

        slow ← slow + alpha · (p + u − slow)
        update = slow − p

    and u as it is in the steps between. So the parameters are always the fast weights, and no
    `optax.LookaheadParams` pairs are needed as for `optax.lookahead`. Evaluate after a k-th step, where slow and fast
    weights agree. Weights that are replaced in mid-run are drawn back to the slow ones, unless those are replaced too:
    `optax.tree_utils.tree_set(state, slow=jax.tree.map(jnp.copy, params))`.

    Args:
        alpha: Share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations, at least 1.

    Returns:
        The transformation; its state is a `LookaheadState`, its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range (arrays are not looked into), or `update` gets no parameters.
        TypeError: From `init` and `update`, for leaves that are neither real nor complex floating-point numbers.

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
    check_scalar("alpha", alpha, options.ALPHA)
    check_scalar("k", k, options.K)

    def init(params: Tree) -> LookaheadState:
        return LookaheadState(jnp.zeros([], jnp.int32), map_leaves(_copied, params=params)[0])

    def update(updates: Tree, state: LookaheadState, params: Tree = None) -> tuple[Tree, LookaheadState]:
        if params is None:
            raise ValueError("lookahead needs the parameters: call update(gradients, state, params)")
        count = state.steps_since_sync + 1
        sync = count >= k  # also where k was lowered in between

        def synchronized(u: Any, slow: Any, p: Any) -> tuple[Any, Any, Any]:
            dtype = jnp.result_type(slow)
            start, move = jnp.asarray(p, dtype), jnp.asarray(u, dtype)
            move = jnp.where(sync, slow + jnp.asarray(alpha, dtype) * (start + move - slow) - start, move)
            return move.astype(jnp.result_type(u)), jnp.where(sync, start + move, slow), p

        updates, slow, _ = map_leaves(synchronized, updates=updates, slow=state.slow, params=params)
        return updates, LookaheadState(jnp.where(sync, 0, count), slow)

    return optax.GradientTransformation(init, update)


def _copied(p: Any) -> tuple[jax.Array | jax.ShapeDtypeStruct]:
    """A slow weight's beginning, from the parameter: a copy, since the parameter itself may be donated."""
    if isinstance(p, jax.ShapeDtypeStruct):  # to restore into; it has no values to begin with
        return (jax.ShapeDtypeStruct(p.shape, wide(p), sharding=p.sharding),)  # type: ignore[no-untyped-call]
    return (jnp.array(p, wide(p), copy=True),)


def _centralize(min_dim: int, kept: int, bound: Scalar | None) -> optax.GradientTransformation:
    """`optax.centralize` for leaves of at least `min_dim` dimensions, with a choice of the dimension that is kept.

    Where there is a bound, the mean is that of what is cut to it, and what comes out is cut to it, in every leaf.
    """

    def centralized(x: jax.Array) -> jax.Array:
        dims = options.centralized_dims(x.ndim, min_dim, kept)
        return bounded(x - bounded(x).mean(dims, keepdims=True) if dims else x)

    def bounded(x: jax.Array) -> jax.Array:
        return x if bound is None else cut(x, bound)

    return optax.stateless(lambda updates, params: jax.tree.map(centralized, updates))
