"""What the checks of a backend share: variables, gradients, and the walk of the reference beside an optimizer."""

from __future__ import annotations

import sys
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

FRAMEWORKS = {"tensorflow", "jax", "torch", "optax"}
BEFORE = FRAMEWORKS & sys.modules.keys()  # what Keras itself has imported

import adabelief.keras  # noqa: E402
from adabelief.keras import RangerAdaBelief  # noqa: E402

IMPORTED = FRAMEWORKS & sys.modules.keys() - BEFORE
"""The frameworks that `import adabelief.keras` has imported beside those of Keras."""

from tests.mixes import mixes_without  # noqa: E402
from tests.oracle import Walk  # noqa: E402

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":  # two devices, for strategies; to be said before TensorFlow begins
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2.4
only = {name: pytest.mark.skipif(name != BACKEND, reason=f"of {name}") for name in ("tensorflow", "jax", "torch")}

SHAPES = ((), (5,), (3, 4), (2, 3, 2, 2))
STATES = {"exp_avg": "_exp_avgs", "exp_avg_var": "_exp_avg_vars", "max_exp_avg_var": "_max_exp_avg_vars"}
STATES["slow_buffer"] = "_slow_buffers"
OPTIONS = ("max_update", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd", "amsgrad")
OPTIONS += ("use_gc", "gc_conv_only", "gc_loc", "gc_outputs_last", "k", "alpha")
ARGUMENTS = {"lr": "learning_rate", "eps": "epsilon"}
MIXES = mixes_without("maximize")


class Reference:
    """The walks beside the variables of an optimizer, whose options are read from it unless they are given."""

    def __init__(
        self,
        optimizer: Any,
        variables: list[Any],
        undecayed: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        self.optimizer, self.variables, self.undecayed, self.options = optimizer, variables, undecayed, options
        self.walks = [Walk({}, allowing=["lookahead", "small means"]) for _ in variables]

    def read(self) -> dict[str, Any]:
        o = self.optimizer
        decay = o.weight_decay if isinstance(o.weight_decay, float) else o.weight_decay(o._iterations)
        options = {name: getattr(o, name) for name in OPTIONS}
        options |= {"lr": number(o.learning_rate), "betas": (o.beta_1, o.beta_2), "eps": o.epsilon}
        options |= {"weight_decay": number(decay), "adaptive_from": o.adaptive_from}
        return options | {"eps_before_adaptive": not isinstance(o, RangerAdaBelief)}

    def step(self, gradients: list[np.ndarray], expected_gradients: list[np.ndarray] | None = None, apply=None) -> None:
        """Applies the gradients; `expected_gradients` are what is left of them after clipping and the like."""
        before, options = [array(v) for v in self.variables], self.read() if self.options is None else self.options
        grads = [ops.convert_to_tensor(g, dtype=v.dtype) for g, v in zip(gradients, self.variables, strict=True)]
        (apply or self.optimizer.apply)(grads, self.variables)
        self.compare(before, expected_gradients or [array(g) for g in grads], options)

    def compare(self, before: list[np.ndarray], gradients: list[np.ndarray], options: dict[str, Any]) -> None:
        """Asserts what a step from `before` with these gradients has come to."""
        lists = {name: getattr(self.optimizer, attribute) for name, attribute in STATES.items()}
        for i, (v, g) in enumerate(zip(self.variables, gradients, strict=True)):
            state = {name: ops.convert_to_numpy(xs[i]) for name, xs in lists.items() if xs}
            assert {x.dtype for x in state.values()} == {np.dtype("float64" if v.dtype == "float64" else "float32")}
            undecayed = {"weight_decay": 0.0} if i in self.undecayed else {}
            self.walks[i].step(before[i], g, array(v), state, ml_dtypes.finfo(v.dtype), **options | undecayed)


def compiled(optimizer: Any, traces: list[int]) -> Any:
    """`apply` in a tf.function, or in jax.jit with donation; on PyTorch as it is."""
    if BACKEND == "tensorflow":

        def apply_gradients(grads, variables):
            traces.append(1)
            optimizer.apply_gradients(zip(grads, variables, strict=True))

        step = tf.function(apply_gradients, autograph=False)
        return lambda grads, variables: step(grads, [v.value for v in variables])  # Keras's are constants to it
    if BACKEND == "jax":
        import jax

        def stateless_apply(*arguments):
            traces.append(1)
            return optimizer.stateless_apply(*arguments)

        stateless_apply = jax.jit(stateless_apply, donate_argnums=(0, 2))

        def apply(grads, variables):
            if not optimizer.built:
                optimizer.build(variables)
            news = stateless_apply([v.value for v in optimizer.variables], grads, [v.value for v in variables])
            for v, x in zip((*variables, *optimizer.variables), [*news[0], *news[1]], strict=True):
                v.assign(x)

        return apply
    return optimizer.apply


def array(x: Any) -> np.ndarray:
    x = ops.convert_to_tensor(x)
    x = ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) == "bfloat16" else x
    return np.array(ops.convert_to_numpy(x)).astype(np.float64)


def number(x: Any) -> float:
    return float(x if isinstance(x, float) else array(x))


def new_variables(dtype: str = "float32", shapes: Any = SHAPES, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [
        keras.Variable(random.normal(size=shape), dtype=dtype, name=f"weight_{i}") for i, shape in enumerate(shapes)
    ]


def gradients(step: int, shapes: Any = SHAPES) -> list[np.ndarray]:
    random = np.random.default_rng(1000 + step)
    return [random.normal(size=shape) for shape in shapes]


def named(name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class and Keras's arguments for a mix."""
    arguments = {ARGUMENTS.get(option, option): value for option, value in options.items()}
    if "betas" in arguments:
        arguments["beta_1"], arguments["beta_2"] = arguments.pop("betas")
    return getattr(adabelief.keras, name), arguments


def new_model(dtype: Any = None) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh", dtype=dtype),
            keras.layers.LayerNormalization(dtype=dtype),
            keras.layers.Dense(1, dtype=dtype),
        ]
    )


X = np.random.default_rng(5).normal(size=(32, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
