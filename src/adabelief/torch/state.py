"""The state of a parameter: its names and precision, how it begins, and how it is loaded without losing digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from adabelief.kernels.layout import EXPONENTS
from adabelief.options import is_number
from adabelief.torch import bits, finite, internals, storage
from adabelief.torch.migrate import migrated

if TYPE_CHECKING:
    from adabelief.torch.base import Base

State = dict[str, Any]

COLUMNS = {"m": "exp_avg", "s": "exp_avg_var", "s_max": "max_exp_avg_var", "slow": "slow_buffer", "rest": "weight_rest"}
COLUMNS |= {name: name.replace(column, COLUMNS[column], 1) for column, name in EXPONENTS.items()}
"""What a state_dict calls the arrays of `kernels.layout.KEPT`; the only such map."""

STEP = "step"
"""The step number: float32, a tensor without dimensions."""

NAMES = (*COLUMNS.values(), STEP)
"""All that a parameter's state may have."""

NEEDED = (STEP, COLUMNS["m"], COLUMNS["s"])
"""What the saved state of a parameter must have, if it has any."""


def state_dtype(p: Tensor) -> torch.dtype:
    """The type in which p is stepped and its state is kept: float32 for narrower types, else p's own."""
    return torch.promote_types(p.dtype, torch.float32)


def refuse_conjugate(p: Tensor) -> None:
    """Raises for a lazily conjugated parameter, whose memory does not hold its values."""
    if p.is_conj():
        raise ValueError(
            f"params: one of shape {tuple(p.shape)} is a lazy conjugate, which cannot be stepped in place; "
            "make it of x.resolve_conj()"
        )


def refuse_sparse(g: Tensor, optimizer: str) -> None:
    """Raises for a sparse gradient."""
    if g.is_sparse:
        raise RuntimeError(
            f"{optimizer} does not support sparse gradients (a parameter of shape {tuple(g.shape)} has one): use "
            "torch.optim.SparseAdam for it, or Embedding(sparse=False)"
        )


def begin(state: State, p: Tensor, group: dict[str, Any]) -> State:
    """Fills in what is missing of the state of p in a group: zeros, and for Lookahead's slow weights p itself.

    What is there follows p to another type and the group to other codes, and the step number to where it is read: a
    framework that moves a whole state to a device and back moves it too.
    """
    bits.check_weights(p, group)  # options and types may have changed since the constructor looked
    place = p.device if group["capturable"] else torch.device("cpu")
    step = state.get(STEP)
    if step is None:
        state[STEP] = torch.zeros((), dtype=torch.float32, device=place)
    elif step.dtype != torch.float32 or step.device.type != place.type:
        state[STEP] = step.to(place, torch.float32)
    for column in EXPONENTS:
        if column != "s_max" or group["amsgrad"]:
            bits.stored_as(state, p, column, COLUMNS, bits.bits_of(p, column, group["state_bits"]))
    bits.rest_stored_as(state, p, COLUMNS["rest"], group["master_weight_bits"])
    slow, dtype = state.get(COLUMNS["slow"]), state_dtype(p)
    if "k" in group and slow is None:
        state[COLUMNS["slow"]] = p.to(dtype, memory_format=torch.preserve_format, copy=True)
    elif slow is not None and slow.dtype != dtype:
        state[COLUMNS["slow"]] = slow.to(dtype)
    return state


def follow_layout(state: State, p: Tensor) -> None:
    """Lays p's state out as p is, where p was given another order of dimensions (channels_last), for the kernels."""
    for name in COLUMNS.values():
        x = state.get(name)
        if x is not None and x.shape == p.shape and x.stride() != p.stride():
            state[name] = torch.empty_like(p, dtype=x.dtype, memory_format=torch.preserve_format).copy_(x)


