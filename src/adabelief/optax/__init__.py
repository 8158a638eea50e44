r"""AdaBelief for JAX: gradient transformations to use with optax, or in place of an optimizer of optax.

    from adabelief.optax import adabelief
    optimizer = adabelief(1e-3)

`scale_by_belief` is the rule without learning rate and decay; `adabelief`, `adabeliefw` and `ranger_adabelief` are
chains of it and of optax's own pieces. Everything in them may be jitted, vmapped, scanned and sharded. The state has
the structure and the shapes of the parameters and, where `init` runs outside of jit, their sharding; inside, give jit
the `out_shardings`, which `optax.tree_utils.tree_map_params` makes from those of the parameters.

Leaves are real or complex floating-point arrays, or None: a None among the parameters has no state, a None among the
gradients leaves its parameter alone, whatever that is. So the parameters in `update` may be a whole Equinox model;
`init` wants `eqx.filter(model, eqx.is_inexact_array)`. It takes abstract parameters (`jax.ShapeDtypeStruct`) too, as
what a checkpoint is restored into; slow weights stay abstract there, since nothing but values can begin them.

Donate parameters and state to a jitted step, and return them in the order of the arguments: JAX pairs what is donated
with what is returned by type and order, and XLA copies what would be written over a tensor that is still needed.

`optax.apply_if_finite(optimizer, n)` leaves out the steps whose gradients hold inf or nan, up to n in a row.

Hyperparameters may be scheduled with `optax.inject_hyperparams`. Two of its habits to know: it takes every callable for
a schedule, so name those that are none (`static_args=("mask",)`), and it stores numbers in the parameters' type, where
b2 = 0.999 becomes 1 for bfloat16: pass `hyperparam_dtype=jnp.float32` with half-precision parameters.
"""

from __future__ import annotations

try:
    import jax
    import optax
except ImportError as error:
    raise ImportError("AdaBelief for JAX needs jax and optax: pip install 'adabelief[jax]'") from error

from adabelief.optax.optimizers import adabelief, adabeliefw
from adabelief.optax.ranger import LookaheadState, lookahead, ranger_adabelief
from adabelief.optax.scale import ScaleByBeliefState, scale_by_belief

del jax, optax  # imported above for their absence alone

__all__ = [
    "LookaheadState",
    "ScaleByBeliefState",
    "adabelief",
    "adabeliefw",
    "lookahead",
    "ranger_adabelief",
    "scale_by_belief",
]
