"""Every option mix against `rule.reference_step`, over 50 steps: in single precision or in double, by turns."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from tests.mixes import ALL_WAYS, share, turns
from tests.optax.cases import MIXES, SHAPES, normal, rule_options
from tests.oracle import Walk

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
ours = pytest.importorskip("adabelief.optax")
jnp = jax.numpy

STEPS = 50
STATE = {"mu": "exp_avg", "nu": "exp_avg_var", "nu_max": "max_exp_avg_var", "slow": "slow_buffer"}
DOUBLE, SINGLE = ("float64", "complex128", "float32"), ("float32", "complex64", "bfloat16", "float16")
DTYPES = {True: DOUBLE, False: SINGLE}


def x64(enabled: bool) -> Any:
    """Double precision for a while: named differently before JAX 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    return jax.experimental.enable_x64() if enabled else contextlib.nullcontext()


def moments(state: Any) -> dict[str, Any]:
    """The trees of moments and slow weights somewhere in an optimizer's state, by the reference's names."""
    kinds = (ours.ScaleByBeliefState, ours.LookaheadState)
    nodes = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kinds)) if isinstance(x, kinds)]
    trees = {name: tree for node in nodes for name, tree in node._asdict().items()}
    return {STATE[name]: tree for name, tree in trees.items() if name in STATE and tree is not None}


def walk_beside(
    optimizer: Any,
    name: str,
    arguments: dict[str, Any],
    dtypes: Any,
    steps: int,
    each: Any = None,
    shapes: Any = SHAPES,
) -> Any:
    """Runs jitted steps of a tree and asserts each one; returns parameters and state.

    Args:
        optimizer: The transformation.
        name: Whose reference it is held to.
        arguments: The arguments that this reference has.
        dtypes: The types of the leaves: every shape in the first, a convolution's kernel in the others.
        steps: How many steps.
        each: From the step's number, from 0, to options of the reference in that step.
        shapes: Names of those that there are in the first type.
    """
    rng = np.random.default_rng(0)
    keys = {(dtypes[0], shape): SHAPES[shape] for shape in shapes}
    keys |= {(dtype, "kernel"): SHAPES["kernel"] for dtype in dtypes[1:]}
    params = {key: jnp.asarray(normal(rng, shape, jnp.dtype(key[0]))) for key, shape in keys.items()}
    walks = {key: Walk(rule_options(name, arguments), allowing=["added", "lookahead", "small means"]) for key in keys}

    @jax.jit
    def step(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), updates, state

    state = optimizer.init(params)
    for i in range(steps):
        gradients = {key: jnp.asarray(normal(rng, shape, jnp.dtype(key[0]))) for key, shape in keys.items()}
        new, updates, state = step(gradients, state, params)
        found = moments(state)
        for key, walk in walks.items():
            assert new[key].dtype == updates[key].dtype == jnp.dtype(key[0])
            leaf_state = {n: tree[key] for n, tree in found.items()}
            wide = jnp.promote_types(key[0], jnp.float32)
            assert all(x.dtype == wide and x.shape == new[key].shape for x in leaf_state.values())
            options = each(i) if each else {}
            walk.step(params[key], gradients[key], new[key], leaf_state, jnp.finfo(key[0]), **options)
        params = new
    assert step._cache_size() == 1
    return params, state


@pytest.mark.parametrize(
    ("mix", "double"),
    [(mix, double) for double in (False, True) for mix in share(MIXES, double, of=2)],
    ids=lambda x: {False: "single", True: "double"}.get(x, x),
)
def test_steps_are_the_references(mix, double):
    """Most of the time goes into compiling, leaf by leaf: those without rows, which no mix asks for, take turns."""
    (name, arguments), alone = MIXES[mix], ("scalar", "empty", "vector")
    shapes = SHAPES if ALL_WAYS else ("matrix", "kernel", alone[turns(MIXES)[mix] % len(alone)])
    with x64(double):
        walk_beside(getattr(ours, name)(**arguments), name, arguments, DTYPES[double], STEPS, shapes=shapes)


def test_schedules_of_rate_and_decay():
    rate, decay = optax.exponential_decay(1e-2, 5, 0.5), optax.linear_schedule(0.1, 0.2, 10)
    optimizer = ours.adabeliefw(rate, weight_decay=decay)
    each = lambda i: {"lr": float(rate(i)), "weight_decay": float(decay(i))}  # noqa: E731
    walk_beside(optimizer, "adabeliefw", {"learning_rate": 0.0}, SINGLE, 20, each)


