"""What holds on every Keras backend: collected by the process that test_keras.py starts for each of them."""

from __future__ import annotations

import doctest
import warnings
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops
from keras.optimizers import schedules

import adabelief.keras
from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief, WarmupDecay
from adabelief.rule import reference_step
from tests.mixes import DECAYS, DEFAULTS, Walk, mixes_without

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2.4
only = {name: pytest.mark.skipif(name != BACKEND, reason=f"of {name}") for name in ("tensorflow", "jax", "torch")}

SHAPES = ((), (5,), (3, 4), (2, 3, 2, 2))
STATES = {"exp_avg": "_exp_avgs", "exp_avg_var": "_exp_avg_vars", "max_exp_avg_var": "_max_exp_avg_vars"}
STATES["slow_buffer"] = "_slow_buffers"
OPTIONS = ("weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd", "amsgrad")
OPTIONS += ("use_gc", "gc_conv_only", "gc_loc", "gc_outputs_last", "k", "alpha")
ARGUMENTS = {"lr": "learning_rate", "eps": "epsilon", "adaptive_from": "n_sma_threshold"}
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
        self.walks = [Walk({}) for _ in variables]

    def read(self) -> dict[str, Any]:
        o = self.optimizer
        decay = o.weight_decay if isinstance(o.weight_decay, float) else o.weight_decay(o._iterations)
        options = {name: getattr(o, name) for name in OPTIONS}
        options |= {"lr": number(o.learning_rate), "betas": (o.beta_1, o.beta_2), "eps": o.epsilon}
        options |= {"weight_decay": number(decay), "adaptive_from": o.n_sma_threshold}
        return options | {"eps_before_adaptive": not isinstance(o, RangerAdaBelief)}

    def step(self, gradients: list[np.ndarray], expected_gradients: list[np.ndarray] | None = None, apply=None) -> None:
        """Applies the gradients; `expected_gradients` are what is left of them after clipping and the like."""
        before, options = [array(v) for v in self.variables], self.read() if self.options is None else self.options
        grads = [ops.convert_to_tensor(g, dtype=v.dtype) for g, v in zip(gradients, self.variables, strict=True)]
        (apply or self.optimizer.apply)(grads, self.variables)
        for i, (v, g) in enumerate(zip(self.variables, expected_gradients or map(array, grads), strict=True)):
            lists = {name: getattr(self.optimizer, attribute) for name, attribute in STATES.items()}
            state = {name: ops.convert_to_numpy(xs[i]) for name, xs in lists.items() if xs}
            assert {x.dtype for x in state.values()} == {np.dtype("float64" if v.dtype == "float64" else "float32")}
            undecayed = {"weight_decay": 0.0} if i in self.undecayed else {}
            self.walks[i].step(before[i], g, array(v), state, ml_dtypes.finfo(v.dtype), **options | undecayed)


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


@pytest.fixture
def float64():
    floatx = keras.config.floatx()
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(floatx)
    if BACKEND == "jax":
        jax.config.update("jax_enable_x64", False)


