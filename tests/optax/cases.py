"""The table of option mixes as optax's arguments, and the shapes of the leaves: NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.mixes import DEFAULTS, mixes_without

NAMES = {"AdaBelief": "adabelief", "AdaBeliefW": "adabeliefw", "RangerAdaBelief": "ranger_adabelief"}


def _named(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The optimizer that has these options of the rule, and its arguments."""
    arguments = {"lr": 1e-3, **options}
    if name == "AdaBelief" and arguments.pop("weight_decouple", False):
        name = "AdaBeliefW"
    if "betas" in arguments:
        arguments["b1"], arguments["b2"] = arguments.pop("betas")
    return NAMES[name], {"learning_rate": arguments.pop("lr"), **arguments}


MIXES = {mix: _named(*named) for mix, named in mixes_without().items()}

SHAPES = {"scalar": (), "empty": (0, 3), "vector": (257,), "matrix": (17, 5), "kernel": (4, 2, 3, 3)}


def rule_options(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The reference's options for an optimizer's arguments."""
    defaults = next(DEFAULTS[rule_name] for rule_name, optax_name in NAMES.items() if optax_name == name)
    b1, b2 = defaults.get("betas", (0.9, 0.999))
    options = {"b1": b1, "b2": b2, **defaults, **arguments}
    betas = options.pop("b1"), options.pop("b2")
    return {"lr": options.pop("learning_rate"), **options, "betas": betas}


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal values, in both parts of complex types."""
    real, imag = rng.standard_normal((2, *shape))
    return np.asarray(real + 1j * imag if np.dtype(dtype).kind == "c" else real).astype(dtype)