def load(owner: Base, state_dict: State, base_load: Callable[[State], None]) -> None:
    """Runs `base_load`, torch's own loading, but keeps the precision in which the state was saved.

    torch casts every state tensor to its parameter's type, which turns a float32 variance of a float16 parameter into
    zeros, and moves it to its device, where state that is offloaded has no room: it gets the step numbers alone.
    Checkpoints of other packages are translated on the way. Both happen between the optimizer's own hooks: after the
    user's pre-hooks, before the user's post-hooks.
    """
    loaded: State = {}

    def translate(optimizer: Optimizer, state_dict: State) -> State:
        loaded.update(migrated(state_dict, optimizer))
        for entry, own in _pairs(loaded, optimizer):
            _settle_exponents(entry, own)
        _check_options(loaded, owner)
        _check(loaded, optimizer)
        _check_numbers(state_dict)
        ours = {i for group in loaded["param_groups"] for i in group["params"]}
        rest = {
            i: {name: x for name, x in entry.items() if i not in ours or not _is_ours(name, x)}
            for i, entry in loaded["state"].items()
        }
        return {**loaded, "state": rest}

    def restore(optimizer: Optimizer) -> None:
        place = owner._state_device
        saved_ids = [i for group in loaded["param_groups"] for i in group["params"]]
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for i, p in zip(saved_ids, params, strict=True):
            for name, value in loaded["state"].get(i, {}).items():
                if name == STEP:
                    optimizer.state[p][name] = optimizer.state[p][name].clone()  # torch shares it
                elif _is_ours(name, value):
                    coded = value.dtype in storage.CODED
                    dtype = value.dtype if coded else state_dtype(p)
                    optimizer.state[p][name] = value.to(place or p.device, dtype, copy=True)
        if place is not None:  # where the step, which has a copy of p there, sees to what follows
            return
        for group in optimizer.param_groups:  # the options are the group's own, whatever the checkpoint's were
            for p in group["params"]:
                entry = optimizer.state.get(p, {})
                if COLUMNS["rest"] in entry:
                    bits.rest_stored_as(entry, p, COLUMNS["rest"], group["master_weight_bits"])
                for column in EXPONENTS:
                    if COLUMNS[column] in entry:
                        its_bits = bits.bits_of(p, column, group["state_bits"])
                        bits.stored_as(entry, p, column, COLUMNS, its_bits)

    hooks = (
        owner.register_load_state_dict_pre_hook(translate),
        owner.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        base_load(state_dict)
    finally:
        for hook in hooks:
            hook.remove()


def _pairs(state_dict: State, optimizer: Optimizer) -> Iterator[tuple[State, State]]:
    """The saved state of each parameter that has one, and the optimizer's own."""
    saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in zip(saved_ids, params, strict=False):  # torch says where there are more or fewer
        if i in state_dict["state"]:
            yield state_dict["state"][i], optimizer.state.get(p, {})


def _settle_exponents(entry: State, own: State) -> None:
    """Has exponents follow what they stand beside, where torch put a full checkpoint among an optimizer's own tensors.

    It leaves this one's exponents beside saved numbers, and saved ones whole beside codes that it has cut.
    """
    for column, its in EXPONENTS.items():
        x, exponents = entry.get(COLUMNS[column]), entry.get(COLUMNS[its])
        if not isinstance(x, Tensor) or not isinstance(exponents, Tensor):
            continue
        if x.is_floating_point() and internals.same_memory(exponents, own.get(COLUMNS[its])):
            del entry[COLUMNS[its]]
        elif internals.is_distributed(x) and internals.is_plain(exponents):
            entry[COLUMNS[its]] = internals.distribute_as(x, exponents)


def _is_ours(name: str, value: Any) -> bool:
    """Whether a part of a saved state is loaded here, not by torch."""
    return isinstance(value, Tensor) and name != STEP


def _check_options(state_dict: State, owner: Base) -> None:
    """Raises ValueError for the first option of a saved group that the constructor would refuse."""
    for i, (own, group) in enumerate(zip(owner.param_groups, state_dict["param_groups"], strict=False)):
        try:
            owner._check(own | group | _rounded(group))
            count = group.get(finite.COUNT, torch.zeros(()))
            if not isinstance(count, Tensor) or count.numel() != 1:
                raise ValueError(f"{finite.COUNT} must be a tensor of one number, got {count!r}")
        except ValueError as error:
            raise ValueError(
                f"state_dict: {error} in group {i}; correct its param_groups[{i}] before it is loaded"
            ) from error


def _rounded(group: State) -> State:
    """An lr of 0 where a schedule that ends at 0, as LinearLR may, has rounded it to just below."""
    both: Iterator[Any] = map(group.get, ("lr", "initial_lr"))
    lr, first = (x.item() if isinstance(x, Tensor) and x.numel() == 1 else x for x in both)
    if not (is_number(lr) and is_number(first)):
        return {}
    return {"lr": 0.0} if -1e-6 * first <= lr < 0 else {}


def _check(state_dict: State, optimizer: Optimizer) -> None:
    """Raises ValueError for the first part of a saved state that is missing, or not of its parameter."""
    saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in zip(saved_ids, params, strict=False):  # torch says where there are more or fewer
        entry = state_dict["state"].get(i)
        if not entry:
            continue
        missing = next((name for name in NEEDED if name not in entry), None)
        if missing:
            other = next((f"{name} and " for name in entry if name not in NAMES), "")
            raise ValueError(
                f"state_dict: the state of parameter {i} has {other}no {missing}; load a checkpoint of an "
                "AdaBelief, or start a new optimizer"
            )
        step = entry[STEP]
        if not isinstance(step, Tensor) or step.numel() != 1 or not _counts(step):
            raise ValueError(
                f"state_dict: {STEP} of parameter {i} must be a number, at least 0, got {step!r}; load a checkpoint "
                "that is whole"
            )
        if is_lazy(p):
            continue
        for column in ("m", "s", "s_max", "slow"):
            x = entry.get(COLUMNS[column])
            if x is not None and (not isinstance(x, Tensor) or x.shape != p.shape):
                found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)
                raise ValueError(
                    f"state_dict: {COLUMNS[column]} of parameter {i} must be a tensor of shape {tuple(p.shape)}, got "
                    f"{found}; load a checkpoint of this model"
                )
        _check_codes(entry, p, i)