def compiled(optimizer: Any, traces: list[int]) -> Any:
    """`apply` in a tf.function, or in jax.jit with donation; on PyTorch as it is."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def apply_gradients(grads, variables):
            traces.append(1)
            optimizer.apply_gradients(zip(grads, variables, strict=True))

        return tf.function(apply_gradients, autograph=False)
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


def fifty_steps(mix: str, dtype: str) -> None:
    name, options = MIXES[mix]
    cls, arguments = named(name, options)
    optimizer, traces = cls(**arguments), []
    variables = new_variables(dtype)
    if BACKEND == "tensorflow":  # whose compiled functions take Keras's variables for constants
        step = compiled(optimizer, traces)
        apply = lambda grads, variables: step(grads, [v.value for v in variables])  # noqa: E731
        optimizer.build(variables)
    else:
        apply = compiled(optimizer, traces)
    outputs_last = {"gc_outputs_last": True} if name == "RangerAdaBelief" else {}
    reference = Reference(optimizer, variables, options=DEFAULTS[name] | outputs_last | options)
    for t in range(50):
        reference.step(gradients(t), apply=apply)
    assert len(traces) == (BACKEND != "torch")


def share(which: int) -> list[str]:
    """All mixes, or half of them in each type where they have to be compiled."""
    return [mix for i, mix in enumerate(MIXES) if BACKEND == "torch" or (i + i // 2) % 2 == which]


@pytest.mark.parametrize("mix", share(0))
def test_fifty_steps(mix):
    fifty_steps(mix, "float32")


@pytest.mark.parametrize("mix", share(1))
def test_fifty_steps_float64(mix, float64):
    fifty_steps(mix, "float64")


@pytest.mark.parametrize("mix", ["AdaBelief-coupled-waiting-amsgrad", "Ranger-coupled-step-first"])
def test_eager(mix):
    cls, arguments = named(*MIXES[mix])
    reference = Reference(cls(**arguments), new_variables())
    for t in range(8):
        reference.step(gradients(t))


@only["tensorflow"]
def test_built_inside_a_function():
    import tensorflow as tf

    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2)

    @tf.function
    def step(grads):
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    reference = Reference(optimizer, variables)
    for t in range(5):
        reference.step(gradients(t), apply=lambda grads, _: step(grads))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_narrow_variables_have_float32_state(cls, dtype):
    reference = Reference(cls(learning_rate=1e-2, amsgrad=True), new_variables(dtype))
    for t in range(10):
        reference.step(gradients(t))


@only["torch"]
def test_stateless_apply_leaves_its_arguments():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2)
    optimizer.build(variables)

    def apply(grads, variables):
        everything = (*variables, *optimizer.variables)
        before = [array(v) for v in everything]
        state = [v.value for v in optimizer.variables]
        news = optimizer.stateless_apply(state, grads, [v.value for v in variables])
        for v, x in zip(everything, before, strict=True):
            assert np.array_equal(array(v), x)
        for v, x in zip(everything, [*news[0], *news[1]], strict=True):
            v.assign(x)

    reference = Reference(optimizer, variables)
    for t in range(4):
        reference.step(gradients(t), apply=apply)


@only["torch"]
def test_lists_go_through_one_update(monkeypatch):
    from adabelief.torch.fused import unserved

    variables = new_variables()
    optimizer = AdaBeliefW(1e-2)
    reference = Reference(optimizer, variables)
    monkeypatch.setattr(optimizer, "update_step", None)
    calls = []
    foreach = adabelief.keras.update
    monkeypatch.setattr(adabelief.keras, "update", lambda *a, **k: calls.append(len(a[0].params)) or foreach(*a, **k))
    for t in range(5):
        reference.step(gradients(t))
    if unserved("cpu"):
        assert calls == [len(variables)] * 5
        return
    assert calls == []
    plan = optimizer._lists._plans[True]
    reference.step(gradients(5))
    assert optimizer._lists._plans[True] is plan
    # gradients in another layout, and of another type, are left to foreach
    reference.step(gradients(6), apply=lambda g, v: optimizer.apply([*g[:2], g[2].t().contiguous().t(), g[3]], v))
    reference.step(gradients(7), apply=lambda g, v: optimizer.apply([x.double() for x in g], v))
    assert calls == [1, len(variables)]


@only["torch"]
def test_update_step_alone_is_the_same():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=2, weight_decay=0.1)
    optimizer.build(variables)

    def apply(grads, variables):
        for g, v in zip(grads, variables, strict=True):
            optimizer.update_step(g, v, 1e-2)
        optimizer._iterations.assign_add(1)

    import torch

    reference = Reference(optimizer, variables)
    with torch.no_grad():
        for t in range(10):
            reference.step(gradients(t), apply=apply)


@only["torch"]
def test_sparse_gradient_is_refused():
    variable = keras.Variable(np.ones((3, 2)))
    with pytest.raises(ValueError, match="to_dense"):
        AdaBelief().apply([ops.ones((3, 2)).to_sparse()], [variable])


def test_schedules():
    variables = new_variables()
    rates = schedules.ExponentialDecay(1e-2, 5, 0.5), schedules.InverseTimeDecay(0.1, 5, 0.5)
    optimizer = AdaBelief(rates[0], weight_decay=rates[1], weight_decouple=True)
    reference = Reference(optimizer, variables)
    for t in range(10):
        reference.step(gradients(t))
    copy = AdaBelief.from_config(optimizer.get_config())
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy.weight_decay, schedules.InverseTimeDecay)


def test_learning_rate_function_and_assignment():
    optimizer = AdaBelief(1)
    reference = Reference(optimizer, new_variables())
    for t, rate in enumerate([0.1, 0.01]):
        optimizer.learning_rate = rate
        reference.step(gradients(t))
    optimizer = AdaBelief(lambda: 0.1)
    Reference(optimizer, new_variables()).step(gradients(0))


@pytest.mark.parametrize("excluded", ["variables", "names"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled", "fixed"])
def test_exclusions(decay, excluded):
    variables = new_variables()
    optimizer = AdaBelief(1e-2, **DECAYS[decay])
    if excluded == "names":
        optimizer.exclude_from_weight_decay(var_names=["weight_1", "weight_2"])
    else:
        optimizer.exclude_from_weight_decay(var_list=variables[1:3])
    optimizer.build(variables)
    for again in (optimizer, AdaBelief.from_config(optimizer.get_config())):
        reference = Reference(again, variables, undecayed=(1, 2))
        for t in range(3):
            reference.step(gradients(t))
        assert again.get_config() == optimizer.get_config()


CONFIGS = [
    AdaBelief(2e-3, 0.8, 0.99, 1e-12, 0.1, True, True, True, True, False, clipnorm=1.0, name="mine"),
    AdaBeliefW(fixed_decay=True, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
    RangerAdaBelief(k=3, alpha=0.3, n_sma_threshold=4.5, use_gc=False, gc_loc=False, gc_outputs_last=False),
    AdaBelief(WarmupDecay(1e-3, 100, min_lr=1e-5), gradient_accumulation_steps=2, loss_scale_factor=8.0),
]


@pytest.mark.parametrize("optimizer", CONFIGS, ids=lambda o: type(o).__name__)
def test_config_round_trip(optimizer):
    config = optimizer.get_config()
    for copy in (
        type(optimizer).from_config(config),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    ):
        assert type(copy) is type(optimizer)
        assert copy.get_config() == config
    type(optimizer)(**{k: v for k, v in config.items() if not isinstance(v, dict)})


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


@pytest.mark.parametrize("resumed_by", ["load_model", "load_weights"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaBelief(1e-2, rectify=True, amsgrad=True),
        lambda: AdaBeliefW(WarmupDecay(1e-2, 16)),
        lambda: RangerAdaBelief(1e-2, k=3, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(AdaBeliefW(1e-2), dynamic_growth_steps=3),
    ],
    ids=["AdaBelief", "AdaBeliefW", "Ranger", "LossScale"],
)
def test_saved_model_resumes_to_the_bit(make, resumed_by, tmp_path):
    model = new_model()
    optimizer = make()
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    inner.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if v.name in ("bias", "gamma")])
    model.compile(optimizer, "mse")
    fit = dict(batch_size=8, shuffle=False, verbose=0)
    model.fit(X, Y, epochs=2, **fit)
    path = str(tmp_path / "model.keras")
    model.save(path)
    if resumed_by == "load_model":
        resumed = keras.saving.load_model(path)
    else:
        resumed = keras.models.clone_model(model)
        resumed.compile(type(optimizer).from_config(optimizer.get_config()), "mse")
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(path)
    for each in (model, resumed):
        each.fit(X, Y, epochs=2, **fit)
    pairs = [*zip(model.weights, resumed.weights, strict=True)]
    pairs += zip(model.optimizer.variables, resumed.optimizer.variables, strict=True)
    for a, b in pairs:
        assert np.array_equal(array(a), array(b)), a.path


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("cls", [AdaBelief, RangerAdaBelief])
def test_fit_under_policies(cls, policy):
    model = new_model(policy)
    model.compile(cls(1e-2, epsilon=1e-12), "mse")
    if policy == "mixed_float16" and not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        model.compile(keras.optimizers.LossScaleOptimizer(cls(1e-2, epsilon=1e-12)), "mse")
    history = model.fit(X, Y, epochs=15, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert {keras.backend.standardize_dtype(m.dtype) for m in optimizer._exp_avgs} == {"float32"}


@pytest.mark.skipif(BACKEND == "jax", reason="Keras's LossScaleOptimizer.apply does not run outside of jax.jit")
def test_loss_scale_optimizer_unscales_and_skips():
    variables = new_variables()
    inner = AdaBelief(1e-2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
    reference = Reference(inner, variables)
    scaled = lambda grads, variables: optimizer.apply([4.0 * g for g in grads], variables)  # noqa: E731
    for t in range(3):
        reference.step(gradients(t), apply=scaled)
    before = [array(v) for v in (*variables, *inner.variables)]
    optimizer.apply([ops.convert_to_tensor(g * np.inf, "float32") for g in gradients(3)], variables)
    for v, x in zip((*variables, *inner.variables), before, strict=True):
        assert np.array_equal(array(v), x)


def test_loss_scale_factor_and_clipping():
    for options, expected in [
        ({"loss_scale_factor": 8.0}, lambda gs: [g / 8 for g in gs]),
        ({"clipnorm": 0.5}, lambda gs: [g * min(1, 0.5 / np.linalg.norm(g)) for g in gs]),
        ({"global_clipnorm": 0.5}, lambda gs: [g * 0.5 / np.sqrt(sum((x**2).sum() for x in gs)) for g in gs]),
    ]:
        reference = Reference(AdaBelief(1e-2, epsilon=1e-8, **options), new_variables())
        for t in range(3):
            gs = [g.astype(np.float32).astype(float) for g in gradients(t)]
            reference.step(gs, expected_gradients=expected(gs))


def test_gradient_accumulation():
    variables = new_variables()
    optimizer = AdaBelief(1e-2, epsilon=1e-8, weight_decay=0.1, rectify=True, gradient_accumulation_steps=2)
    reference = Reference(optimizer, variables)

    def apply(grads, variables):
        before = [array(v) for v in variables]
        optimizer.apply([0.5 * g for g in grads], variables)
        for v, x in zip(variables, before, strict=True):
            assert np.array_equal(array(v), x)
        optimizer.apply([1.5 * g for g in grads], variables)

    for t in range(8):
        reference.step(gradients(t), apply=apply)


def test_ema():
    variables, plain = new_variables(), new_variables()
    optimizer, other = AdaBelief(1e-2, use_ema=True, ema_momentum=0.5), AdaBelief(1e-2)
    for t in range(4):
        grads = [ops.convert_to_tensor(g, "float32") for g in gradients(t)]
        optimizer.apply(grads, variables)
        other.apply(grads, plain)
        average = [array(v) if t == 0 else 0.5 * (a + array(v)) for a, v in zip(average if t else plain, plain)]  # noqa: B905, F821
    optimizer.finalize_variable_values(variables)
    for v, x in zip(variables, average, strict=True):
        np.testing.assert_allclose(array(v), x, rtol=1e-6)


def test_missing_gradients_and_late_variables():
    variables = new_variables(shapes=((3, 2), (4,)))
    optimizer = RangerAdaBelief(1e-2, k=2)
    optimizer.build(variables)
    g = [ops.ones((3, 2)), ops.ones(4)]
    for _ in range(3):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([g[0], None], variables)
    before = array(variables[1])
    optimizer.apply_gradients([(g[1], variables[1])])
    assert np.all(array(variables[1]) != before)
    assert np.abs(array(variables[1]) - before).max() < 0.1  # the slow weights began as the variable


def test_weights_set_after_building_are_the_slow_weights():
    variables = new_variables()
    optimizer = RangerAdaBelief(1e-2, k=1)
    optimizer.build(variables)
    for v in variables:
        v.assign(v + 1.0)
    reference = Reference(optimizer, variables)
    for t in range(3):
        reference.step(gradients(t))


def tf_defaults(**options: Any) -> dict[str, Any]:
    return {"epsilon": 1e-14, "weight_decouple": True, "rectify": True} | options


ADABELIEF_TF = {
    "default": ({}, [0.9475605, 1.9471607], [2.94784, 3.9478]),
    "amsgrad": ({"amsgrad": True}, [0.9485513, 1.9481515], [2.9488308, 3.9487908]),
    "decay": ({"weight_decay": 0.01}, [0.94657826, 1.9451787], [2.9448593, 3.9438188]),
    "warm-up": (
        {"learning_rate": WarmupDecay(1e-3, total_steps=100, min_lr=1e-5)},
        [0.9811546, 1.9810544],
        [2.981224, 3.981214],
    ),
    "plain": ({"rectify": False}, [0.6672395, 1.6672392], [2.667238, 3.6672378]),
    "schedules": (
        {
            "learning_rate": schedules.ExponentialDecay(1e-3, 50, 0.5),
            "weight_decay": schedules.InverseTimeDecay(2e-3, 25, 0.25),
        },
        [0.9778532, 1.9773799],
        [2.977964, 3.977844],
    ),
}


@pytest.mark.parametrize("name", ADABELIEF_TF)
def test_values_of_adabelief_tf(name):
    """The dense table of adabelief-tf's own tests: 100 steps."""
    options, *expected = ADABELIEF_TF[name]
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0])]
    optimizer = AdaBelief(**tf_defaults(**options))
    for _ in range(100):
        optimizer.apply([ops.convert_to_tensor([0.1, 0.2]), ops.convert_to_tensor([0.03, 0.04])], variables)
    for v, x in zip(variables, expected, strict=True):
        np.testing.assert_allclose(array(v), x, atol=2e-4)