@pytest.mark.parametrize("name", ["adabelief", "adabeliefw", "ranger_adabelief"])
def test_injected_hyperparameters(name):
    """Every number is an array in the state; in float32 0.999 is another number, which the reference is given too."""
    rate = optax.linear_schedule(1e-2, 1e-3, 10)
    inject = optax.inject_hyperparams(getattr(ours, name), hyperparam_dtype=jnp.float32)
    optimizer = inject(rate, b1=0.8, b2=0.99, eps=1e-8, weight_decay=0.1, max_update=0.6)
    given = {"b1": 0.8, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "max_update": 0.6}
    numbers = {n: float(np.float32(x)) for n, x in given.items()}
    each = lambda i: {"lr": float(rate(i))}  # noqa: E731
    _, state = walk_beside(optimizer, name, {"learning_rate": 0.0, **numbers}, SINGLE, 20, each)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(float(rate(19)))


def test_a_step_of_optax_where_both_mean_the_same():
    """With eps as both eps of optax, for b1 > 0 and real float32 leaves; its state continues here.

    Its 1 − b2**t loses three digits of float32 in the first steps: hence the tolerance.
    """
    rng = np.random.default_rng(0)
    params = jnp.asarray(normal(rng, (5, 7), np.float32))
    theirs, mine = optax.adabelief(1e-2, eps=1e-8, eps_root=1e-8), ours.adabelief(1e-2, eps=1e-8)
    their_state, my_state = theirs.init(params), mine.init(params)
    for i in range(20):
        gradient = jnp.asarray(normal(rng, (5, 7), np.float32))
        if i == 10:
            belief = ours.ScaleByBeliefState(*their_state[0])
            my_state = (my_state[0], belief, *my_state[2:])
        expected, their_state = theirs.update(gradient, their_state, params)
        update, my_state = mine.update(gradient, my_state, params)
        np.testing.assert_allclose(update, expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_where_optax_means_something_else():
    gradients = jnp.array([0.5, 1.0], jnp.bfloat16), jnp.array([1 + 3j])
    theirs, mine = optax.scale_by_belief(), ours.scale_by_belief()
    expected, their_state = theirs.update(gradients, theirs.init(gradients))
    updates, my_state = mine.update(gradients, mine.init(gradients))
    assert (their_state.mu[0].dtype, my_state.mu[0].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(abs(expected[1]), 1 / 0.9, rtol=1e-3)  # |g − m|² of both parts
    np.testing.assert_allclose(updates[1], (1 + 1j) / 0.9, rtol=1e-3)  # a sign for each part


@pytest.mark.parametrize("rate", [1e-2, optax.cosine_decay_schedule(1e-2, 20)], ids=["number", "schedule"])
def test_a_state_of_optax_goes_on(rate, tmp_path):
    """From a file, in the structure of ours; the count of a schedule goes on too."""
    with x64(True):
        theirs, own = optax.adabelief(rate, eps=1e-10, eps_root=1e-10), ours.adabelief(rate, eps=1e-10)
        params = {name: jnp.asarray(np.random.default_rng(0).normal(size=shape)) for name, shape in SHAPES.items()}

        def run(optimizer, params, state, seeds):
            for seed in seeds:
                rng = np.random.default_rng(seed)
                gradients = {name: jnp.asarray(rng.normal(size=p.shape), p.dtype) for name, p in params.items()}
                updates, state = optimizer.update(gradients, state, params)
                params = optax.apply_updates(params, updates)
            return params, state

        params, state = run(theirs, params, theirs.init(params), range(5))
        np.savez(tmp_path / "state.npz", *jax.tree.leaves(state))
        arrays = np.load(tmp_path / "state.npz")
        read = jax.tree.unflatten(jax.tree.structure(theirs.init(params)), [arrays[name] for name in arrays.files])
        belief = optax.tree_utils.tree_get(read, "ScaleByBeliefState")
        state_of_ours = optax.tree_utils.tree_set(own.init(params), **belief._asdict())
        expected, _ = run(theirs, params, state, range(5, 9))
        found, _ = run(own, params, state_of_ours, range(5, 9))
        for name in params:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10)
