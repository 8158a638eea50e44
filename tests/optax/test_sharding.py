"""Parameters sharded over 8 virtual devices: the state lies where they do, and the steps are the unsharded ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")

CODE = """
import jax, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from adabelief.optax import adabelief, adabeliefw, ranger_adabelief

jnp = jax.numpy
assert jax.device_count() == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
shardings = {n: NamedSharding(mesh, PartitionSpec(*s)) for n, s in
             {"w": ("data", "model"), "b": ("model",), "s": ()}.items()}
rng = np.random.default_rng(0)
trees = [{n: np.asarray(rng.standard_normal(s), np.float32) for n, s in {"w": (8, 6), "b": (6,), "s": ()}.items()}
         for _ in range(7)]

for optimizer in (adabelief(1e-2, amsgrad=True, weight_decay=0.1), adabeliefw(1e-2), ranger_adabelief(1e-2, k=2)):
    def step(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def like_parameters(state):
        return optax.tree_utils.tree_map_params(
            optimizer, lambda _, sharding: sharding, state, shardings,
            transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()))

    plain, sharded = jax.tree.map(jnp.asarray, trees[0]), jax.device_put(trees[0], shardings)
    plain_state, state = optimizer.init(plain), optimizer.init(sharded)
    wanted = like_parameters(state)
    by_hand = jax.jit(optimizer.init, out_shardings=wanted)(sharded)
    jitted = jax.jit(step, donate_argnums=(1, 2))
    for gradients in trees[1:]:
        for s in (state, by_hand):
            for (path, x), sharding in zip(jax.tree.leaves_with_path(s), jax.tree.leaves(wanted), strict=True):
                assert x.ndim == 0 or x.sharding.is_equivalent_to(sharding, x.ndim), (path, x.sharding)
        plain, plain_state = jax.jit(step)(gradients, plain_state, plain)
        sharded, state = jitted(jax.device_put(gradients, shardings), state, sharded)
    for x, y in zip(jax.tree.leaves((plain, plain_state)), jax.tree.leaves((sharded, state)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    print(jitted._cache_size())
"""


def test_state_lies_where_the_parameters_do():
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
