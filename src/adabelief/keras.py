"""AdaBelief for Keras 3: `AdaBelief`, `AdaBeliefW` and `RangerAdaBelief` on TensorFlow, JAX and PyTorch.

The scalars of a step come from `adabelief.rule`. On TensorFlow and JAX the rest is written in `keras.ops`, variable by
variable; on PyTorch the whole list goes through the update of `adabelief.torch`: its kernels, or foreach.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

try:
    import keras
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise
    raise ImportError("AdaBelief for Keras needs keras: pip install 'adabelief[keras]'") from error

from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from adabelief import rule

__all__ = ["AdaBelief", "AdaBeliefW", "RangerAdaBelief", "WarmupDecay"]

BACKEND = keras.backend.backend()

Scalars = dict[str, tuple[Any, rule.Coefficients]]
"""By type of the state: the step number and its coefficients."""


class _Base(keras.optimizers.Optimizer):  # type: ignore[misc]
    """What the family shares: options and their checks, the state, the step, serialization."""

    rectify, amsgrad, weight_decouple, fixed_decay, degenerated_to_sgd = False, False, False, False, True
    use_gc, gc_conv_only, gc_loc, gc_outputs_last, k, alpha = False, False, True, False, 0, 0.5
    n_sma_threshold, _eps_before_adaptive = rule.ADAPTIVE_FROM, True
    _undecayed: frozenset[tuple[int, str]] = frozenset()
    _undecayed_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: Any, weight_decay: Any, options: dict[str, Any], **kwargs: Any) -> None:
        if isinstance(learning_rate, Real):
            _check("learning_rate", learning_rate, "a finite number, at least 0", lambda x: 0 <= x < math.inf)
            learning_rate = float(learning_rate)
        weight_decay = 0.0 if weight_decay is None else weight_decay
        for name, value in [("weight_decay", weight_decay), ("epsilon", options["epsilon"])]:
            if not (name == "weight_decay" and isinstance(value, LearningRateSchedule)):
                _check(name, value, "a finite number, at least 0", lambda x: 0 <= x < math.inf)
        for name in ("beta_1", "beta_2"):
            _check(name, options[name], "a number in [0, 1)", lambda x: 0 <= x < 1)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self._option_names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)
        if self.clipvalue is not None:
            warnings.warn(
                f"clipvalue={self.clipvalue}: elements clamped to a bound step after step look perfectly predictable "
                "to AdaBelief, and their steps grow up to epsilon's limit. Use clipnorm or global_clipnorm instead.",
                stacklevel=3,
            )
        if self.rectify and rule.sma_limit(self.beta_2) < self.n_sma_threshold:
            warnings.warn(
                f"beta_2={self.beta_2}: rectified steps never become adaptive, since N_inf = 2/(1 - beta_2) - 1 = "
                f"{rule.sma_limit(self.beta_2):.3g} is below {self.n_sma_threshold:g}. Use a larger beta_2 or no "
                "rectification.",
                stacklevel=3,
            )

    def build(self, variables: list[Any]) -> None:
        """Creates the state of the variables: zeros, and for Lookahead's slow weights the variables themselves."""
        if self.built:
            return
        super().build(variables)
        self._exp_avgs = self._new_state(variables, "exp_avg")
        self._exp_avg_vars = self._new_state(variables, "exp_avg_var")
        self._max_exp_avg_vars = self._new_state(variables, "max_exp_avg_var") if self.amsgrad else []
        self._slow_buffers = self._new_state(variables, "slow_buffer", copied=True) if self.k else []
        if BACKEND == "torch":
            self._lists = _TorchLists()

    def _new_state(self, variables: list[Any], name: str, copied: bool = False) -> list[Any]:
        state: list[Any] = []
        for v in variables:
            if self._overwrite_variable_with_gradient(v):
                state.append(None)
                continue
            initializer = _Copy(v) if copied else "zeros"
            dtype = _state_dtype(v)
            if dtype == keras.backend.standardize_dtype(v.dtype):
                state.append(self.add_variable_from_reference(v, name=name, initializer=initializer))
            else:
                full_name = f"{_path(v).replace('/', '_').replace(':', '_')}_{name}"
                layout = {"layout": v._layout} if getattr(v, "_layout", None) is not None else {}
                state.append(self.add_variable(v.shape, initializer, dtype, name=full_name, **layout))
        return state

    def _rule_options(self) -> dict[str, Any]:
        names = ("weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd")
        return {name: getattr(self, name) for name in names} | {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "adaptive_from": self.n_sma_threshold,
            "eps_before_adaptive": self._eps_before_adaptive,
        }

    def _current_weight_decay(self) -> Any:
        schedule = isinstance(self.weight_decay, LearningRateSchedule)
        return self.weight_decay(self._iterations) if schedule else self.weight_decay

    def _scalars(self, learning_rate: Any, dtypes: Iterable[str]) -> Scalars:
        """The scalars of the step that is due, computed once for each type of the state."""
        wd, scalars = self._current_weight_decay(), {}
        for dtype in dtypes:
            t, lr = ops.cast(self.iterations + 1, dtype), ops.cast(learning_rate, dtype)
            wd = wd if isinstance(wd, Real) else ops.cast(wd, dtype)
            scalars[dtype] = t, rule.coefficients(t, lr=lr, weight_decay=wd, xp=ops, **self._rule_options())
        return scalars

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if BACKEND == "torch":
            self._update_lists(grads, trainable_variables, learning_rate)
        else:
            dtypes = dict.fromkeys(map(_state_dtype, trainable_variables))
            super()._backend_update_step(grads, trainable_variables, self._scalars(learning_rate, dtypes))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Steps one variable.

        Args:
            gradient: Its gradient; with TensorFlow `tf.IndexedSlices` too. Then the state of all rows decays, but only
                the rows that have a gradient move, as in adabelief-tf; but all rows where gradients are centralized,
                since a mean over rows belongs to all of them.
            variable: A variable that the optimizer was built with.
            learning_rate: The learning rate, or the scalars of the step if they are known already.
        """
        i, dtype = self._get_variable_index(variable), _state_dtype(variable)
        scalars = learning_rate if isinstance(learning_rate, dict) else self._scalars(learning_rate, [dtype])
        t, c = scalars[dtype]
        if not self._decays(i):
            c = c._replace(shrink=1.0, l2=0.0)
        kept = [states[i] for states in (self._exp_avgs, self._exp_avg_vars, self._max_exp_avg_vars) if states]
        p, *state = old = [ops.cast(variable, dtype), *map(ops.convert_to_tensor, kept)]
        gradient = _dense(gradient) if self._centralizes(variable) else gradient
        rows = _sparse_rows(gradient)
        g = ops.cast(ops.convert_to_tensor(gradient), dtype)
        if rows is None:
            p, *state = self._stepped(g, *old, c=c)
        else:
            p_rows, *state_rows = self._stepped(*(ops.take(x, rows, axis=0) for x in (g, *old)), c=c)
            state[:2] = state[0] * (1.0 - c.mean_gain), state[1] * c.beta2 + c.eps
            state[2:] = [ops.maximum(x, state[1]) for x in state[2:]]
            p, *state = (_with_rows(x, rows, new) for x, new in zip((p, *state), (p_rows, *state_rows), strict=True))
        if self.k:
            slow_buffer, synchronize = self._slow_buffers[i], ops.equal(ops.mod(t, self.k), 0)
            slow = ops.where(t == 1, old[0], ops.convert_to_tensor(slow_buffer))
            p = ops.where(synchronize, slow + self.alpha * (p - slow), p)
            self.assign(slow_buffer, ops.where(synchronize, p, slow))
        for x, new in zip((variable, *kept), (p, *state), strict=True):
            self.assign(x, new)

    def _stepped(self, g: Any, p: Any, m: Any, s: Any, *s_max: Any, c: rule.Coefficients) -> list[Any]:
        """The rule, in the type of the state: the new p, m, s (and its maximum)."""
        if not _is_number(c.shrink, 1.0):
            p = c.shrink * p
        if not _is_number(c.l2, 0.0):
            g = g + c.l2 * p
        dims: tuple[int, ...] = ()
        if self._centralizes(g):
            dims = tuple(range(g.ndim - 1) if self.gc_outputs_last else range(1, g.ndim))
        if dims and self.gc_loc:
            g = g - _mean(g, dims)
        d, belief_gain = g - m, c.belief_gain
        m = m + c.mean_gain * d
        if c.mean_gain <= 0.5:  # no digit is lost in taking d from the new m, and compilers step m in place, uncopied
            d, belief_gain = g - m, belief_gain / (1.0 - c.mean_gain) ** 2
        s = c.beta2 * s + (belief_gain * d * d + c.eps)
        state = [s, *(ops.maximum(x, s) for x in s_max)]
        step = m / (ops.sqrt(state[-1]) * c.root_scale + c.offset)
        if dims and not self.gc_loc:
            step = step - _mean(step, dims)
        return [p - c.step_size * step, m, *state]

    def _update_lists(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        """The step on the PyTorch backend: what decays, and what does not, as one list each."""
        t, lr, wd = map(_number, (self.iterations + 1, learning_rate, self._current_weight_decay()))
        lists: dict[bool, Tensors] = {True: Tensors.empty(), False: Tensors.empty()}
        for g, v in zip(grads, variables, strict=True):
            i = self._get_variable_index(v)
            tensors = lists[self._decays(i)]
            tensors.params.append(v.value)
            tensors.grads.append(g)
            states = (self._exp_avgs, self._exp_avg_vars, self._max_exp_avg_vars, self._slow_buffers)
            for xs, state in zip(tensors[2:], states, strict=False):
                if state:
                    xs.append(state[i].value)
        options = Options(gc_min_dim=self._gc_min_dim(), gc_loc=self.gc_loc, k=self.k, alpha=self.alpha)
        for decays, tensors in lists.items():
            if self.gc_outputs_last:
                tensors = Tensors(*([self._outputs_first(x) for x in xs] for xs in tensors))

            def coefficients(t: Any, xp: Any, wd: float = wd if decays else 0.0) -> rule.Coefficients:
                return rule.coefficients(t, lr=lr, weight_decay=wd, xp=xp, **self._rule_options())

            self._lists.step(decays, tensors, t, coefficients, options)

    def _gc_min_dim(self) -> int:
        return (4 if self.gc_conv_only else 2) if self.use_gc else 0

    def _centralizes(self, x: Any) -> bool:
        return bool(len(x.shape) >= self._gc_min_dim() > 0)

    def _outputs_first(self, x: Any) -> Any:
        """A view of what is centralized in PyTorch's order of dimensions."""
        return x.detach().movedim(-1, 0) if self._centralizes(x) else x

    def stateless_apply(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
        """As Keras's own; the arguments are left as they were."""
        if BACKEND == "torch":  # whose step is in place
            optimizer_variables, trainable_variables = (
                [ops.copy(x) for x in xs] for xs in (optimizer_variables, trainable_variables)
            )
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: the step decays by itself, since how depends on the options."""

    def _decays(self, index: int) -> bool:
        return not _is_number(self.weight_decay, 0.0) and not self._excluded(index)

    def _excluded(self, index: int) -> bool:
        v = self._trainable_variables[index]
        return (index, v.name) in self._undecayed or not self._use_weight_decay(v)

    def exclude_from_weight_decay(self, var_list: list[Any] | None = None, var_names: list[str] | None = None) -> None:
        """Excludes variables from weight decay, coupled or not; to be called before the optimizer is built.

        A built optimizer that is saved remembers its exclusions.

        Args:
            var_list: Variables to exclude.
            var_names: Patterns: a variable in whose name one of them is found is excluded.
        """
        super().exclude_from_weight_decay(var_list=var_list, var_names=var_names)
        self._undecayed, self._undecayed_names = frozenset(), tuple(var_names or ())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the exclusions from weight decay where there are any."""
        config: dict[str, Any] = super().get_config() | {name: getattr(self, name) for name in self._option_names}
        if isinstance(self.weight_decay, LearningRateSchedule):
            config["weight_decay"] = keras.optimizers.schedules.serialize(self.weight_decay)
        variables = {(i, v.name) for i, v in enumerate(self._trainable_variables) if self._excluded(i)}
        excluded = {
            "variables": [list(each) for each in sorted(self._undecayed | variables)],
            "var_names": list(self._undecayed_names),
        }
        if any(excluded.values()):
            config["excluded_from_weight_decay"] = excluded
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """The optimizer that has this config."""
        config = dict(config)
        excluded = config.pop("excluded_from_weight_decay", None)
        if isinstance(config.get("weight_decay"), dict):
            config["weight_decay"] = keras.optimizers.schedules.deserialize(config["weight_decay"], custom_objects)
        optimizer = super().from_config(config, custom_objects=custom_objects)
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded["var_names"])
            optimizer._undecayed = frozenset((index, name) for index, name in excluded["variables"])
        return optimizer


