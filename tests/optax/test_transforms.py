"""The transformations inside optax and JAX: what they compose with, what they store, what they refuse."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.optax.cases import SHAPES

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
ours = pytest.importorskip("adabelief.optax")
jnp = jax.numpy

OPTIMIZERS = {
    "adabelief": partial(ours.adabelief, amsgrad=True),
    "adabeliefw": ours.adabeliefw,
    "ranger": partial(ours.ranger_adabelief, k=2),
}


def tree(seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in {"w": (3, 4), "b": (4,)}.items()}


def run(optimizer: Any, steps: int = 5, dtype: Any = jnp.float32, *, first: int = 0, start: Any = None) -> Any:
    """Parameters and state after jitted steps with the gradients of `tree(1 + first)` and so on."""
    params, state = start or (tree(0, dtype), optimizer.init(tree(0, dtype)))
    update = jax.jit(optimizer.update)
    for i in range(first, first + steps):
        updates, state = update(tree(1 + i, dtype), state, params)
        params = optax.apply_updates(params, updates)
    assert start or update._cache_size() == 1
    return params, state


def assert_same(a: Any, b: Any, rtol: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_scan_is_the_loop(make):
    optimizer = make(1e-2)
    gradients = jax.tree.map(lambda *x: jnp.stack(x), *(tree(1 + i) for i in range(5)))

    def body(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    scanned, _ = jax.lax.scan(body, (tree(0), optimizer.init(tree(0))), gradients)
    assert_same(scanned, run(optimizer))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_vmap_over_learning_rates(make):
    def train(rate):
        optimizer = make(rate)
        params, state = tree(0), optimizer.init(tree(0))
        for i in range(3):
            updates, state = optimizer.update(tree(1 + i), state, params)
            params = optax.apply_updates(params, updates)
        return params

    rates = jnp.array([1e-3, 1e-2])
    together = jax.jit(jax.vmap(train))(rates)
    for i, rate in enumerate(rates):
        assert_same(jax.tree.map(lambda x, i=i: x[i], together), run(make(float(rate)), 3)[0])


def donated(optimizer: Any) -> Any:
    """The jitted step from parameters, state and gradients, which takes the memory of the first two."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("jitted_init", [False, True], ids=["init", "jitted init"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_donated_parameters_and_state(make, jitted_init):
    optimizer = make(optax.constant_schedule(1e-2))

    step, params = donated(optimizer), tree(0)
    state = (jax.jit(optimizer.init) if jitted_init else optimizer.init)(params)
    given = jax.tree.leaves((params, state))
    for i in range(5):
        params, state = step(params, state, tree(1 + i))
    assert all(x.is_deleted() for x in given)
    assert step._cache_size() == 1
    assert_same((params, state), run(optimizer))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's loops on CPUs")