ADABELIEF_TF_SPARSE = {
    "default": ({}, [0.78374314, 2.0], [3.0, 3.7839816]),
    "amsgrad": ({"amsgrad": True}, [0.7947248, 2.0], [3.0, 3.7949643]),
    "decay": ({"weight_decay": 0.01}, [0.7818859, 2.0], [3.0, 3.7761304]),
    "warm-up": (
        {"learning_rate": WarmupDecay(1e-3, total_steps=200, min_lr=1e-5)},
        [0.9211433, 2.0],
        [3.0, 3.9211729],
    ),
    "plain": ({"rectify": False}, [0.0538935, 2.0], [3.0, 3.0538921]),
}


@only["tensorflow"]
@pytest.mark.parametrize("name", ADABELIEF_TF_SPARSE)
def test_sparse_values_of_adabelief_tf(name):
    """The sparse table of adabelief-tf's own tests: 200 steps, inside tf.function."""
    import tensorflow as tf

    options, *expected = ADABELIEF_TF_SPARSE[name]
    variables = [tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])]
    optimizer = AdaBelief(**tf_defaults(**options))
    optimizer.build(variables)

    @tf.function
    def step():
        grads = [tf.IndexedSlices([g], [i], [2]) for i, g in ((0, 0.1), (1, 0.04))]
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    for _ in range(200):
        step()
    for v, x in zip(variables, expected, strict=True):
        np.testing.assert_allclose(v.numpy(), x, atol=2e-4)


