"""The table of option mixes, and the walk beside `rule.reference_step`: NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from adabelief.rule import reference_step
from tests.mixes import CENTRALIZATIONS, DECAYS, RECTIFICATIONS, SIGNS, mixes

STEP_TOLERANCE = {False: 1e-12, True: 1e-5}
"""Relative error allowed in a step and in the state, by whether the state is in single precision."""


def _named(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The optimizer that has these options of the rule, and its arguments."""
    arguments = dict(options)
    decoupled = arguments.pop("weight_decouple", False)
    return ("adabeliefw" if decoupled else "adabelief"), arguments


MIXES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"adabelief-{name}": _named(o | {"learning_rate": 1e-2, "eps": 1e-8})
        for name, o in mixes(DECAYS, RECTIFICATIONS, SIGNS).items()
    },
    **{
        f"ranger-{name}": ("ranger_adabelief", o | {"learning_rate": 1e-2, "k": 3})
        for name, o in (mixes(DECAYS, CENTRALIZATIONS) | mixes({"coupled": DECAYS["coupled"]}, SIGNS)).items()
    },
    "adabelief-b1=0": ("adabelief", {"learning_rate": 1e-2, "b1": 0.0}),
    "adabelief-b1=0-rectified": ("adabelief", {"learning_rate": 1e-2, "b1": 0.0, "b2": 0.99, "rectify": True}),
    "adabelief-b2=0": ("adabelief", {"learning_rate": 1e-2, "b2": 0.0, "eps": 1e-2}),
    "adabelief-lr=0": ("adabeliefw", {"learning_rate": 0.0}),
    "adabelief-defaults": ("adabelief", {"learning_rate": 1e-3}),
    "adabeliefw-defaults": ("adabeliefw", {"learning_rate": 1e-3}),
    "ranger-defaults": ("ranger_adabelief", {"learning_rate": 1e-3}),
    "ranger-alpha=0": ("ranger_adabelief", {"learning_rate": 1e-3, "alpha": 0.0, "k": 2}),
    "ranger-threshold=4": ("ranger_adabelief", {"learning_rate": 1e-3, "adaptive_from": 4, "k": 1}),
}

SHAPES = {"scalar": (), "empty": (0, 3), "vector": (257,), "matrix": (17, 5), "kernel": (4, 2, 3, 3)}


def rule_options(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The reference's options for an optimizer's arguments."""
    defaults: dict[str, Any] = {
        "adabelief": {},
        "adabeliefw": {"weight_decay": 1e-2, "weight_decouple": True},
        "ranger_adabelief": {
            **{"b1": 0.95, "eps": 1e-5, "k": 6, "rectify": True, "eps_before_adaptive": False, "use_gc": True},
            "weight_decouple": True,
        },
    }[name]
    options = {"b1": 0.9, "b2": 0.999, **defaults, **arguments}
    for state_only in ("mask", "mu_dtype", "nu_dtype"):
        options.pop(state_only, None)
    return {"lr": options.pop("learning_rate"), "betas": (options.pop("b1"), options.pop("b2")), **options}


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal values, in both parts of complex types."""
    real, imag = rng.standard_normal((2, *shape))
    return np.asarray(real + 1j * imag if np.dtype(dtype).kind == "c" else real).astype(dtype)


def wide(x: Any) -> np.ndarray:
    """In float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


NAMES = {"mu": "exp_avg", "nu": "exp_avg_var", "nu_max": "max_exp_avg_var", "slow": "slow_buffer"}
"""The reference's name for each tree of the state."""


class Walk:
    """The reference's walk beside one leaf."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.options = rule_options(name, arguments)
        self.state: dict[str, Any] = {}
        self.largest: dict[str, float] = {}

    def step(self, p_before: Any, gradient: Any, p: Any, state: dict[str, Any], epsilon: float, **options: Any) -> None:
        """Asserts what p and its state must be after a step.

        Args:
            p_before: The parameter before the step.
            gradient: Its gradient.
            p: The parameter after the step.
            state: Its moments and slow weights after the step, in float32 or wider, by their names in the state.
            epsilon: Relative spacing of the parameter's type.
            **options: What differs from the arguments in this step.
        """
        before = wide(p_before)
        expected, self.state = reference_step(before, wide(gradient), self.state, **self.options | options)
        assert set(state) == {ours for ours, theirs in NAMES.items() if theirs in self.state}
        state_epsilon = max(np.finfo(x.dtype).eps for x in map(np.asarray, state.values()))
        tolerance = STEP_TOLERANCE[state_epsilon > 1e-12]
        for ours, x in state.items():
            wanted = self.state[NAMES[ours]]
            # relative to the largest value so far: m may come close to 0 by cancellation
            self.largest[ours] = np.abs(wanted).max(initial=self.largest.get(ours, 0.0))
            allowed = (8 * state_epsilon if ours == "slow" else tolerance) * self.largest[ours]
            assert np.all(np.abs(wide(x) - wanted) <= allowed), ours
        step = np.abs(expected - before)
        rounding = epsilon * np.maximum(np.abs(expected), np.abs(before)) + np.finfo(np.float32).smallest_normal
        if "slow" in state:  # another rounding in the slow weights
            rounding = 2 * rounding
        if epsilon > 1e-6:  # the update is rounded to half precision, then its sum with the parameter
            rounding = rounding + epsilon * step
        error = np.abs(wide(p) - expected)
        allowed = rounding + tolerance * step.max(initial=0.0)
        assert np.all(error <= allowed), f"off by {np.max(error / allowed):.3g} times the allowed"
