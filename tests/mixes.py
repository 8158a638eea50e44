"""Options of the rule and their combinations, for every front-end: no framework is imported here."""

from __future__ import annotations

from itertools import product
from typing import Any

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


def mixes(*tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every combination of one entry of each table, by their names."""
    return {
        "-".join(filter(None, names)): {
            k: v for table, name in zip(tables, names, strict=True) for k, v in table[name].items()
        }
        for names in product(*tables)
    }