def _counts(step: Tensor) -> bool:
    """Whether a step number may be one, as far as it can be read."""
    return not internals.has_value(step) or step.is_meta or 0 <= float(step) < math.inf


def _check_codes(entry: State, p: Tensor, i: Any) -> None:
    """Raises ValueError for the first codes of a parameter's saved state whose exponents are not theirs."""
    rest = entry.get(COLUMNS["rest"])
    if rest is not None and (
        not isinstance(rest, Tensor) or rest.dtype not in storage.RESTS.values() or rest.shape != p.shape
    ):
        raise ValueError(
            f"state_dict: {COLUMNS['rest']} of parameter {i} must be of shape {tuple(p.shape)} in int8 or int16, "
            f"got {_found(rest)}; load a checkpoint of this model"
        )
    for column, its in EXPONENTS.items():
        x, exponents = entry.get(COLUMNS[column]), entry.get(COLUMNS[its])
        if x is None or (x.dtype != torch.uint8 and exponents is None):
            continue
        shape = storage.exponents_shape(p)
        if x.dtype != torch.uint8:
            raise ValueError(
                f"state_dict: {COLUMNS[column]} of parameter {i} must be codes of shape {tuple(p.shape)} in uint8, "
                f"got {tuple(x.shape)} in {x.dtype}; load a checkpoint of this model"
            )
        if not isinstance(exponents, Tensor) or exponents.dtype != torch.uint8 or exponents.shape != shape:
            raise ValueError(
                f"state_dict: {COLUMNS[its]} of parameter {i} must be of shape {shape} in uint8, beside the codes "
                f"of {COLUMNS[column]}, got {_found(exponents)}; load a checkpoint that is whole"
            )


def _found(x: Any) -> str:
    """What stands where a tensor should, in words."""
    return f"{tuple(x.shape)} in {x.dtype}" if isinstance(x, Tensor) else "nothing" if x is None else repr(x)


def _check_numbers(state_dict: State) -> None:
    """Raises ValueError for codes that were read into another type, whose values then are whole numbers up to 255.

    What loads into tensors that are there already, as torch.distributed.checkpoint does, takes uint8 for any type.
    """
    for group in state_dict["param_groups"]:
        saved_in = bits.pair(group.get("state_bits", 32))
        for i in group["params"] if 8 in saved_in else ():
            entry = state_dict["state"].get(i, {})
            for name, its_bits in zip((COLUMNS["m"], COLUMNS["s"]), saved_in, strict=True):
                x = entry.get(name)
                if its_bits != 8 or not isinstance(x, Tensor) or not x.is_floating_point():
                    continue
                values = internals.part(x) if internals.is_distributed(x) else x
                if bool(values.any()) and bool(((values >= 0) & (values <= 255) & (values == values.round())).all()):
                    raise ValueError(
                        f"state_dict: {name} of parameter {i} was saved with state_bits={group['state_bits']}, and its "
                        f"codes were read into {x.dtype}, as torch.distributed.checkpoint does; load with an optimizer "
                        f"of state_bits={group['state_bits']}, then set group['state_bits'] of its param_groups"
                    )
