"""AdaBelief and its rivals: who makes them, and where a library's variant departs from the authors' experiments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_optimizer
import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from adabelief import AdaBelief, RangerAdaBelief, options
from adabelief.lab import values
from adabelief.lab.optimizers.eadam import EAdam
from adabelief.lab.optimizers.msvag import msvag
from adabelief.lab.optimizers.muon import Muon, matrices_apart
from adabelief.names import suggestion, there_are
from adabelief.torch.base import wanted

DECAY_RATES = ("beta", "alpha")
"""Arguments that are decay rates of a mean, as the pairs `betas` are."""

FORMS = ("fused", "foreach")
"""How packages let a step's form be chosen, the fastest first: one compiled call, or one for each operation."""


@dataclass(frozen=True)
class Method:
    """An optimizer as the lab runs it.

    Attributes:
        make: Its class, or a function with the same arguments.
        library: The package that it comes from.
        variant: Options that make the library's version the one of the paper's experiments.
        note: Where it still differs from the code behind the paper, or "".
        form: The fastest form that its package has, so that times compare with that; settings may ask for another.
        usual_form: How it steps where nobody chooses: a name in `FORMS`, or "default" for what `default_form` says.
        eps_inside: Whether eps is kept in the second moment: bias-corrected it is then eps/(1 − beta2), of which the
            root is the denominator's floor.
        second_moment: The argument that has the decay rate of its mean of squares, alone or last; empty for none.
        params: What it trains of a module.
    """

    make: Callable[..., Optimizer]
    library: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    form: Mapping[str, bool] = field(default_factory=dict)
    usual_form: str = "default"
    eps_inside: bool = False
    second_moment: str = "betas"
    params: Callable[[nn.Module], Iterable[Any]] = nn.Module.parameters

    def arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that `make` is called with: the settings, the form and the variant."""
        form = {} if settings.keys() & set(FORMS) else self.form
        return {**settings, **form, **self.variant}


_FUSED, _FOREACH = {"fused": True}, {"foreach": True}

METHODS: Mapping[str, Method] = {
    "AdaBelief": Method(AdaBelief, "adabelief", eps_inside=True),
    "SGD": Method(torch.optim.SGD, "torch.optim", form=_FUSED),
    "Adam": Method(torch.optim.Adam, "torch.optim", form=_FUSED),
    "AdamW": Method(torch.optim.AdamW, "torch.optim", form=_FUSED),
    "RAdam": Method(
        torch.optim.RAdam,
        "torch.optim",
        variant={"decoupled_weight_decay": True},
        note="The authors' RAdam decays the weights themselves, with the 5e-4 of the coupled optimizers: 20 times less "
        "than their AdamW.",
        form=_FOREACH,
    ),
    "AdaBound": Method(
        pytorch_optimizer.AdaBound,
        "pytorch_optimizer",
        variant={"weight_decouple": False},
        note="pytorch_optimizer decouples the decay unless told otherwise; the authors' AdaBound couples it.",
        form=_FOREACH,
    ),
    "Yogi": Method(
        pytorch_optimizer.Yogi,
        "pytorch_optimizer",
        variant={"weight_decouple": False},
        note="pytorch_optimizer decouples the decay unless told otherwise; the authors' Yogi couples it.",
        form=_FOREACH,
    ),
    "MSVAG": Method(
        msvag,
        "pytorch_optimizer",
        note="pytorch_optimizer follows MSVAG's own code: a full first step, and factors clamped to [0, 1]; the code "
        "behind the paper has a first step of zero and no clamp. Coupled decay is added to the gradient by the lab, "
        "since the library's MSVAG has none.",
        usual_form="foreach",
    ),
    "Fromage": Method(
        pytorch_optimizer.Fromage,
        "pytorch_optimizer",
        note="Without momentum and decay, as in the authors' code.",
        form=_FOREACH,
    ),
    "RMSprop": Method(torch.optim.RMSprop, "torch.optim", form=_FOREACH, second_moment="alpha"),
    "EAdam": Method(
        EAdam,
        "adabelief.lab",
        variant={"weight_decouple": False},
        note="Adam with AdaBelief's eps, placed as in AdaBelief, and so with the same floor of the denominator: the "
        "control for what is due to eps alone. The paper does not have it; others found that it explains much of the "
        "published gain. It does not rectify.",
        usual_form="foreach",
        eps_inside=True,
    ),
    "AdamW-same-decay": Method(
        torch.optim.AdamW,
        "torch.optim",
        note="AdamW with the number of AdaBelief's weight decay instead of the one that it was published with, "
        "decoupled even where AdaBelief's is coupled; the paper does not have it.",
        form=_FUSED,
    ),
    "EAdamW": Method(
        EAdam,
        "adabelief.lab",
        variant={"weight_decouple": True},
        note="EAdam with decoupled decay: the control for an AdaBelief whose decay is decoupled. The paper does not "
        "have it.",
        usual_form="foreach",
        eps_inside=True,
    ),
    "RangerAdaBelief": Method(
        RangerAdaBelief,
        "adabelief",
        note="Rectified AdaBelief with gradient centralization and Lookahead; the paper does not have it.",
        eps_inside=True,
    ),
    "Lion": Method(
        pytorch_optimizer.Lion,
        "pytorch_optimizer",
        note="Its steps are signs: learning rates are about a tenth of Adam's, decays ten times as large. The paper "
        "does not have it.",
        form=_FOREACH,
        second_moment="",
    ),
    "Muon": Method(
        Muon,
        "torch.optim",
        note="torch's, for matrices that are no lookup tables; AdamW with the same learning rate and decay for the "
        "rest, kernels of convolutions among it. Muon's steps are scaled to AdamW's size. The paper does not have it.",
        params=matrices_apart,
    ),
    "SGD-Nesterov": Method(
        torch.optim.SGD,
        "torch.optim",
        variant={"nesterov": True},
        note="SGD with Nesterov's momentum; the paper does not have it.",
        form=_FUSED,
    ),
}


def build(name: str, params: Iterable[Parameter], settings: Mapping[str, Any]) -> Optimizer:
    """Builds an optimizer of `METHODS`.

    Args:
        name: Its name.
        params: What it is to train.
        settings: Arguments, besides those of the method's `variant`.

    Raises:
        ValueError: If there is no such optimizer, or it has no such argument (pytorch_optimizer itself would drop it
            in silence), or a value is out of range.
    """
    settings = check(name, settings)
    return METHODS[name].make(params, **settings)


def params_of(name: str, module: nn.Module) -> Iterable[Any]:
    """What an optimizer of `METHODS` trains of a module: its parameters, or groups of them."""
    return METHODS[name].params(module)


def check(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an optimizer, each of the kind and in the range that it takes.

    The rivals' own checks miss some of them; what only they know (`nesterov` needs momentum) they are asked by way of
    an optimizer of nothing.

    Raises:
        ValueError: If there is no such optimizer, or it has no such argument, or a value is refused.
    """
    if name not in METHODS:
        raise ValueError(f"name: there is no optimizer {name!r}; {there_are(name, METHODS)}")
    method, known = METHODS[name], arguments(name)
    found = method.arguments(settings)
    for unknown in found.keys() - known.keys():
        raise ValueError(
            f"{unknown}: {name} of {method.library} has no argument {unknown}; it has {', '.join(known)}"
            + suggestion(unknown, known)
        )
    found = {key: _read(key, value, known[key]) for key, value in found.items()}
    try:
        method.make([Parameter(torch.zeros(1))], **found)
    except Exception as error:
        raise ValueError(f"{describe(name, found)}: {name} refuses that ({error})") from error
    return found


