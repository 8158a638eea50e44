"""What the optimizers of the family share in Keras: options and their checks, the state, the step, serialization."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from adabelief import rule
from adabelief.keras.arguments import refuse_foreign
from adabelief.keras.exclusions import Exclusions, located, matches, path
from adabelief.keras.gradients import BACKEND, dense, sparse_rows
from adabelief.keras.step import stepped
from adabelief.options import (
    ADAPTIVE_FROM,
    BETA,
    MAX_UPDATE,
    RATE,
    centralized_dims,
    check,
    check_flags,
    never_adaptive,
    never_adaptive_text,
)

if BACKEND == "torch":
    from adabelief.keras.torch_backend import TorchLists


class Scalars(NamedTuple):
    """What all variables share in a step."""

    coefficients: dict[str, tuple[Any, rule.Coefficients]]
    """By type of the state: the step number and its coefficients."""
    waiting: frozenset[int] = frozenset()
    """Indices of variables without a gradient, whose slow weights have to begin all the same."""


class Base(keras.optimizers.Optimizer):  # type: ignore[misc]
    """An AdaBelief: a subclass names its options, this does the rest."""

    rectify, amsgrad, weight_decouple, fixed_decay, degenerated_to_sgd = False, False, False, False, True
    use_gc, gc_conv_only, gc_loc, gc_outputs_last, k, alpha = False, False, True, False, 0, 0.5
    adaptive_from, _eps_before_adaptive = rule.ADAPTIVE_FROM, True
    _frames = 3
    """Calls between a warning of the constructor and the line that it is about."""
    _undecayed: frozenset[int] = frozenset()
    """Indices of the variables that are excluded from weight decay, once the optimizer is built."""
    _saved_exclusions = Exclusions()
    _undecayed_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: Any, weight_decay: Any, options: dict[str, Any], **kwargs: Any) -> None:
        refuse_foreign(type(self).__name__, kwargs)
        weight_decay = 0.0 if weight_decay is None else weight_decay
        if isinstance(learning_rate, Real):
            check("learning_rate", learning_rate, *RATE)
            learning_rate = float(learning_rate)
        check("weight_decay", weight_decay, *RATE, passes=lambda x: isinstance(x, LearningRateSchedule))
        check("epsilon", options["epsilon"], *RATE)
        check("beta_1", options["beta_1"], *BETA)
        check("beta_2", options["beta_2"], *BETA)
        check("adaptive_from", options["adaptive_from"], *ADAPTIVE_FROM)
        check("max_update", options["max_update"], *MAX_UPDATE, passes=lambda x: x is None)
        check_flags(options)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self._option_names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)
        if self.clipvalue is not None:
            warnings.warn(
                f"clipvalue={self.clipvalue}: elements clamped to a bound step after step look perfectly predictable "
                "to AdaBelief, and their steps grow up to the limit of epsilon or max_update. Use clipnorm or "
                "global_clipnorm instead.",
                stacklevel=self._frames,
            )
        if self.rectify and never_adaptive(self.beta_2, self.adaptive_from):
            text = never_adaptive_text(self.beta_2, self.adaptive_from, name="beta_2", instead="no rectification")
            warnings.warn(text, stacklevel=self._frames)

    def build(self, variables: list[Any]) -> None:
        """Creates the state of the variables, all zeros: Lookahead's slow weights begin in the first step."""
        if self.built:
            return
        super().build(variables)
        self._exp_avgs = self._new_state(variables, "exp_avg")
        self._exp_avg_vars = self._new_state(variables, "exp_avg_var")
        self._max_exp_avg_vars = self._new_state(variables, "max_exp_avg_var") if self.amsgrad else []
        self._slow_buffers = self._new_state(variables, "slow_buffer") if self.k else []
        self._find_exclusions()
        if BACKEND == "torch":
            self._lists = TorchLists()

    def _new_state(self, variables: list[Any], name: str) -> list[Any]:
        state: list[Any] = []
        for v in variables:
            dtype = _state_dtype(v)
            if self._overwrite_variable_with_gradient(v):
                state.append(None)
            elif dtype == keras.backend.standardize_dtype(v.dtype):
                state.append(self.add_variable_from_reference(v, name=name))
            else:
                full_name = f"{path(v).replace('/', '_').replace(':', '_')}_{name}"
                layout = {"layout": v._layout} if getattr(v, "_layout", None) is not None else {}
                state.append(self.add_variable(v.shape, "zeros", dtype, name=full_name, **layout))
        return state

    def _rule_options(self) -> dict[str, Any]:
        names = ("weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd", "adaptive_from", "max_update")
        return {name: getattr(self, name) for name in names} | {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_before_adaptive": self._eps_before_adaptive,
        }

    def _current_weight_decay(self) -> Any:
        schedule = isinstance(self.weight_decay, LearningRateSchedule)
        return self.weight_decay(self._iterations) if schedule else self.weight_decay

    def _scalars(self, learning_rate: Any, dtypes: Iterable[str]) -> Scalars:
        """The scalars of the step that is due, computed once for each type of the state."""
        wd, known = self._current_weight_decay(), {}
        for dtype in dtypes:
            t, lr = ops.cast(self.iterations + 1, dtype), ops.cast(learning_rate, dtype)
            wd = wd if isinstance(wd, Real) else ops.cast(wd, dtype)
            known[dtype] = t, rule.coefficients(t, lr=lr, weight_decay=wd, xp=ops, **self._rule_options())
        return Scalars(known)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        overridden = type(self).update_step is not Base.update_step  # by a subclass, to be given a learning rate
        if BACKEND == "torch" and not overridden:
            self._update_lists(grads, trainable_variables, learning_rate)
            return
        stepped = set(map(self._get_variable_index, trainable_variables))
        waiting = {i for i, slow in enumerate(self._slow_buffers) if i not in stepped and slow is not None}
        if overridden:
            for i in waiting:
                slow, now = self._slow_buffers[i], self._trainable_variables[i]
                self.assign(slow, ops.where(self.iterations == 0, ops.cast(now, slow.dtype), slow.value))
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        variables = [*trainable_variables, *(self._trainable_variables[i] for i in waiting)]
        scalars = self._scalars(learning_rate, dict.fromkeys(map(_state_dtype, variables)))
        scalars = scalars._replace(waiting=frozenset(waiting))
        super()._backend_update_step([*grads, *(ops.zeros(()) for _ in waiting)], variables, scalars)

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
        scalars = learning_rate if isinstance(learning_rate, Scalars) else self._scalars(learning_rate, [dtype])
        t, c = scalars.coefficients[dtype]
        if not self._decays(i):
            c = c._replace(shrink=1.0, l2=0.0)
        before = ops.cast(variable, dtype)
        slow = ops.where(t == 1, before, self._slow_buffers[i].value) if self.k else None
        if i in scalars.waiting:
            self.assign(self._slow_buffers[i], slow)
            return
        kept = [states[i] for states in (self._exp_avgs, self._exp_avg_vars, self._max_exp_avg_vars) if states]
        old = [before, *(x.value for x in kept)]
        rows, dims = sparse_rows(gradient), self._centralized_dims(variable)
        g = ops.cast(dense(gradient, variable), dtype)
        if rows is None or dims:
            p, *state = stepped(g, *old, c=c, dims=dims, gc_loc=self.gc_loc)
        else:
            p_rows, *state_rows = stepped(*(ops.take(x, rows, axis=0) for x in (g, *old)), c=c)
            p, *state = old
            state[:2] = state[0] * (1.0 - c.mean_gain), state[1] * c.beta2 + c.eps
            state[2:] = [ops.maximum(x, state[1]) for x in state[2:]]
            p, *state = (_with_rows(x, rows, new) for x, new in zip((p, *state), (p_rows, *state_rows), strict=True))
        if self.k:
            synchronize = ops.equal(ops.mod(t, self.k), 0)
            p = ops.where(synchronize, slow + self.alpha * (p - slow), p)
            self.assign(self._slow_buffers[i], ops.where(synchronize, p, slow))
        for x, new in zip((variable, *kept), (p, *state), strict=True):
            self.assign(x, new)

    def _update_lists(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        """The step on the PyTorch backend: what decays, and what does not, as one list each."""
        t, lr, wd = map(_number, (self.iterations + 1, learning_rate, self._current_weight_decay()))
        if t == 1:
            self._begin_slow_weights()
        states = {
            "m": self._exp_avgs,
            "s": self._exp_avg_vars,
            "s_max": self._max_exp_avg_vars,
            "slow": self._slow_buffers,
        }
        states = {name: state for name, state in states.items() if state}
        indices = [self._get_variable_index(v) for v in variables]
        for decays in (True, False):
            which = [(i, v, g) for i, v, g in zip(indices, variables, grads, strict=True) if self._decays(i) == decays]
            columns = {name: [state[i].value for i, _, _ in which] for name, state in states.items()}
            columns |= {"p": [v.value for _, v, _ in which], "g": [g for _, _, g in which]}

            def coefficients(t: Any, xp: Any, wd: float = wd if decays else 0.0) -> rule.Coefficients:
                return rule.coefficients(t, lr=lr, weight_decay=wd, xp=xp, **self._rule_options())

            self._lists.step(
                decays,
                columns,
                t,
                coefficients,
                outputs_last=self.gc_outputs_last,
                gc_min_dim=self._gc_min_dim(),
                gc_loc=self.gc_loc,
                k=self.k,
                alpha=self.alpha,
            )

    def _begin_slow_weights(self) -> None:
        """Makes the slow weights those that the variables have now."""
        for v, slow in zip(self._trainable_variables, self._slow_buffers, strict=False):
            if slow is not None:
                slow.assign(ops.copy(ops.cast(v, slow.dtype)))

    def _gc_min_dim(self) -> int:
        return (4 if self.gc_conv_only else 2) if self.use_gc else 0

    def _centralized_dims(self, variable: Any) -> tuple[int, ...]:
        return centralized_dims(len(variable.shape), self._gc_min_dim(), kept=-1 if self.gc_outputs_last else 0)

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
        return self.weight_decay != 0.0 and index not in self._undecayed

    def exclude_from_weight_decay(self, var_list: list[Any] | None = None, var_names: list[str] | None = None) -> None:
        """Excludes variables from weight decay, coupled or not.

        A built optimizer that is saved remembers its exclusions, by the variables' paths.

        Args:
            var_list: Variables to exclude.
            var_names: Patterns: a variable in whose name one of them is found is excluded.
        """
        super().exclude_from_weight_decay(var_list=var_list, var_names=var_names)
        self._saved_exclusions, self._undecayed_names = Exclusions(), tuple(var_names or ())
        if self.built:
            self._find_exclusions()

    def _find_exclusions(self) -> None:
        """Finds the variables that are excluded from weight decay, those of a saved optimizer by their paths."""
        variables = self._trainable_variables
        found, gone = located(self._saved_exclusions, variables)
        self._undecayed = frozenset(found | {i for i, v in enumerate(variables) if not self._use_weight_decay(v)})
        gone = [name for name in gone if not matches(self._undecayed_names, name.rsplit("/", 1)[-1])]
        if gone:
            warnings.warn(
                f"excluded from weight decay when {self.name} was saved, and not among its variables now: "
                f"{', '.join(gone)}. If they have other names now, call exclude_from_weight_decay.",
                stacklevel=3,
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the exclusions from weight decay where there are any."""
        config: dict[str, Any] = super().get_config() | {name: getattr(self, name) for name in self._option_names}
        if isinstance(self.weight_decay, LearningRateSchedule):
            config["weight_decay"] = keras.optimizers.schedules.serialize(self.weight_decay)
        saved = self._saved_exclusions
        if self.built:
            variables = self._trainable_variables
            listed = (i for i in sorted(self._undecayed) if not matches(self._undecayed_names, variables[i].name))
            saved = Exclusions(tuple((i, variables[i].name) for i in listed), tuple(map(path, variables)))
        if saved.variables or self._undecayed_names:
            config["excluded_from_weight_decay"] = {
                "variables": [list(each) for each in saved.variables],
                "paths": list(saved.paths) if saved.variables else [],
                "var_names": list(self._undecayed_names),
            }
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """The optimizer that has this config."""
        config = dict(config)
        excluded = config.pop("excluded_from_weight_decay", None)
        if "n_sma_threshold" in config:  # as older versions saved it
            config["adaptive_from"] = config.pop("n_sma_threshold")
        if isinstance(config.get("weight_decay"), dict):
            config["weight_decay"] = keras.optimizers.schedules.deserialize(config["weight_decay"], custom_objects)
        optimizer = super().from_config(config, custom_objects=custom_objects)
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded["var_names"])
            optimizer._saved_exclusions = Exclusions(
                tuple((index, name) for index, name in excluded["variables"]), tuple(excluded.get("paths", ()))
            )
        return optimizer


def _state_dtype(variable: Any) -> str:
    """The type in which a variable is stepped and its state is kept: float32 for narrower ones, else its own."""
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _with_rows(x: Any, rows: Any, new: Any) -> Any:
    return ops.scatter_update(x, ops.expand_dims(rows, -1), new)


def _number(x: Any) -> float:
    return float(x if isinstance(x, Real) else ops.convert_to_tensor(x))
