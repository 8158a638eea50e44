"""What every front-end is held to: one table of option mixes, and a walk beside the reference. NumPy only."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from adabelief.rule import reference_step

Mix = tuple[str, dict[str, Any]]
"""An optimizer's name in PyTorch and Keras, and its options under the names that `rule` has for them."""

DECAYS = {
    "nodecay": {},
    "coupled": {"weight_decay": 0.1, "weight_decouple": False},
    "decoupled": {"weight_decay": 0.1, "weight_decouple": True},
    "fixed": {"weight_decay": 0.1, "weight_decouple": True, "fixed_decay": True},
}
RECTIFICATIONS = {
    "plain": {},
    "rectified": {"rectify": True},
    "waiting": {"rectify": True, "degenerated_to_sgd": False},
}
SIGNS = {"": {}, "amsgrad": {"amsgrad": True}, "maximize": {"maximize": True}}
CENTRALIZATIONS = {
    "nogc": {"use_gc": False},
    "gc": {},
    "conv": {"gc_conv_only": True},
    "step": {"gc_loc": False},
}
OUTPUTS = {"first": {"gc_outputs_last": False}, "last": {"gc_outputs_last": True}}

DEFAULTS: dict[str, dict[str, Any]] = {
    "AdaBelief": {},
    "AdaBeliefW": {"weight_decay": 1e-2, "weight_decouple": True},
    "RangerAdaBelief": {
        **{"betas": (0.95, 0.999), "eps": 1e-5, "k": 6, "rectify": True, "eps_before_adaptive": False, "use_gc": True},
        "weight_decouple": True,
    },
}
"""What differs from the reference's own defaults."""


def mixes(*tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of one entry of each table, by their names."""
    return {
        "-".join(filter(None, names)): {
            k: v for table, name in zip(tables, names, strict=True) for k, v in table[name].items()
        }
        for names in product(*tables)
    }


COUPLED = {"coupled": DECAYS["coupled"]}
RANGER = mixes(DECAYS, CENTRALIZATIONS) | mixes(COUPLED, SIGNS)
RANGER |= mixes(COUPLED, {name: CENTRALIZATIONS[name] for name in ("gc", "step")}, OUTPUTS)

MIXES: dict[str, Mix] = {
    **{
        f"AdaBelief-{name}": ("AdaBelief", o | {"lr": 1e-2, "eps": 1e-8})
        for name, o in mixes(DECAYS, RECTIFICATIONS, SIGNS).items()
    },
    **{f"Ranger-{name}": ("RangerAdaBelief", o | {"lr": 1e-2, "k": 3}) for name, o in RANGER.items()},
    "AdaBelief-beta1=0": ("AdaBelief", {"lr": 1e-2, "betas": (0.0, 0.999)}),
    "AdaBelief-beta1=0-rectified": ("AdaBelief", {"lr": 1e-2, "betas": (0.0, 0.99), "rectify": True}),
    "AdaBelief-beta1=0.001": ("AdaBelief", {"lr": 1e-2, "betas": (0.001, 0.999)}),
    "AdaBelief-beta2=0": ("AdaBelief", {"lr": 1e-2, "betas": (0.9, 0.0), "eps": 1e-2}),
    "AdaBelief-lr=0": ("AdaBelief", {"lr": 0.0, "weight_decay": 0.1}),
    "AdaBelief-defaults": ("AdaBelief", {}),
    "AdaBeliefW-defaults": ("AdaBeliefW", {}),
    "Ranger-defaults": ("RangerAdaBelief", {}),
    "Ranger-alpha=0": ("RangerAdaBelief", {"alpha": 0.0, "k": 2}),
    "Ranger-threshold=4": ("RangerAdaBelief", {"adaptive_from": 4, "k": 1}),
}


def mixes_without(*lacking: str) -> dict[str, Mix]:
    """The table for a front-end that lacks these options."""
    return {name: mix for name, mix in MIXES.items() if not set(lacking) & set(mix[1])}


STEP_TOLERANCE = {False: 1e-12, True: 1e-5}
"""Relative error allowed in a step and in the state, by whether the state is in single precision."""


def wide(x: Any) -> np.ndarray:
    """In float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


class Walk:
    """The reference's walk beside one parameter: each step starts where the parameter did, with a state of its own.

    Args:
        options: Those of `reference_step`, and `gc_outputs_last`: the mean is over all dimensions but the last.
        added: Whether the parameter is itself plus an update that was rounded to its type (optax), or rounded once.
    """

    def __init__(self, options: dict[str, Any], *, added: bool = False) -> None:
        self.options, self.added = options, added
        self.state: dict[str, Any] = {}

    def step(self, before: Any, gradient: Any, after: Any, state: dict[str, Any], info: Any, **options: Any) -> None:
        """Asserts what a parameter and its state must be after a step.

        Args:
            before: The parameter before the step.
            gradient: Its gradient.
            after: The parameter after the step.
            state: Its state after the step, in float32 or wider, by the reference's names.
            info: The `finfo` of the parameter's type.
            **options: What differs from the options in this step.
        """
        options = self.options | options
        before, gradient, after, *values = map(wide, (before, gradient, after, *state.values()))
        if options.pop("gc_outputs_last", False) and before.ndim > 1 and before.size:
            before, gradient, after, *values = (np.moveaxis(x, -1, 0) for x in (before, gradient, after, *values))
        previous = self.state
        expected, self.state = reference_step(before, gradient, previous, **options)
        assert {"step", *state} == set(self.state)
        epsilon = max(np.finfo(np.asarray(x).dtype).eps for x in state.values())
        tolerance = STEP_TOLERANCE[epsilon > 1e-12]
        for name, value in zip(state, values, strict=True):
            wanted = self.state[name]
            # relative to the previous values too: m may come close to 0 by cancellation
            scale = max(np.abs(x).max(initial=0.0) for x in (wanted, np.asarray(previous.get(name, 0.0))))
            off = np.abs(value - wanted).max(initial=0.0)
            assert off <= (8 * epsilon if name == "slow_buffer" else tolerance) * scale, f"{name} is off by {off}"
        step = np.abs(expected - before)
        start = np.abs(before) + np.abs(previous.get("slow_buffer", 0.0))  # Lookahead rounds once more
        allowed = float(info.eps) * np.maximum(np.maximum(np.abs(expected), start), float(info.smallest_normal))
        if self.added and info.eps > 1e-6:
            allowed = allowed + float(info.eps) * step
        allowed = allowed + tolerance * step.max(initial=0.0)
        error = np.abs(after - expected)
        assert np.all(error <= allowed), f"off by {np.max(error / allowed):.3g} times the allowed"
