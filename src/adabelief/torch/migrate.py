"""Checkpoints of other packages, translated so that training goes on where it stopped.

| package | what is translated |
|---|---|
| adabelief-pytorch 0.0.5 to 0.2.1 | options it does not save come from the new optimizer; caches are dropped |
| timm | `decoupled_decay` becomes `weight_decouple` |
| ranger-adabelief 0.0.9, 0.1.0 | as for adabelief-pytorch, and `exp_avg_sq` (its name for s) becomes `exp_avg_var` |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

StateDict = dict[str, Any]

CACHES = {"buffer", "step_counter", "rho_inf", "rho_t"}
"""What other packages save beside the state and the options."""

RENAMED = {"decoupled_decay": "weight_decouple"}


def migrated(state_dict: StateDict, optimizer: Optimizer) -> StateDict:
    """A state_dict in this package's form; the one given is left as it was.

    Options that a saved group does not have are taken from the optimizer's group in the same place.

    Raises:
        ValueError: If the checkpoint is of an optimizer whose state means something else.
    """
    groups = state_dict["param_groups"]
    current = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    if len(groups) == len(current):  # otherwise torch's own loading says what is wrong
        groups = [
            own | {RENAMED.get(k, k): v for k, v in group.items() if k not in CACHES}
            for own, group in zip(current, groups, strict=True)
        ]
    ranger = any("step_counter" in group for group in state_dict["param_groups"])
    state = {i: _migrated_entry(entry, ranger) for i, entry in state_dict["state"].items()}
    return {**state_dict, "state": state, "param_groups": groups}


def _migrated_entry(entry: StateDict, ranger: bool) -> StateDict:
    entry = {name: value for name, value in entry.items() if name not in CACHES}
    if "exp_avg_sq" in entry:
        if not ranger:
            raise ValueError(
                "state_dict: this is the checkpoint of an Adam: its exp_avg_sq averages g², AdaBelief's exp_avg_var "
                "averages (g - m)², so there is nothing to go on from. Load the model and start a new optimizer."
            )
        entry["exp_avg_var"] = entry.pop("exp_avg_sq")
    if "step" in entry and not isinstance(entry["step"], Tensor):
        entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float32)
    return entry