@keras.saving.register_keras_serializable(package="adabelief")
class AdaBelief(_Base):
    r"""AdaBelief: Adam that divides by how far the gradient strays from its own mean.

    Per variable p with gradient g at step t, element by element (first line with `weight_decouple`, second without):

        p ← p − learning_rate · weight_decay · p
        g ← g + weight_decay · p
        m ← beta_1 · m + (1 − beta_1) · g
        s ← beta_2 · s + (1 − beta_2) · (g − m)² + epsilon
        p ← p − learning_rate · m/(1 − beta_1^t) / (√(s/(1 − beta_2^t)) + epsilon)

    At beta_1 = 0, where g − m would always be 0, the residual is taken against the previous mean. float16 and bfloat16
    variables are stepped in float32, with float32 state, and rounded once.

    **Choosing epsilon.** The epsilon that stays in s makes the denominator at least √(epsilon/(1−beta_2)) + epsilon:
    3.2e-3 for 1e-8, which is close to SGD, and 3.2e-7 for 1e-16, which is as adaptive as Adam. A good epsilon of Adam
    corresponds to its square here (`adabelief.eps_from_adam`). With epsilon = 0, a weight whose gradient has always
    been 0 becomes nan (0/0).

    **Clipping.** Use `clipnorm` or `global_clipnorm`. Under `clipvalue`, elements clamped to the same bound step after
    step look perfectly predictable, g − m tends to 0 and the step grows up to the limit that epsilon sets.

    **Coming from adabelief-tf.** Its defaults, with a warm-up and decay over `total_steps`, are

        AdaBelief(WarmupDecay(1e-3, total_steps=10_000, min_lr=1e-5), epsilon=1e-14, weight_decouple=True, rectify=True)

    Args:
        learning_rate: A number, a `LearningRateSchedule`, or a function without arguments that returns a number.
        beta_1: Decay rate of the mean of g, in [0, 1).
        beta_2: Decay rate of the mean of (g − m)², in [0, 1).
        epsilon: Added to s at every step and to its root; see above.
        weight_decay: Decay rate, or a `LearningRateSchedule` of it. `exclude_from_weight_decay` exempts variables.
        amsgrad: Divide by the root of the largest s so far.
        weight_decouple: Decay p itself, by the factor 1 − learning_rate · weight_decay, instead of adding the decay to
            g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        rectify: Take rectified steps as RAdam does; with `amsgrad` they use the largest s as well.
        degenerated_to_sgd: With `rectify`, follow m in the first steps (5 at beta_2 = 0.999) instead of waiting.
        **kwargs: What every Keras optimizer takes: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`,
            `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: If an argument is out of its range or not known.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import keras
        >>> weight = keras.Variable([1.0, -2.0])
        >>> optimizer = AdaBelief(learning_rate=0.1)
        >>> for _ in range(200):
        ...     optimizer.apply([2 * weight], [weight])  # the gradient of weight²
        >>> bool(keras.ops.max(keras.ops.abs(weight)) < 0.05)
        True
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        weight_decouple: bool = False,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        **kwargs: Any,
    ) -> None:
        options = dict(
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decouple=weight_decouple,
            fixed_decay=fixed_decay,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
        )
        super().__init__(learning_rate, weight_decay, options, **kwargs)


@keras.saving.register_keras_serializable(package="adabelief")
class AdaBeliefW(AdaBelief):
    r"""AdaBelief with decoupled weight decay, 1e-2 unless told otherwise: to AdaBelief what AdamW is to Adam.

        p ← p · (1 − learning_rate · weight_decay), then AdaBelief's step without decay

    Everything else, arguments, types and errors too, is as in `AdaBelief`; `weight_decouple` is always True.

    Source: Zhuang et al., NeurIPS 2020; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Example:
        >>> import keras
        >>> weight = keras.Variable([1.0])
        >>> AdaBeliefW(learning_rate=0.1, weight_decay=0.5).apply([keras.ops.zeros(1)], [weight])
        >>> weight.numpy().round(4)
        array([0.95], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        *,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            amsgrad,
            weight_decouple=True,
            fixed_decay=fixed_decay,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the exclusions from weight decay where there are any."""
        config = super().get_config()
        del config["weight_decouple"]
        return config


@keras.saving.register_keras_serializable(package="adabelief")
class RangerAdaBelief(_Base):
    r"""Ranger with AdaBelief: gradient centralization, rectified AdaBelief, and Lookahead.

        g ← g − mean of g over all dimensions but the outputs'      (gradient centralization)
        p ← the rectified, decoupled AdaBelief step with g          (see `AdaBelief`)
        in every k-th step: slow ← slow + alpha · (p − slow), p ← slow           (Lookahead)

    Defaults are those of ranger-adabelief 0.1.0, and so are the steps, but for that package's defects: decoupled decay
    is 1 − learning_rate · weight_decay in every step and never enters the momentum. As there, epsilon enters s only
    from the first adaptive step on. float16 and bfloat16 variables are stepped in float32, with float32 state.

    The mean is one for each output. Keras's kernels have their outputs in the last dimension, PyTorch's in the first:
    `gc_outputs_last=False` is for variables of that layout.

    Args:
        learning_rate: As in `AdaBelief`.
        alpha: Lookahead's share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations of Lookahead, at least 1.
        n_sma_threshold: Least length N_t of the simple moving average for an adaptive step, at least 4.
        beta_1: Decay rate of the mean of g, in [0, 1).
        beta_2: Decay rate of the mean of (g − m)², in [0, 1).
        epsilon: Added to s at every adaptive step and to its root. The default makes the denominator at least 0.1,
            close to momentum SGD; 1e-12 is what the authors use.
        weight_decay: Decay rate, or a `LearningRateSchedule` of it.
        use_gc: Centralize gradients.
        gc_conv_only: Only those of at least 4 dimensions (2-D convolutions), instead of at least 2.
        gc_loc: Centralize the gradient (True), or else the step m / (√s + epsilon).
        gc_outputs_last: Average over all dimensions but the last (True), or else over all but the first.
        weight_decouple: Decay p itself instead of adding the decay to g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        amsgrad: Divide by the root of the largest s so far.
        degenerated_to_sgd: Follow m before steps are adaptive, instead of waiting.
        **kwargs: As in `AdaBelief`.

    Raises:
        ValueError: If an argument is out of its range or not known.

    Source: ranger-adabelief 0.1.0; Zhuang et al., NeurIPS 2020; Zhang et al., "Lookahead Optimizer", NeurIPS 2019; Yong
    et al., "Gradient Centralization", ECCV 2020.

    Example:
        >>> import keras
        >>> weight = keras.Variable(keras.ops.ones((2, 3)))
        >>> gradient = keras.ops.full((2, 3), 7.0)  # the same for every input: nothing is left once centralized
        >>> RangerAdaBelief().apply([gradient], [weight])
        >>> bool(keras.ops.all(weight == 1))
        True
    """

    rectify, _eps_before_adaptive = True, False

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        n_sma_threshold: float = 5,
        beta_1: float = 0.95,
        beta_2: float = 0.999,
        epsilon: float = 1e-5,
        weight_decay: Any = 0.0,
        use_gc: bool = True,
        gc_conv_only: bool = False,
        gc_loc: bool = True,
        *,
        gc_outputs_last: bool = True,
        weight_decouple: bool = True,
        fixed_decay: bool = False,
        amsgrad: bool = False,
        degenerated_to_sgd: bool = True,
        **kwargs: Any,
    ) -> None:
        _check("k", k, "a whole number, at least 1", lambda x: x >= 1 and x == int(x))
        _check("alpha", alpha, "a number in [0, 1]", lambda x: 0 <= x <= 1)
        _check("n_sma_threshold", n_sma_threshold, "a number, at least 4", lambda x: x >= 4)
        options = dict(
            alpha=alpha,
            k=k,
            n_sma_threshold=n_sma_threshold,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            use_gc=use_gc,
            gc_conv_only=gc_conv_only,
            gc_loc=gc_loc,
            gc_outputs_last=gc_outputs_last,
            weight_decouple=weight_decouple,
            fixed_decay=fixed_decay,
            amsgrad=amsgrad,
            degenerated_to_sgd=degenerated_to_sgd,
        )
        super().__init__(learning_rate, weight_decay, options, **kwargs)


@keras.saving.register_keras_serializable(package="adabelief")
class WarmupDecay(LearningRateSchedule):  # type: ignore[misc]
    r"""Linear warm-up, then linear decay: what adabelief-tf does with `total_steps`.

    With W = total_steps · warmup_proportion and t = 1, 2, ... the number of the step:

        learning_rate · t / W                                                             while t ≤ W
        learning_rate − (learning_rate − min_lr) · (t − W) / max(total_steps − W, 1)      up to total_steps
        min_lr                                                                            from there on

    It is computed in float32, or float64 where that is Keras's float type.

    Args:
        learning_rate: The largest value.
        total_steps: Steps of warm-up and decay together, at least 1.
        warmup_proportion: The share of them that is warm-up, in [0, 1].
        min_lr: The last value.

    Raises:
        ValueError: If an argument is out of its range.

    Source: adabelief-tf 0.2.1.

    Example:
        >>> schedule = WarmupDecay(1.0, total_steps=10, warmup_proportion=0.2, min_lr=0.2)
        >>> [round(float(schedule(step)), 2) for step in (0, 1, 5, 9, 99)]
        [0.5, 1.0, 0.6, 0.2, 0.2]
    """

    def __init__(
        self, learning_rate: float = 1e-3, total_steps: int = 1, warmup_proportion: float = 0.1, min_lr: float = 0.0
    ) -> None:
        super().__init__()
        for name, rate in [("learning_rate", learning_rate), ("min_lr", min_lr)]:
            _check(name, rate, "a finite number, at least 0", lambda x: 0 <= x < math.inf)
        _check("total_steps", total_steps, "a finite number, at least 1", lambda x: 1 <= x < math.inf)
        _check("warmup_proportion", warmup_proportion, "a number in [0, 1]", lambda x: 0 <= x <= 1)
        self._config = dict(
            learning_rate=learning_rate, total_steps=total_steps, warmup_proportion=warmup_proportion, min_lr=min_lr
        )

    def __call__(self, step: Any) -> Any:
        """The learning rate after `step` steps."""
        lr, total, proportion, min_lr = self._config.values()
        warmup = total * proportion
        t = ops.cast(step, "float64" if keras.backend.floatx() == "float64" else "float32") + 1
        decayed = lr - (lr - min_lr) * ops.minimum(t - warmup, total - warmup) / max(total - warmup, 1)
        return ops.where(t <= warmup, lr * t / max(warmup, 1), decayed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._config)


class _Copy(keras.initializers.Initializer):  # type: ignore[misc]
    """Initial values that are those of another variable, in memory of their own."""

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.copy(ops.cast(self.variable, dtype))


if BACKEND == "torch":
    import torch

    from adabelief.torch.fused import Part
    from adabelief.torch.update import Options, Tensors, update

    class _TorchLists:
        """Steps lists of tensors through the kernels of `adabelief.torch` where they serve, and through foreach else.

        What the kernels know of a list (addresses, above all) is kept from step to step, while it holds.
        """

        def __init__(self) -> None:
            self._plans: dict[bool, tuple[Any, Part, list[int], list[int]]] = {}
            self._steps: dict[bool, torch.Tensor] = {}

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        @torch.no_grad()
        def step(
            self,
            which: bool,
            tensors: Tensors,
            t: float,
            coefficients: Callable[..., rule.Coefficients],
            options: Options,
        ) -> None:
            """Applies step t to a list, whose plan is remembered as `which`."""
            if not tensors.params:
                return
            if any(g.layout != torch.strided for g in tensors.grads):
                raise ValueError("a gradient is sparse, which this backend cannot step: make it dense (to_dense)")
            if t == 1:
                for slow, p in zip(tensors.slow_buffers, tensors.params, strict=False):
                    slow.copy_(p)
            n = len(tensors.params)
            if which not in self._steps or len(self._steps[which]) != n:
                self._steps[which] = torch.empty(n, device="cpu")
                self._plans.pop(which, None)
            tensors = tensors._replace(steps=list(self._steps[which].fill_(t - 1).unbind()))
            part, stepped, rest = self._plan(which, tensors, options)
            part.follow(iter([tensors.grads[i].data_ptr() for i in stepped]))
            part.step(coefficients, options)
            if rest:
                left = Tensors(*([xs[i] for i in rest] if xs else [] for xs in tensors))
                update(left, coefficients, options, foreach=True, traced=False)

        def _plan(self, which: bool, tensors: Tensors, options: Options) -> tuple[Part, list[int], list[int]]:
            """The kernels' part, the indices of what it steps in their order, and those of the rest."""
            lasting = (tensors.params, tensors.exp_avgs, tensors.exp_avg_vars, *tensors[4:6])
            key = (
                options,
                [[(x.data_ptr(), x.shape, x.stride(), x.dtype) for x in xs] for xs in lasting],
                [(g.dtype, g.device, g.stride()) for g in tensors.grads],
            )
            if which not in self._plans or self._plans[which][0] != key:
                part = Part(tensors, options)
                stepped = [i for launch in part.launches for i in launch.indices]
                rest = sorted(set(range(len(tensors.params))) - set(stepped))
                self._plans[which] = key, part, stepped, rest
            return self._plans[which][1:]


def _state_dtype(variable: Any) -> str:
    """The type in which a variable is stepped and its state is kept: float32 for narrower ones, else its own."""
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))


