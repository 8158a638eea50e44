"""AdaBelief with coupled and with decoupled decay: chains of `scale_by_belief` and of optax's own pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from adabelief import options
from adabelief.optax.arguments import DType, Scalar, ScalarOrSchedule, Tree, check_scalar, explained
from adabelief.optax.leaves import map_leaves, widened, widened_params
from adabelief.optax.scale import scale_by_belief


@explained
def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Tree | Callable[[Tree], Tree] = None,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    max_update: Scalar | None = None,
    maximize: bool = False,
    mu_dtype: DType | None = None,
    nu_dtype: DType | None = None,
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
    look perfectly predictable, g − m tends to 0 and the step grows up to the limit that eps sets, or `max_update`.

    **Bounding the step.** Adam's step is hardly longer than the learning rate; AdaBelief's has no bound but that of eps
    (see `adabelief.rule`). `max_update` cuts m̂/denominator, element by element, to ±max_update before the learning
    rate: with 1, no weight moves by more than learning_rate in a step, decay apart. It holds for rectified steps,
    RAdam's factor included, and for those before them.

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
        max_update: Bound on every element of a step, as a multiple of the learning rate; None for none. See above.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters where there is a decay; without them, updates have the type of
        the gradients.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: For optax's arguments `eps_root` and `nesterov`; from `init` and `update`, for leaves that are
            neither real nor complex floating-point numbers.

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
        max_update=max_update,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    return chained(learning_rate, weight_decay, mask, [belief], maximize=maximize)


@explained
def adabeliefw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-16,
    *,
    weight_decay: ScalarOrSchedule = 1e-2,
    mask: Tree | Callable[[Tree], Tree] = None,
    fixed_decay: bool = False,
    rectify: bool = False,
    degenerated_to_sgd: bool = True,
    amsgrad: bool = False,
    max_update: Scalar | None = None,
    maximize: bool = False,
    mu_dtype: DType | None = None,
    nu_dtype: DType | None = None,
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
        max_update: Bound on every element of a step, as a multiple of the learning rate; None for none.
        maximize: Climb.
        mu_dtype: Type in which m is stored, see `scale_by_belief`.
        nu_dtype: Type in which s is stored, see `scale_by_belief`.

    Returns:
        The optimizer. Its `update` needs the parameters.

    Raises:
        ValueError: If a number is out of its range. Arrays are not looked into.
        TypeError: For optax's arguments `eps_root` and `nesterov`; from `init` and `update`, for leaves that are
            neither real nor complex floating-point numbers.

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
        max_update=max_update,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
    return chained(
        learning_rate, weight_decay, mask, [belief], weight_decouple=True, fixed_decay=fixed_decay, maximize=maximize
    )


def chained(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    mask: Tree | Callable[[Tree], Tree],
    scaled: list[optax.GradientTransformation],
    *,
    weight_decouple: bool = False,
    fixed_decay: bool = False,
    maximize: bool = False,
    last: list[optax.GradientTransformation] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer that decays, steps by `learning_rate` and checks both, from what scales its gradients."""
    check_scalar("learning_rate", learning_rate, options.RATE, schedule=True)
    check_scalar("weight_decay", weight_decay, options.RATE, schedule=True)
    options.check_flags(dict(weight_decouple=weight_decouple, fixed_decay=fixed_decay, maximize=maximize))
    no_decay = options.is_number(weight_decay) and weight_decay == 0
    decay = optax.identity() if no_decay else optax.add_decayed_weights(weight_decay, mask)
    if not weight_decouple:
        pieces = [decay, *scaled, optax.scale_by_learning_rate(learning_rate)]
    elif fixed_decay:
        # The sign is turned last, so that the decay is subtracted as the step is, but without the learning rate.
        rate = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
        pieces = [*scaled, rate, decay, optax.scale(-1.0)]
    else:
        pieces = [*scaled, decay, optax.scale_by_learning_rate(learning_rate)]
    climb = [optax.scale(-1.0)] if maximize else []
    return _rounded_once(optax.chain(*climb, *pieces, *(last or [])))


def _rounded_once(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """`inner` in float32 at least, its updates rounded to the parameters' type, or the gradients' if there are none."""

    def update(updates: Tree, state: Any, params: Tree = None, **extra: Any) -> tuple[Tree, Any]:
        like = updates if params is None else params
        params = None if params is None else widened_params(updates, params)
        wide, state = inner.update(widened(updates), state, params, **extra)
        return map_leaves(lambda u, x: (jnp.asarray(u, jnp.result_type(x)), x), updates=wide, params=like)[0], state

    return optax.GradientTransformationExtraArgs(inner.init, update)
