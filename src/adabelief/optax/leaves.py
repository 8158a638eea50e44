"""Trees leaf by leaf: which leaves are stepped, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adabelief.optax.arguments import DType, Tree


def map_leaves(f: Callable[..., tuple[Any, ...]], /, **trees: Tree) -> list[Tree]:
    """The trees of what `f` returns for the leaves of the first tree and what stands in their places in the others.

    Where the first tree has None, what the others have there stays as it is, and may be anything: a parameter that gets
    no gradient, a function in the middle of a model.

    Args:
        f: From as many leaves as there are trees to as many new ones.
        **trees: The trees, by the names that error messages give them.

    Raises:
        TypeError: If `f` would get what is no real or complex floating-point number.
    """
    structure: Any
    first, structure = jax.tree.flatten(next(iter(trees.values())), is_leaf=_is_none)
    others = [structure.flatten_up_to(tree) for tree in list(trees.values())[1:]]
    new = []
    for i, row in enumerate(zip(first, *others, strict=True)):
        if row[0] is None:
            new.append(row)
            continue
        for name, x in zip(trees, row, strict=True):
            if not _is_stepped(x):
                raise TypeError(_refusal(name + _path(trees, i), x))
        new.append(f(*row))
    columns = zip(*new, strict=True) if new else [()] * len(trees)
    return [structure.unflatten(column) for column in columns]


def widened(tree: Tree) -> Tree:
    """The tree in float32 at least."""
    return map_leaves(lambda x: (jnp.asarray(x, wide(x)),), updates=tree)[0]


def widened_params(updates: Tree, params: Tree) -> Tree:
    """The parameters that get an update in float32 at least; the others, arrays or not, as they are."""
    return map_leaves(lambda u, p: (u, jnp.asarray(p, wide(p))), updates=updates, params=params)[1]


def wide(x: Any) -> np.dtype[Any]:
    """The type to compute in: that of x, or float32 where it is narrower."""
    dtype = jnp.result_type(x)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def stored(x: Any, dtype: DType | None) -> np.dtype[Any]:
    """The type of state for x: the wide one, or else the one that was asked for, made complex where x is."""
    if dtype is None:
        return wide(x)
    complex_ = jnp.issubdtype(wide(x), jnp.complexfloating)
    return jnp.promote_types(dtype, jnp.complex64) if complex_ else jnp.dtype(dtype)


def _is_none(x: Any) -> bool:
    return x is None


def _is_array(x: Any) -> bool:
    # By its shape: types such as jnp.float32, which a model may hold too, have a dtype as well.
    return isinstance(x, (bool, int, float, complex)) or isinstance(getattr(x, "shape", None), tuple)


def _is_stepped(x: Any) -> bool:
    return _is_array(x) and bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _path(trees: dict[str, Tree], i: int) -> str:
    """Where the i-th leaf stands, such as ['w'] or .layers[0].weight."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(next(iter(trees.values())), is_leaf=_is_none)
    return jax.tree_util.keystr(leaves[i][0])


def _refusal(place: str, x: Any) -> str:
    steps = "AdaBelief steps real and complex floating-point numbers"
    if x is None:
        return f"{steps}, but {place} is None where there is a gradient: give init and update the tree it is taken for"
    if _is_array(x):
        return (
            f"{steps}, but {place} is of type {jnp.result_type(x)} and shape {jnp.shape(x)}: leave it out with "
            "optax.masked or optax.partition, or put None in its place"
        )
    return (
        f"{steps}, but {place} is {x!r}: put None in its place; for a whole Equinox model, "
        "eqx.filter(model, eqx.is_inexact_array) does"
    )