def _sparse_rows(gradient: Any) -> Any:
    """The rows that a gradient has, where it is `tf.IndexedSlices`; None for any other one."""
    if BACKEND != "tensorflow":
        return None
    import tensorflow as tf

    return gradient.indices if isinstance(gradient, tf.IndexedSlices) else None


def _dense(gradient: Any) -> Any:
    """The whole gradient, where it is `tf.IndexedSlices`; any other one as it is."""
    if _sparse_rows(gradient) is None:
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)


def _with_rows(x: Any, rows: Any, new: Any) -> Any:
    return ops.scatter_update(x, ops.expand_dims(rows, -1), new)


def _mean(x: Any, dims: tuple[int, ...]) -> Any:
    return ops.sum(x, dims, keepdims=True) / math.prod(x.shape[d] for d in dims)  # ops.mean is in float32 on JAX


def _number(x: Any) -> float:
    return float(x if isinstance(x, Real) else ops.convert_to_tensor(x))


def _is_number(x: Any, number: float) -> bool:
    return isinstance(x, Real) and x == number


def _check(name: str, value: Any, range_: str, holds: Callable[[Any], bool]) -> None:
    """Raises ValueError, naming argument, value and range, unless the value is a number for which `holds` is true."""
    if not isinstance(value, Real) or not holds(value):
        raise ValueError(f"{name} must be {range_}, got {value!r}")
