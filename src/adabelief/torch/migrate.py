"""Checkpoints of other packages, translated so that training goes on where it stopped.

| package | what is translated |
|---|---|
| adabelief-pytorch 0.0.5 to 0.2.1 | options it does not save come from the new optimizer; caches are dropped |
| torch_optimizer 0.3 | the same: it is adabelief-pytorch 0.0.5 |
| pytorch_optimizer 4.1 | the group's `step` goes to each parameter, `ams_bound` becomes `amsgrad`, `foreach` goes |
| timm | `decoupled_decay` becomes `weight_decouple` |
| ranger-adabelief 0.0.9, 0.1.0 | as for adabelief-pytorch, and `exp_avg_sq` (its name for s) becomes `exp_avg_var` |

The checkpoint of an Adam is refused, since its state means something else; `from_adam` makes one of it on request, and
`from_optax` one of the state of optax.adabelief.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.options import RATE, check, is_number

StateDict = dict[str, Any]

CACHES = {"buffer", "step_counter", "rho_inf", "rho_t", "exp_grad_adanorm", "adanorm", "adanorm_r", "adam_debias"}
"""What other packages save beside the state and the options, and options that are refused where they are in use."""

VARIANTS = ("adanorm", "adam_debias")
"""pytorch_optimizer's options for other rules."""

OF_ADAM = {"params", "param_names", "initial_lr", "lr", "betas", "weight_decay", "maximize"}
"""Options of torch's Adam that mean the same here. Its eps does not (see `eps_from_adam`); how weights decay, and what
computes the step, is the class's own."""

RENAMED = {"decoupled_decay": "weight_decouple", "ams_bound": "amsgrad"}

OWN = {"state_bits", "master_weight_bits", "stochastic_rounding"}
"""Options that say how this optimizer stores what it loads: a checkpoint's have no say in it."""


def from_adam(state_dict: StateDict, eps: float = 1e-16) -> StateDict:
    """The state_dict of a torch.optim.Adam or AdamW as one that an AdaBelief goes on from; the given one is left alone.

    Step number and m are kept. s, the mean of (g − m)², begins as what Adam's m and v say of it:

        m̂ = m/(1 − beta1^t),  c = 1 − beta2^t
        s = beta1 · max(v − c · m̂², (1 − beta1) · v) + eps · c/(1 − beta2)

    For beta1 = beta2, s = beta1 · (v − m²) is an identity, but for the beginning. For gradients with a steady mean and
    independent noise it is right on average for any betas: the variance of m̂ is (1 − beta1)/(1 + beta1) of the noise's,
    so that v̂ − m̂² has 2·beta1/(1 + beta1) of it, and s has beta1 times that. But v looks further back than m, and
    where gradients grew, v̂ − m̂² says nothing, down to negative numbers: hence the bound, a share that one gradient has
    in m. With it no step is longer than 1/√(beta1 · (1 − beta1)) times Adam's, 3.3 times at beta1 = 0.9. At beta1 = 0 m
    says nothing of the mean, and s begins as v. After some 1/(1 − beta2) steps s is measured, no longer estimated.

    Learning rate, betas, weight decay and maximize are Adam's; eps and all else are those of the optimizer that loads
    it. A warning says once what s begins as.

    Args:
        state_dict: Of the Adam.
        eps: Of the optimizer that loads it: what s would hold of it, so that the denominator has its floor at once.

    Returns:
        What `load_state_dict` of an `AdaBelief`, `AdaBeliefW` or `RangerAdaBelief` takes.

    Raises:
        ValueError: If the state is not that of an Adam, or eps is out of its range.

    Example:
        >>> import torch, warnings
        >>> from adabelief import AdaBeliefW
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> adam = torch.optim.AdamW([weight], lr=0.1)
        >>> weight.grad = torch.tensor([1.0, -1.0])
        >>> adam.step()
        >>> optimizer = AdaBeliefW([weight])
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # it says how s begins
        ...     optimizer.load_state_dict(from_adam(adam.state_dict()))
        >>> optimizer.param_groups[0]["lr"], int(optimizer.state[weight]["step"])
        (0.1, 1)
    """
    check("eps", eps, *RATE)
    state = {}
    for group in state_dict["param_groups"]:
        for i in group["params"]:
            entry = state_dict["state"].get(i)
            if not entry:
                continue
            if not {"step", "exp_avg", "exp_avg_sq"} <= entry.keys():
                raise ValueError(f"state_dict: not of an Adam, since the state of parameter {i} has {', '.join(entry)}")
            beta1, beta2 = map(float, group["betas"])
            s = _belief(entry, beta1, beta2, eps)
            state[i] = {"step": entry["step"], "exp_avg": entry["exp_avg"], "exp_avg_var": s}
    groups = [{name: x for name, x in group.items() if name in OF_ADAM} for group in state_dict["param_groups"]]
    warnings.warn(
        "from_adam: an Adam has no mean of (g - m)^2; exp_avg_var begins as the estimate that its m and v give, and is "
        "measured after some 1/(1 - beta2) steps. Watch the first ones, or bound them by max_update.",
        stacklevel=2,
    )
    return {**state_dict, "state": state, "param_groups": groups}


def _belief(entry: StateDict, beta1: float, beta2: float, eps: float) -> Tensor:
    """What an Adam's state of one parameter says of s."""
    t = float(entry["step"])
    m, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (entry["exp_avg"], entry["exp_avg_sq"]))
    m, v = (torch.view_as_real(x) if x.is_complex() else x for x in (m, v))
    correction1, correction2 = 1 - beta1**t, 1 - beta2**t
    s = v
    if beta1 > 0 and t > 0:
        s = beta1 * torch.maximum(v - correction2 * (m / correction1) ** 2, (1 - beta1) * v)
    s = s + eps * correction2 / (1 - beta2)
    return torch.view_as_complex(s) if entry["exp_avg"].is_complex() else s