@pytest.mark.parametrize(
    "make",
    [*OPTIMIZERS.values(), partial(ours.adabelief, rectify=True), partial(ours.adabelief, max_update=1.0)],
    ids=[*OPTIMIZERS, "rectify", "bounded"],
)
def test_donated_step_takes_no_memory_of_its_own(make):
    """Not one temporary tensor, nor a copy: they cost more time than the step itself."""
    optimizer = make(1e-2, weight_decay=0.1)
    params = jnp.ones((64, 256))
    compiled = donated(optimizer).lower(params, optimizer.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < params.nbytes / 8


def test_multi_transform():
    parts = {"w": ours.adabeliefw(1e-2), "b": ours.ranger_adabelief(1e-2, k=2)}
    both, _ = run(optax.multi_transform(parts, {"w": "w", "b": "b"}))
    for name, optimizer in parts.items():
        assert_same(both[name], run(optimizer)[0][name])


def test_masked_leaves_pass():
    optimizer = optax.masked(ours.adabelief(1e-2), {"w": True, "b": False})
    updates, state = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
    assert_same(updates["b"], tree(1)["b"])
    assert len(jax.tree.leaves(state)) == 3  # count, and mu and nu of w


@pytest.mark.parametrize("make", [ours.adabelief, ours.adabeliefw, ours.ranger_adabelief])
@pytest.mark.parametrize(
    "mask",
    [{"w": True, "b": False}, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)],
    ids=["tree", "function"],
)
def test_decay_mask(make, mask):
    masked, _ = run(make(1e-2, weight_decay=0.1, mask=mask))
    assert_same(masked["w"], run(make(1e-2, weight_decay=0.1))[0]["w"])
    assert_same(masked["b"], run(make(1e-2, weight_decay=0.0))[0]["b"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_multi_steps(make, dtype):
    """Two micro-batches a step: the parameters move as with the mean of both gradients."""
    optimizer = make(1e-2)
    several, _ = run(optax.MultiSteps(optimizer, 2), 6, dtype)
    params, state = tree(0, dtype), optimizer.init(tree(0, dtype))
    for i in range(0, 6, 2):
        mean = jax.tree.map(lambda a, b: ((a + b) / 2).astype(dtype), tree(1 + i, dtype), tree(2 + i, dtype))
        updates, state = optimizer.update(mean, state, params)
        params = optax.apply_updates(params, updates)
    assert_same(several, params, rtol=1e-5 if dtype == jnp.float32 else 2e-2)


def test_injected_numbers_change_between_steps():
    optimizer = optax.inject_hyperparams(ours.adabelief)(learning_rate=1e-2)
    update, params, state = jax.jit(optimizer.update), tree(0), optimizer.init(tree(0))
    first, _ = update(tree(1), state, params)
    state.hyperparams["learning_rate"] = jnp.float32(2e-2)
    second, _ = update(tree(1), state, params)
    assert_same(second, jax.tree.map(lambda u: 2 * u, first))
    assert update._cache_size() == 1


def test_no_step_is_longer_than_the_bound():
    """Complex leaves in both parts; nan stays visible."""
    gradient = jnp.array([1e3 - 2j, 7.0, jnp.nan + 1j])
    params = jnp.zeros_like(gradient)
    for optimizer in (ours.adabelief(0.1, max_update=0.5), ours.ranger_adabelief(0.1, eps=1e-12, max_update=0.5)):
        state = optimizer.init(params)
        for i in range(8):  # rectified steps become adaptive at the 6th
            updates, state = optimizer.update(gradient, state, params)
            if i == 0:
                np.testing.assert_allclose(updates[:2], [-0.05 + 0.05j, -0.05], rtol=1e-6)
            assert max(*abs(updates[:2].real), *abs(updates[:2].imag)) < 0.05 * (1 + 1e-6)
            assert bool(jnp.isnan(updates[2].real))


def test_steps_of_gradients_that_are_no_numbers_are_left_out_by_optax():
    optimizer = optax.apply_if_finite(ours.adabeliefw(1e-2), max_consecutive_errors=5)
    params, state = tree(0), optimizer.init(tree(0))
    for i in range(3):
        _, state = optimizer.update(tree(1 + i), state, params)
    updates, after = optimizer.update(jax.tree.map(lambda x: x / 0.0, tree(1)), state, params)
    assert_same(updates, jax.tree.map(jnp.zeros_like, params))
    assert_same(after.inner_state, state.inner_state)


def test_none_leaves_and_empty_trees():
    for optimizer in (ours.adabelief(1e-2), ours.adabeliefw(1e-2), ours.ranger_adabelief(1e-2, k=1)):
        assert optimizer.update({}, optimizer.init({}), {})[0] == {}
        params = {"w": jnp.ones(2), "static": None}
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert_same(updates, {"w": updates["w"], "static": None})
        params = {"w": jnp.ones(2), "frozen": jnp.ones(3)}
        before = optimizer.init(params)
        updates, after = optimizer.update({"w": jnp.ones(2), "frozen": None}, before, params)
        assert updates["frozen"] is None
        assert jax.tree.structure(before) == jax.tree.structure(after)
        moved = [bool((x != y).any()) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(before)]
        assert moved == [not path.endswith(("['frozen']", ".steps_since_sync")) for path in paths]  # always 0 at k=1


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_half_precision_is_rounded_once(make, half):
    """The update is the float32 one of the same numbers, rounded; it has the parameter's type."""
    optimizer = make(1e-2, weight_decay=0.1)
    params, gradients = tree(0, half), tree(1, half)
    wide = lambda t: jax.tree.map(lambda x: x.astype(jnp.float32), t)  # noqa: E731
    expected, wide_state = optimizer.update(wide(gradients), optimizer.init(wide(params)), wide(params))
    for g in (gradients, wide(gradients)):
        updates, state = optimizer.update(g, optimizer.init(params), params)
        assert_same(updates, jax.tree.map(lambda x: x.astype(half), expected), rtol=float(jnp.finfo(half).eps))
        assert_same(state, wide_state)
    updates, _ = optimizer.update(gradients, optimizer.init(wide(params)), wide(params))
    assert_same(updates, expected)


def test_types_of_the_state():
    params = {"half": jnp.ones(2, jnp.bfloat16), "real": jnp.ones(2), "complex": jnp.ones(2, jnp.complex64)}
    belief = ours.scale_by_belief(mu_dtype="bfloat16", nu_dtype=jnp.float16, amsgrad=True, eps=1e-4)
    state = belief.init(params)
    update = jax.jit(belief.update)
    for _ in range(2):
        updates, state = update(params, state)
        assert {key: x.dtype for key, x in updates.items()} == {key: x.dtype for key, x in params.items()}
        for name, dtype in {"mu": jnp.bfloat16, "nu": jnp.float16, "nu_max": jnp.float16}.items():
            types = {key: x.dtype for key, x in getattr(state, name).items()}
            assert types == {"half": dtype, "real": dtype, "complex": jnp.complex64}
    assert update._cache_size() == 1
    assert ours.scale_by_belief().init(np.ones(3)).mu.dtype == jnp.float32


def test_complex_leaves_are_pairs_of_reals():
    optimizer = ours.ranger_adabelief(1e-2, weight_decay=0.1, k=2)
    pairs, state = run(optimizer)
    join = lambda t: jax.lax.complex(t["w"], t["w"][::-1])  # noqa: E731
    params, state = join(tree(0)), optimizer.init(join(tree(0)))
    for i in range(5):
        updates, state = optimizer.update(join(tree(1 + i)), state, params)
        params = optax.apply_updates(params, updates)
    assert_same(params.real, pairs["w"])


@pytest.mark.parametrize("options", [{}, {"gc_conv_only": True}, {"gc_loc": False}], ids=str)
def test_centralization_where_outputs_come_last(options):
    first, last = (ours.ranger_adabelief(1e-2, gc_outputs_last=last, **options) for last in (False, True))
    rng = np.random.default_rng(0)
    params, gradients = ({n: rng.standard_normal(s, np.float32) for n, s in SHAPES.items()} for _ in range(2))
    turned = lambda t: {n: np.moveaxis(x, 0, -1) if x.ndim else x for n, x in t.items()}  # noqa: E731
    updates, _ = first.update(gradients, first.init(params), params)
    updates_last, _ = last.update(turned(gradients), last.init(turned(params)), turned(params))
    for n, update in turned(updates).items():
        np.testing.assert_allclose(updates_last[n], update, rtol=1e-5, atol=1e-8)


def test_slow_weights_are_replaced_by_name():
    optimizer = ours.ranger_adabelief(1e-2, k=1, alpha=0.0)
    state = optax.tree_utils.tree_set(optimizer.init(tree(0)), slow=tree(7))
    updates, _ = optimizer.update(tree(1), state, tree(7))
    assert_same(updates, jax.tree.map(jnp.zeros_like, tree(7)))


def test_no_nan_on_the_way():
    """Not even in the branches of the rectification that are not taken."""
    with jax.debug_nans(True):
        for optimizer in (ours.adabelief(1e-2, rectify=True), ours.ranger_adabelief(1e-2, b1=0.0)):
            run(optimizer, 8)


def test_state_is_a_tree_like_the_parameters():
    optimizer = ours.ranger_adabelief(1e-2, amsgrad=True)
    state = optimizer.init(tree(0))
    marked = optax.tree_utils.tree_map_params(optimizer, lambda x: "params", state, transform_non_params=lambda x: "")
    assert jax.tree.leaves(marked).count("params") == 2 * 4  # mu, nu, nu_max, slow
    shapes = jax.eval_shape(optimizer.init, tree(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, state)


def test_loss_after_a_step_has_a_gradient():
    """Through a step, back to the learning rate and the gradients: what meta-learning needs."""

    def loss(rate, gradients):
        optimizer = ours.adabelief(rate)
        updates, state = optimizer.update(gradients, optimizer.init(tree(0)), tree(0))
        updates, _ = optimizer.update(gradients, state, optax.apply_updates(tree(0), updates))
        return sum((u**2).sum() for u in jax.tree.leaves(updates))

    for x in jax.tree.leaves(jax.grad(loss, (0, 1))(1e-2, tree(1))):
        assert bool(jnp.isfinite(x).all())


@pytest.mark.filterwarnings("ignore")  # orbax's own
@pytest.mark.parametrize("abstract", [False, True], ids=["zeros", "abstract"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_orbax_checkpoint_resumes(make, abstract, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    optimizer = make(optax.linear_schedule(1e-2, 1e-3, 10))
    expected = run(optimizer, 6)
    params, state = run(optimizer, 3)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        blank = jax.eval_shape(lambda: params) if abstract else jax.tree.map(jnp.zeros_like, params)
        blank = {"params": blank, "state": optimizer.init(blank)}
        restored = checkpointer.restore(tmp_path / "step", blank)
    assert jax.tree.structure(restored["state"]) == jax.tree.structure(state)
    resumed = run(optimizer, 3, first=3, start=(restored["params"], restored["state"]))
    for x, y in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        assert bool((x == y).all())
