"""The state of a parameter: its names and precision, how it begins, and how it is loaded without losing digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.torch.migrate import migrated

State = dict[str, Any]

COLUMNS = {"m": "exp_avg", "s": "exp_avg_var", "s_max": "max_exp_avg_var", "slow": "slow_buffer"}
"""What a state_dict calls the columns of `kernels.layout.STATE`; the only such map."""

STEP = "step"
"""The step number: float32, a tensor without dimensions."""

NAMES = (*COLUMNS.values(), STEP)
"""All that a parameter's state may have."""


def state_dtype(p: Tensor) -> torch.dtype:
    """The type in which p is stepped and its state is kept: float32 for narrower types, else p's own."""
    return torch.promote_types(p.dtype, torch.float32)


def begin(state: State, p: Tensor, *, amsgrad: bool, lookahead: bool, capturable: bool) -> State:
    """Fills in what is missing of p's state: zeros, and for Lookahead's slow weights p itself.

    What is there follows p to a wider type, and the step number to where it is read: a framework that moves a whole
    state to a device and back moves it too.
    """
    place = p.device if capturable else torch.device("cpu")
    step = state.get(STEP)
    if step is None:
        state[STEP] = torch.zeros((), dtype=torch.float32, device=place)
    elif step.dtype != torch.float32 or step.device.type != place.type:
        state[STEP] = step.to(place, torch.float32)
    dtype = state_dtype(p)
    for column, name in COLUMNS.items():
        if (column == "s_max" and not amsgrad) or (column == "slow" and not lookahead):
            continue
        x = state.get(name)
        if x is None and column == "slow":
            state[name] = p.to(dtype, memory_format=torch.preserve_format, copy=True)
        elif x is None:
            state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        elif x.dtype != dtype and torch.promote_types(x.dtype, dtype) != x.dtype:
            state[name] = x.to(dtype)
    return state


def load(optimizer: Optimizer, state_dict: State, base_load: Callable[[State], None]) -> None:
    """Runs `base_load`, torch's own loading, but keeps the precision in which the state was saved.

    torch casts every state tensor to its parameter's type, which turns a float32 variance of a float16 parameter into
    zeros. Checkpoints of other packages are translated on the way. Both happen between the optimizer's own hooks: after
    the user's pre-hooks, before the user's post-hooks.
    """
    loaded: State = {}

    def translate(optimizer: Optimizer, state_dict: State) -> State:
        loaded.update(migrated(state_dict, optimizer))
        return loaded

    def restore(optimizer: Optimizer) -> None:
        saved_ids = [i for group in loaded["param_groups"] for i in group["params"]]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for i, p in zip(saved_ids, params, strict=True):
            for name, value in loaded["state"].get(i, {}).items():
                if name == STEP:
                    optimizer.state[p][name] = optimizer.state[p][name].clone()  # torch shares it
                elif isinstance(value, Tensor):
                    optimizer.state[p][name] = value.to(p.device, state_dtype(p), copy=True)

    hooks = (
        optimizer.register_load_state_dict_pre_hook(translate),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        base_load(state_dict)
    finally:
        for hook in hooks:
            hook.remove()
