"""Checkpoints of other packages, translated so that training goes on where it stopped.

| package | what is translated |
|---|---|
| adabelief-pytorch 0.0.5 to 0.2.1 | options it does not save come from the new optimizer; caches are dropped |
| timm | `decoupled_decay` becomes `weight_decouple` |
| ranger-adabelief 0.0.9, 0.1.0 | as for adabelief-pytorch, and `exp_avg_sq` (its name for s) becomes `exp_avg_var` |

The checkpoint of an Adam is refused, since its state means something else; `from_adam` makes one of it on request.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

StateDict = dict[str, Any]

CACHES = {"buffer", "step_counter", "rho_inf", "rho_t"}
"""What other packages save beside the state and the options."""

OF_ADAM = {"params", "param_names", "initial_lr", "lr", "betas", "weight_decay", "maximize"}
"""Options of torch's Adam that mean the same here. Its eps does not (see `eps_from_adam`); how weights decay, and what
computes the step, is the class's own."""

RENAMED = {"decoupled_decay": "weight_decouple"}

OWN = {"state_bits", "master_weight_bits", "stochastic_rounding"}
"""Options that say how this optimizer stores what it loads: a checkpoint's have no say in it."""


def from_adam(state_dict: StateDict) -> StateDict:
    """The state_dict of a torch.optim.Adam or AdamW as one that an AdaBelief goes on from; the given one is left alone.

    Step number and m are kept, and s begins as Adam's v, the mean of g²: the first step is as long as Adam's would be
    (with the floor of this package's eps), and v fades from s by beta2 at every step, so that after some 1/(1 − beta2)
    steps it is the mean of (g − m)². Learning rate, betas, weight decay and maximize are Adam's; eps and all else are
    those of the optimizer that loads it.

    Args:
        state_dict: Of the Adam.

    Returns:
        What `load_state_dict` of an `AdaBelief`, `AdaBeliefW` or `RangerAdaBelief` takes.

    Raises:
        ValueError: If the state is not that of an Adam.

    Example:
        >>> import torch
        >>> from adabelief import AdaBeliefW
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> adam = torch.optim.AdamW([weight], lr=0.1)
        >>> weight.grad = torch.tensor([1.0, -1.0])
        >>> adam.step()
        >>> optimizer = AdaBeliefW([weight])
        >>> optimizer.load_state_dict(from_adam(adam.state_dict()))
        >>> optimizer.param_groups[0]["lr"], int(optimizer.state[weight]["step"])
        (0.1, 1)
    """
    state = {}
    for i, entry in state_dict["state"].items():
        if not {"step", "exp_avg", "exp_avg_sq"} <= entry.keys():
            raise ValueError(f"state_dict: not of an Adam, since the state of parameter {i} has {', '.join(entry)}")
        state[i] = {"step": entry["step"], "exp_avg": entry["exp_avg"], "exp_avg_var": entry["exp_avg_sq"]}
    groups = [{name: x for name, x in group.items() if name in OF_ADAM} for group in state_dict["param_groups"]]
    return {**state_dict, "state": state, "param_groups": groups}


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
            own | {RENAMED.get(k, k): v for k, v in group.items() if k not in CACHES | OWN}
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
                "averages (g - m)², so there is nothing to go on from. Load the model and start a new optimizer, or "
                "load adabelief.torch.from_adam(state_dict), which keeps the momentum."
            )
        entry["exp_avg_var"] = entry.pop("exp_avg_sq")
    if "step" in entry and not isinstance(entry["step"], Tensor):
        entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float32)
    return entry