@only["tensorflow"]
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}, {"clipnorm": 1e6}], ids=str)
def test_sparse_rows(options):
    """Rows without a gradient keep their values while their state decays; repeated rows count as their sum."""
    import tensorflow as tf

    variable = keras.Variable(np.random.default_rng(0).normal(size=(4, 3)))
    optimizer = AdaBelief(1e-2, epsilon=1e-8, **options)
    state: dict[str, Any] = {}
    rule = {"lr": number(optimizer.learning_rate), "eps": 1e-8, "amsgrad": "amsgrad" in options}
    for t in range(20):
        rows = [t % 4, (t + 1) % 4, t % 4]
        values = np.random.default_rng(t).normal(size=(3, 3)).astype("float32")
        gradient = np.zeros((4, 3))
        np.add.at(gradient, rows, values)
        touched = np.isin(np.arange(4), rows)
        before, previous = array(variable), state
        optimizer.apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), (4, 3))], [variable])
        p, state = reference_step(before, gradient, state, weight_decay=options.get("weight_decay", 0.0), **rule)
        if previous:
            state["exp_avg"][~touched] = 0.9 * previous["exp_avg"][~touched]
            state["exp_avg_var"][~touched] = 0.999 * previous["exp_avg_var"][~touched] + 1e-8
        else:
            state["exp_avg"][~touched], state["exp_avg_var"][~touched] = 0.0, 1e-8
        if "amsgrad" in options:
            state["max_exp_avg_var"] = np.maximum(previous.get("max_exp_avg_var", 0.0), state["exp_avg_var"])
        np.testing.assert_allclose(array(variable), np.where(touched[:, None], p, before), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(optimizer._exp_avgs[0]), state["exp_avg"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(optimizer._exp_avg_vars[0]), state["exp_avg_var"], rtol=1e-5)


@only["tensorflow"]
@pytest.mark.parametrize("options", [{}, {"gc_loc": False}, {"gc_outputs_last": False}], ids=str)
def test_sparse_rows_that_are_centralized_are_those_of_the_dense_gradient(options):
    import tensorflow as tf

    optimizers = [RangerAdaBelief(1e-2, **options) for _ in range(2)]
    variables = [keras.Variable(np.random.default_rng(0).normal(size=(4, 3))) for _ in range(2)]
    for t in range(10):
        values = np.random.default_rng(t).normal(size=(2, 3)).astype("float32")
        sparse = tf.IndexedSlices(tf.constant(values), tf.constant([t % 4, (t + 1) % 4]), (4, 3))
        for optimizer, variable, gradient in zip(
            optimizers, variables, (sparse, tf.convert_to_tensor(sparse)), strict=True
        ):
            optimizer.apply([gradient], [variable])
    assert np.array_equal(*map(array, variables))


@pytest.mark.parametrize("cls", [AdaBelief, AdaBeliefW, RangerAdaBelief])
def test_embedding_model_trains(cls):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Embedding(10, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    model.compile(cls(1e-2, clipnorm=1.0), "mse")
    tokens = np.random.default_rng(0).integers(0, 10, size=(64, 5))
    history = model.fit(tokens, (tokens == 3).sum(1)[:, None], epochs=15, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_warmup_decay_matches_adabelief_tf_formula():
    schedule = WarmupDecay(2e-3, total_steps=50, warmup_proportion=0.3, min_lr=1e-4)
    for t in range(1, 70):
        warmup = 50 * 0.3
        expected = 2e-3 * t / warmup if t <= warmup else 2e-3 - 1.9e-3 * min(t - warmup, 35) / 35
        assert number(schedule(t - 1)) == pytest.approx(expected, rel=1e-5)
    assert number(WarmupDecay(1e-3, 10, 0.0)(0)) == pytest.approx(9e-4)
    assert number(WarmupDecay(1e-3, 10, 1.0)(9)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (AdaBelief, {"learning_rate": -1.0}, r"learning_rate must be a finite number, at least 0, got -1\.0"),
        (AdaBelief, {"learning_rate": "fast"}, "learning_rate"),
        (AdaBelief, {"beta_1": 1.0}, r"beta_1 must be a number in \[0, 1\), got 1\.0"),
        (AdaBelief, {"beta_2": -0.1}, "beta_2"),
        (AdaBelief, {"epsilon": float("nan")}, "epsilon must be a finite number, at least 0, got nan"),
        (AdaBeliefW, {"weight_decay": "1e-2"}, "weight_decay must be a finite number, at least 0, got '1e-2'"),
        (RangerAdaBelief, {"k": 0}, "k must be a whole number, at least 1, got 0"),
        (RangerAdaBelief, {"alpha": 2}, "alpha"),
        (RangerAdaBelief, {"n_sma_threshold": 3}, "n_sma_threshold must be a number, at least 4, got 3"),
        (AdaBelief, {"beta1": 0.9}, "beta1"),
        (WarmupDecay, {"total_steps": 0}, "total_steps must be a finite number, at least 1, got 0"),
        (WarmupDecay, {"warmup_proportion": 2}, "warmup_proportion"),
    ],
)
def test_errors(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_warnings():
    with pytest.warns(UserWarning, match=r"clipvalue=0\.1.*clipnorm") as caught:
        optimizer = AdaBelief(clipvalue=0.1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="never become adaptive"):
        AdaBelief(rectify=True, beta_2=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdaBelief(clipnorm=1.0)
        optimizer.apply([ops.ones(2)], [keras.Variable([1.0, 1.0])])


def test_doctests():
    result = doctest.testmod(adabelief.keras)
    assert result.attempted > 10
    assert result.failed == 0