def from_optax(state: Any, optimizer: Optimizer, convert: Callable[[Any], Mapping[str, Any]] = dict) -> StateDict:
    """The state of optax.adabelief as a state_dict for an optimizer of this package, whose options it keeps.

    Args:
        state: What `init` and `update` of optax.adabelief return, or the same read from a file as dicts and lists:
            count, mu and nu are looked for in it. Arrays are anything that NumPy reads.
        optimizer: Made of named parameters (`model.named_parameters()`).
        convert: What makes a state_dict of the JAX parameters for the PyTorch model, by renaming and transposing: m and
            s are carried over in the same way. By default the parameters are a dict with the names of the model's.

    Returns:
        What `load_state_dict` of `optimizer` takes.

    Raises:
        ValueError: If there is no such state, if parameters have no names, or one is missing in what `convert` returns.

    Example:
        >>> import numpy as np, torch
        >>> from adabelief import AdaBelief
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = AdaBelief(model.named_parameters())
        >>> read = {"0": {"count": 7, "mu": {"kernel": np.ones((2, 1))}, "nu": {"kernel": np.ones((2, 1))}}, "1": {}}
        >>> optimizer.load_state_dict(from_optax(read, optimizer, lambda tree: {"weight": tree["kernel"].T}))
        >>> int(optimizer.state[model.weight]["step"]), optimizer.state[model.weight]["exp_avg"].shape
        (7, torch.Size([1, 2]))
    """
    found = list(_beliefs(state))
    if len(found) != 1:
        raise ValueError(
            f"state must hold one state of optax.adabelief, with count, mu and nu, and holds {len(found)}; give what "
            "its init or update returns, or what was saved of that"
        )
    count, mu, nu = found[0]
    means = {"exp_avg": convert(mu), "exp_avg_var": convert(nu)}
    whole = optimizer.state_dict()
    entries: dict[Any, StateDict] = {}
    for group in whole["param_groups"]:
        if len(group.get("param_names", ())) != len(group["params"]):
            raise ValueError("optimizer must be made of named parameters: pass model.named_parameters() to it")
        for i, name in zip(group["params"], group["param_names"], strict=True):
            missing = next((key for key, mean in means.items() if name not in mean), None)
            if missing:
                raise ValueError(
                    f"convert: there is no {name!r} for {missing} in what it returns, but {', '.join(means[missing])}"
                )
            entries[i] = {key: _tensor(mean[name]) for key, mean in means.items()} | {"step": float(count)}
    return {**whole, "state": entries}


def _beliefs(node: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Count, mu and nu of every state of scale_by_belief in a tree of tuples, lists and dicts."""
    fields = node if isinstance(node, Mapping) else node._asdict() if hasattr(node, "_asdict") else {}
    if {"count", "mu", "nu"} <= fields.keys():
        if hasattr(node, "_asdict") and type(node).__name__ != "ScaleByBeliefState":
            raise ValueError(
                f"state: {type(node).__name__} is not of optax.adabelief: its nu averages something else than (g - m)^2"
            )
        yield fields["count"], fields["mu"], fields["nu"]
        return
    for each in fields.values() if fields else node if isinstance(node, (list, tuple)) else ():
        yield from _beliefs(each)


def _tensor(x: Any) -> Tensor:
    """A copy of an array, of types that NumPy itself does not have in float32."""
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    return torch.tensor(array if array.dtype.kind in "fc" else array.astype(np.float32))


def migrated(state_dict: StateDict, optimizer: Optimizer) -> StateDict:
    """A state_dict in this package's form; the one given is left as it was.

    Options that a saved group does not have are taken from the optimizer's group in the same place.

    Raises:
        ValueError: If the checkpoint is of an optimizer whose state means something else.
    """
    groups = state_dict["param_groups"]
    for i, group in enumerate(groups):
        name = next((name for name in VARIANTS if group.get(name)), None)
        if name:
            raise ValueError(
                f"state_dict: {name}={group[name]!r} of group {i} is a rule of pytorch_optimizer that is not here; "
                "delete it from the group to go on without it"
            )
    current = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    if len(groups) == len(current):  # otherwise torch's own loading says what is wrong
        groups = [
            own | {RENAMED.get(k, k): v for k, v in group.items() if k not in CACHES | OWN | _implementation(group)}
            for own, group in zip(current, groups, strict=True)
        ]
    ranger = any("step_counter" in group for group in state_dict["param_groups"])
    steps = {i: group["step"] for group in state_dict["param_groups"] if "step" in group for i in group["params"]}
    state = {i: _migrated_entry(entry, ranger, steps.get(i)) for i, entry in state_dict["state"].items()}
    return {**state_dict, "state": state, "param_groups": groups}


def _implementation(group: StateDict) -> set[str]:
    """What pytorch_optimizer's groups say of how it steps, and of when."""
    return {"foreach", "step"} if "step" in group else set()


def _migrated_entry(entry: StateDict, ranger: bool, step: Any = None) -> StateDict:
    entry = {name: value for name, value in entry.items() if name not in CACHES}
    if entry and step is not None:
        entry.setdefault("step", step)
    if "exp_avg_sq" in entry:
        if not ranger:
            raise ValueError(
                "state_dict: this is the checkpoint of an Adam: its exp_avg_sq averages g², AdaBelief's exp_avg_var "
                "averages (g - m)², so there is nothing to go on from. Load the model and start a new optimizer, or "
                "load adabelief.torch.from_adam(state_dict), which keeps the momentum."
            )
        entry["exp_avg_var"] = entry.pop("exp_avg_sq")
    if is_number(entry.get("step")):
        entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float32)
    return entry
