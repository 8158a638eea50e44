"""Every way in which Keras runs an optimizer, beside its own AdamW: where that one trains, ours train, by the rule.

A way is a choice of policy, arguments, compilation and distribution. `make test` takes those that depart from the plain
one in one choice, with the embedding (whose model has dense layers too) and without torch.compile of a whole step,
which takes a minute a piece; `make test-all` takes every combination.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.keras.checks.common import BACKEND, QUIET, Reference, array
from tests.mixes import ALL_WAYS as ALL

pytestmark = QUIET

POLICIES = ("float32", "mixed_float16")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "": {},
    "ema": {"use_ema": True, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipnorm": {"clipnorm": 0.1},
    "global-clipnorm": {"global_clipnorm": 0.1},
}
COMPILATIONS = {"graph": {"jit_compile": False}, "jit": {"jit_compile": True}, "eager": {"run_eagerly": True}}
DISTRIBUTIONS = {"tensorflow": ("one", "mirrored"), "jax": ("one", "data-parallel"), "torch": ("one",)}[BACKEND]
MODELS = ("embedding", "dense") if ALL else ("embedding",)
CLASSES = (AdaBelief, AdaBeliefW, RangerAdaBelief)

SAMPLES, BATCH = 64, 8
RANDOM = np.random.default_rng(0)
INPUTS = {
    "dense": RANDOM.normal(size=(SAMPLES, 6)).astype("float32"),
    # every token is in every batch: where a gradient has few rows, the others do not move
    "embedding": RANDOM.permuted(np.tile(np.arange(10), (SAMPLES // 2, 1)), axis=1).reshape(SAMPLES, 5),
}
TARGETS = (3 + RANDOM.normal(size=(SAMPLES, 1))).astype("float32")  # no gradient is what cancellation leaves of others


class Way(NamedTuple):
    policy: str
    arguments: str
    compilation: str
    distribution: str


PLAIN = Way(POLICIES[0], "", "graph", DISTRIBUTIONS[0])
WAYS = [
    way
    for way in map(Way._make, product(POLICIES, ARGUMENTS, COMPILATIONS, DISTRIBUTIONS))
    if ALL or (sum(a != b for a, b in zip(way, PLAIN, strict=True)) <= 1 and (BACKEND, way[2]) != ("torch", "jit"))
]


@functools.cache  # a second strategy on the same devices takes up the keys of the first one's collective operators
def mirrored() -> Any:
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def distribution(name: str) -> AbstractContextManager[Any]:
    if name == "mirrored":
        return mirrored().scope()
    if name == "data-parallel":
        return keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope()
    return nullcontext()


def new_model(kind: str) -> Any:
    first = (
        [keras.layers.Input((6,)), keras.layers.Dense(4, use_bias=False)]
        if kind == "dense"
        else [keras.layers.Embedding(10, 4), keras.layers.GlobalAveragePooling1D()]
    )
    return keras.Sequential([*first, keras.layers.Dense(1)])


def loss_and_gradients(
    kind: str, weights: list[np.ndarray], batch: slice, arguments: str = ""
) -> tuple[float, list[np.ndarray]]:
    """The mean squared error of a batch and its gradients, clipped as Keras does: in NumPy."""
    first, kernel, bias = weights
    x, y = INPUTS[kind][batch], TARGETS[batch]
    features = x @ first if kind == "dense" else first[x].mean(1)
    error = features @ kernel + bias - y
    d = 2 * error / len(y)
    d_features = d @ kernel.T
    if kind == "dense":
        d_first = x.T @ d_features
    else:
        d_first = np.zeros_like(first)
        np.add.at(d_first, x, d_features[:, None] / x.shape[1])
    gradients = [d_first, features.T @ d, d.sum(0)]
    norms = [np.linalg.norm(g) for g in gradients]
    if BACKEND == "tensorflow" and kind == "embedding":  # the norm of a row for each token, before they are added up
        norms[0] = np.linalg.norm(d_features) / np.sqrt(x.shape[1])
    if arguments == "global-clipnorm":
        norms = [np.linalg.norm(norms)] * len(norms)
    if "clipnorm" in arguments:
        gradients = [g * min(1, 0.1 / norm) for g, norm in zip(gradients, norms, strict=True)]
    return float(np.mean(error**2)), gradients


class Watch(keras.callbacks.Callback):
    """Holds every step of `fit` to the reference's, from the weights that it found."""

    def __init__(self, way: Way, kind: str, optimizer: Any) -> None:
        super().__init__()
        self.way, self.kind, self.optimizer = way, kind, optimizer
        self.waiting: list[list[np.ndarray]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.reference = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self.waiting:
            self.before = [array(v) for v in self.model.trainable_variables]
        part = slice(batch * BATCH, (batch + 1) * BATCH)
        self.waiting.append(loss_and_gradients(self.kind, self.before, part, self.way.arguments)[1])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if len(self.waiting) < (self.optimizer.gradient_accumulation_steps or 1):
            return
        variables = self.model.trainable_variables  # to ask for the model brings its state back from JAX's step
        self.reference = self.reference or Reference(self.optimizer, variables)
        gradients = [np.mean(each, axis=0) for each in zip(*self.waiting, strict=True)]
        self.reference.compare(self.before, gradients, self.reference.read())
        self.waiting = []


def trained(way: Way, kind: str, make: Any, watched: bool) -> None:
    """Trains a model, and asserts that its loss falls."""
    keras.utils.set_random_seed(1)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(way.policy)
    try:
        with distribution(way.distribution):
            model, optimizer = new_model(kind), make(0.02, **ARGUMENTS[way.arguments])
            model.build((None, *INPUTS[kind].shape[1:]))
            before = [array(v) for v in model.trainable_variables]
            model.compile(optimizer, "mse", **COMPILATIONS[way.compilation])
            watch = [Watch(way, kind, optimizer)] if watched and way.policy == "float32" else []
            model.fit(INPUTS[kind], TARGETS, batch_size=BATCH, epochs=1, shuffle=False, verbose=0, callbacks=watch)
            after = [array(v) for v in model.trainable_variables]
    finally:
        keras.config.set_dtype_policy(policy)
    first, last = (loss_and_gradients(kind, weights, slice(None))[0] for weights in (before, after))
    assert last < first


def failure_of_adamw(way: Way, kind: str) -> str:
    """What AdamW says where it does not train; nothing where it does."""
    try:
        trained(way, kind, keras.optimizers.AdamW, watched=False)
    except Exception as error:  # whatever it is: the table asks only whether there is one
        return f"{type(error).__name__}: {error}"
    return ""


# AdaBeliefW is AdaBelief with other defaults: one way shows it, unless all are asked for.
CASES = [(way, cls) for way in WAYS for cls in CLASSES if ALL or way == PLAIN or cls is not AdaBeliefW]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("way", "cls"), CASES, ids=lambda x: x.__name__ if isinstance(x, type) else "-".join(x))
def test_trains_where_adamw_trains(way, kind, cls):
    try:
        trained(way, kind, functools.partial(cls, epsilon=1e-6), watched=True)
    except Exception:
        if failure := failure_of_adamw(way, kind):
            pytest.skip(f"AdamW does not train either: {failure[:200]}")
        raise
