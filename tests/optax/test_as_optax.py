"""Situations in which `optax.adamw` works, or fails with a message, and in which these do as it does."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
ours = pytest.importorskip("adabelief.optax")
jnp = jax.numpy

Make = Callable[..., Any]

MAKES: dict[str, Make] = {
    "optax.adamw": optax.adamw,
    "adabelief": partial(ours.adabelief, weight_decay=0.1, amsgrad=True),
    "adabeliefw": ours.adabeliefw,
    "ranger": partial(ours.ranger_adabelief, k=2, weight_decay=0.1),
}

# Of one shape and stepped outside of jit, since nearly all of the time goes into compiling, for every shape anew.
PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}
GRADIENTS = {"w": jnp.arange(12.0).reshape(3, 4) - 5, "b": jnp.ones((3, 4))}


def walk(optimizer: Any, params: Any = None, gradients: Any = None, steps: int = 2, **extra: Any) -> tuple[Any, Any]:
    """The last updates, which are asserted to be like the gradients, and the state."""
    params, gradients = (PARAMS, GRADIENTS) if params is None else (params, gradients)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params, **extra)
    assert jax.tree.structure(updates) == jax.tree.structure(gradients)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True):
        assert jnp.shape(u) == jnp.shape(g)
        assert bool(jnp.isfinite(u).all())
    return updates, state


class Pair(NamedTuple):
    x: Any
    y: Any


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "activation", "size", "ids", "key"], meta_fields=[])
@dataclasses.dataclass
class Model:
    """As an Equinox model: whatever it holds is a leaf."""

    weight: Any
    activation: Any = None
    size: Any = None
    ids: Any = None
    key: Any = None


def whole_model(make: Make) -> None:
    """The parameters in `update` are the whole model, gradients and state those of what is trained alone."""
    trained, gradients, updates = Model(PARAMS["w"]), Model(GRADIENTS["w"]), {}
    model = Model(PARAMS["w"], jax.nn.relu, 3, jnp.arange(3), jax.random.key(0))
    optimizer = make(1e-2)
    for params in (trained, model):
        state = optimizer.init(trained)
        for _ in range(2):
            updates[params is model], state = optimizer.update(gradients, state, params)
    assert updates[True].activation is updates[True].ids is None
    np.testing.assert_array_equal(updates[True].weight, updates[False].weight)


def abstract_parameters(make: Make) -> None:
    optimizer = make(1e-2)
    kinds = [
        jax.tree.map(lambda x: (x.shape, x.dtype), init(params))
        for init in (optimizer.init, partial(jax.eval_shape, optimizer.init))
        for params in (PARAMS, jax.eval_shape(lambda: PARAMS))
    ]
    assert kinds == kinds[:1] * 4


def values_by_name(make: Make) -> None:
    _, state = walk(make(1e-2))
    assert optax.tree_utils.tree_get(state, "count") == 2
    assert optax.tree_utils.tree_get(optax.tree_utils.tree_set(state, count=jnp.int32(7)), "count") == 7
    assert jax.tree.map(jnp.shape, optax.tree_utils.tree_get(state, "nu")) == jax.tree.map(jnp.shape, PARAMS)


def containers(make: Make) -> None:
    params = Pair([PARAMS["w"], (PARAMS["b"],)], Model(2.0, ids=np.ones((3, 4), np.float32), size=np.float32(1)))
    walk(make(1e-2), params, params)


def masked_leaves_that_are_no_arrays(make: Make) -> None:
    params = {"w": PARAMS["w"], "activation": jax.nn.relu, "ids": jnp.arange(3)}
    optimizer = optax.masked(make(1e-2), {"w": True, "activation": False, "ids": False})
    updates, _ = walk(optimizer, params, {"w": GRADIENTS["w"], "activation": None, "ids": None})
    assert updates["activation"] is None


def partitioned_integers(make: Make) -> None:
    params = {"w": PARAMS["w"], "ids": jnp.arange(3)}
    optimizer = optax.multi_transform({True: make(1e-2), False: optax.set_to_zero()}, {"w": True, "ids": False})
    walk(optimizer, params, {"w": GRADIENTS["w"], "ids": jnp.zeros(3)})


def not_finite(make: Make) -> None:
    optimizer = optax.apply_if_finite(make(1e-2), 3)
    _, state = walk(optimizer)
    updates, skipped = optimizer.update(jax.tree.map(lambda g: g * jnp.nan, GRADIENTS), state, PARAMS)
    assert not any(bool(u.any()) for u in jax.tree.leaves(updates))
    before, after = (jax.tree.leaves(s.inner_state) for s in (state, skipped))
    assert all(bool((x == y).all()) for x, y in zip(before, after, strict=True))


def micro_batches(make: Make) -> None:
    walk(optax.MultiSteps(make(1e-2), 2), Model(PARAMS["w"]), Model(GRADIENTS["w"]), steps=3)


def injected(make: Make) -> None:
    rate = optax.linear_schedule(1e-2, 0.0, 10)
    _, state = walk(optax.inject_hyperparams(make)(rate, b1=optax.constant_schedule(0.8)))
    assert state.hyperparams["learning_rate"] == pytest.approx(float(rate(1)))


def real_and_imaginary(make: Make) -> None:
    walk(optax.contrib.split_real_and_imaginary(make(1e-2)), {"w": PARAMS["w"] * 1j}, {"w": GRADIENTS["w"] * 1j})


def optax_lookahead(make: Make) -> None:
    optimizer, params = optax.lookahead(make(1e-2), 2, 0.5), optax.LookaheadParams.init_synced(PARAMS)
    optimizer.update(GRADIENTS, optimizer.init(params), params)


def sharpness_aware(make: Make) -> None:
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    walk(optax.contrib.sam(make(1e-2), ascent, sync_period=2))


WORKS = {f.__name__: f for f in (
    whole_model, abstract_parameters, values_by_name, containers, masked_leaves_that_are_no_arrays,
    partitioned_integers, not_finite, micro_batches, injected, real_and_imaginary, optax_lookahead, sharpness_aware,
)} | {
    "clipped": lambda make: walk(optax.chain(optax.clip_by_global_norm(1.0), make(1e-2))),
    "named": lambda make: walk(optax.named_chain(("clip", optax.clip(1.0)), ("step", make(1e-2)))),
    "flattened": lambda make: walk(optax.flatten(make(1e-2))),
    "extra arguments": lambda make: walk(make(1e-2), value=1.0),
    "plateau": lambda make: walk(optax.chain(make(1e-2), optax.contrib.reduce_on_plateau()), value=1.0),
    "now and then": lambda make: walk(optax.conditionally_transform(make(1e-2), lambda step: step > 0)),
    "schedule-free": lambda make: walk(optax.contrib.schedule_free(make(1e-2, b1=0.0), 1e-2)),
    "mechanized": lambda make: walk(optax.contrib.mechanize(make(1e-2))),
    "no gradient at all": lambda make: walk(make(1e-2), Model(None), Model(None)),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("situation", WORKS.values(), ids=WORKS)
def test_works(situation, make):
    situation(make)


FAILS: dict[str, tuple[Any, Any, Any, str]] = {
    # what init, update's gradients and its parameters get, and what ours say, where optax.adamw has a traceback or, for
    # integers, steps that nobody asked for
    "a function": (Model(PARAMS["w"], activation=len), None, None, r"params\.activation is <built.*eqx\.filter\(model"),
    "a type": ([jnp.float32], None, None, r"params\[0\] is <class.*put None in its place"),
    "a string": (["float32"], None, None, r"params\[0\] is 'float32'"),
    "integers": (
        {"ids": jnp.arange(2)},
        None,
        None,
        r"params\['ids'\] is of type int32 and shape \(2,\).*optax.masked",
    ),
    "a bool": ([True], None, None, r"params\[0\] is of type bool"),
    "a key": ([jax.random.key(0)], None, None, r"params\[0\] is of type key"),
    "integer gradients": ([1.0], [1], [1.0], r"updates\[0\] is of type int32"),
    "no state": ([None], [1.0], [1.0], r"mu\[0\] is None where there is a gradient: give init"),
    "no parameter": ([1.0], [1.0], [None], r"params\[0\] is None where there is a gradient"),
    "a function's gradient": ([1.0], [1.0], [len], r"params\[0\] is <built-in function len>"),
}


@pytest.mark.parametrize("name", [name for name in MAKES if name != "optax.adamw"])
@pytest.mark.parametrize("situation", FAILS)
def test_says_what_to_do(situation, name):
    began, gradients, params, message = FAILS[situation]
    optimizer = MAKES[name](1e-2)
    with pytest.raises(TypeError, match=message):
        optimizer.update(gradients, optimizer.init(began), params)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_missing_parameters(make):
    optimizer = make(1e-2)
    with pytest.raises(ValueError, match="not passing `params` when calling `update`"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS))


@pytest.mark.parametrize("make", [ours.adabelief, ours.adabeliefw, ours.scale_by_belief, ours.ranger_adabelief])
def test_arguments_of_optax_that_are_not_here(make):
    rate = {} if make is ours.scale_by_belief else {"learning_rate": 1e-3}
    with pytest.raises(TypeError, match=rf"{make.__name__}\(\) .*'eps_root'; eps_root: here one eps"):
        make(**rate, eps_root=1e-16)
    with pytest.raises(TypeError, match=r"'nesterov'; nesterov: there is no Nesterov momentum"):
        make(**rate, nesterov=True)
    with pytest.raises(TypeError, match=r"'wieght_decay'$"):
        make(**rate, wieght_decay=0.1)
    with pytest.raises(TypeError, match=r"too many positional arguments; eps_root:"):
        make(*[0.9] * 9)


@pytest.mark.parametrize("name", ["adabelief", "adabeliefw", "ranger_adabelief", "lookahead", "scale_by_belief"])
def test_arguments_are_typed(name):
    make = getattr(ours, name)
    hints = get_type_hints(make)
    assert {x for x in inspect.signature(make).parameters if hints[x] is Any} == set()


def test_the_warning_points_at_the_caller():
    for make in (partial(ours.scale_by_belief, rectify=True), ours.ranger_adabelief):
        with pytest.warns(UserWarning, match="never become adaptive") as record:
            make(0.9, b2=0.5)
        assert [warning.filename for warning in record] == [__file__]
