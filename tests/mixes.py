"""What every front-end is held to: one table of option mixes, which names no framework."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from typing import Any

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
    **{
        f"AdaBelief-bounded-{name}": ("AdaBelief", o | {"lr": 1e-2, "max_update": 0.3})
        for name, o in mixes(RECTIFICATIONS, {name: SIGNS[name] for name in ("", "amsgrad")}).items()
    },
    "AdaBelief-bounded-coupled": ("AdaBelief", DECAYS["coupled"] | {"lr": 1e-2, "max_update": 0.3}),
    **{
        f"Ranger-bounded-{name}": ("RangerAdaBelief", o | {"lr": 1e-2, "eps": 1e-12, "k": 3, "max_update": 0.3})
        for name, o in {name: CENTRALIZATIONS[name] for name in ("gc", "step")}.items()
    },
    "AdaBelief-defaults": ("AdaBelief", {}),
    "AdaBeliefW-defaults": ("AdaBeliefW", {}),
    "Ranger-defaults": ("RangerAdaBelief", {}),
    "Ranger-alpha=0": ("RangerAdaBelief", {"alpha": 0.0, "k": 2}),
    "Ranger-threshold=4": ("RangerAdaBelief", {"adaptive_from": 4, "k": 1}),
}

ALL_WAYS = os.environ.get("ADABELIEF_ALL_WAYS") == "1"
"""Whether a mix is tried in every type, layout and the like (`make test-all`), instead of those that are its turn."""


def turns(table: Iterable[str]) -> dict[str, int]:
    """A number for each mix of a table: by its rest, what has nothing to do with the mixes takes turns.

    The top bits of multiples of the golden ratio, which are in step with no option's place in the table.
    """
    return {mix: i * 0x9E3779B1 >> 16 for i, mix in enumerate(table)}


def share(table: Iterable[str], which: int, of: int) -> list[str]:
    """The mixes whose turn it is to be tried in one of some types."""
    return [mix for mix, turn in turns(table).items() if ALL_WAYS or turn % of == which]


def mixes_without(*lacking: str) -> dict[str, Mix]:
    """The table for a front-end that lacks these options."""
    return {name: mix for name, mix in MIXES.items() if not set(lacking) & set(mix[1])}