def arguments(name: str) -> dict[str, inspect.Parameter]:
    """What an optimizer can be told, by name."""
    parameters = inspect.signature(METHODS[name].make).parameters
    return {key: x for key, x in parameters.items() if key != "params" and x.kind != x.VAR_KEYWORD}


def _read(name: str, value: Any, parameter: inspect.Parameter) -> Any:
    """A value of the kind that the argument's annotation names."""
    annotation = str(parameter.annotation)
    if "tuple[float" in annotation:
        return options.pair(name, value, *options.BETA)
    if "tuple[int" in annotation and isinstance(value, (list, tuple)):  # or one number, as any
        return tuple(values.read(f"{name}[{i}]", item, int) for i, item in enumerate(value))
    kind = next(kind for kind in (bool, float, int, str) if kind.__name__ in annotation)
    found = values.read(name, value, kind, optional=parameter.default is None)
    if name in DECAY_RATES:
        options.check(name, found, *options.BETA)
    return found


def default_form(device: torch.device) -> str:
    """How AdaBelief steps the tensors of a device where nobody chooses: a name in `FORMS`."""
    (group,) = AdaBelief([torch.zeros(1, device=device)]).param_groups
    return "fused" if wanted(group) else "foreach"


def describe(name: str, settings: Mapping[str, Any]) -> str:
    """The arguments of a method in a line, as in `lr=0.001, betas=(0.9, 0.999)`."""
    return ", ".join(f"{key}={value!r}" for key, value in METHODS[name].arguments(settings).items())


def with_batches(name: str, settings: Mapping[str, Any], times: float) -> dict[str, Any]:
    """Settings for batches so many times as large, in which the second moment forgets as fast by the example.

    Its decay rate becomes beta2^times: a half-life of so many examples stays one (Marek et al., arXiv:2507.07101). An
    eps that is kept in the moment changes with it, so that the floor √(eps/(1 − beta2)) stays.

    Args:
        name: A name in `METHODS`.
        settings: Its arguments for batches of the usual size; an optimizer without second moment keeps them.
        times: The batches' size by the usual one.

    Example:
        >>> with_batches("Adam", {"lr": 1e-3, "betas": (0.9, 0.81)}, 0.5)
        {'lr': 0.001, 'betas': (0.9, 0.9)}
    """
    method, changed = METHODS[name], dict(settings)
    found = settings.get(method.second_moment)
    if found is None:
        return changed
    *before, rate = found if isinstance(found, tuple) else (found,)
    slower = rate**times
    changed[method.second_moment] = (*before, slower) if before else slower
    if method.eps_inside:
        eps = settings.get("eps", arguments(name)["eps"].default)
        changed["eps"] = eps * (1 - slower) / (1 - rate)
    return changed
