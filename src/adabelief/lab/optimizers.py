"""AdaBelief and its rivals: who makes them, and where a library's variant departs from the authors' experiments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytorch_optimizer
import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from adabelief import AdaBelief, options
from adabelief.lab import values
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
    """

    make: Callable[..., Optimizer]
    library: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    form: Mapping[str, bool] = field(default_factory=dict)
    usual_form: str = "default"

    def arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that `make` is called with: the settings, the form and the variant."""
        form = {} if settings.keys() & set(FORMS) else self.form
        return {**settings, **form, **self.variant}


def msvag(
    params: Iterable[Parameter], lr: float = 1e-2, beta: float = 0.9, weight_decay: float = 0.0
) -> pytorch_optimizer.MSVAG:
    """MSVAG with coupled weight decay, which pytorch_optimizer's takes as an argument and ignores."""
    optimizer = pytorch_optimizer.MSVAG(params, lr=lr, beta=beta, foreach=True)
    if weight_decay:
        optimizer.register_step_pre_hook(partial(_add_decay, weight_decay))
    return optimizer


@torch.no_grad()
def _add_decay(weight_decay: float, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.add_(p, alpha=weight_decay)


class EAdam(Optimizer):
    """Adam that keeps eps inside v, as AdaBelief keeps it inside s (Yuan and Gao, arXiv:2011.02150).

        m ← beta1 · m + (1 − beta1) · g
        v ← beta2 · v + (1 − beta2) · g² + eps
        p ← p − lr/(1 − beta1^t) · m / (√(v/(1 − beta2^t)) + eps)

    With the same eps and no rectification, it differs from AdaBelief in g² for (g − m)² alone, and from Adam in where
    eps is alone: what it gains on Adam is then due to that. Weight decay is added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps every parameter that has a gradient; takes no closure."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                self.state[p]["step"] += 1
            grads: Any = [p.grad for p in params]
            m, v = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq"))
            (beta1, beta2), eps, t = group["betas"], group["eps"], self.state[params[0]]["step"]
            if group["weight_decay"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            torch._foreach_lerp_(m, grads, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, grads, grads, value=1 - beta2)
            torch._foreach_add_(v, eps)
            denominators = torch._foreach_div(v, 1 - beta2**t)
            torch._foreach_sqrt_(denominators)
            torch._foreach_add_(denominators, eps)
            torch._foreach_addcdiv_(params, m, denominators, value=-group["lr"] / (1 - beta1**t))


_FUSED, _FOREACH = {"fused": True}, {"foreach": True}

METHODS: Mapping[str, Method] = {
    "AdaBelief": Method(AdaBelief, "adabelief"),
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
    "RMSprop": Method(torch.optim.RMSprop, "torch.optim", form=_FOREACH),
    "EAdam": Method(
        EAdam,
        "adabelief.lab",
        note="Adam with eps placed as in AdaBelief, though not always as large. The paper does not have it; others "
        "found that it explains much of the published gain.",
        usual_form="foreach",
    ),
    "AdamW-same-decay": Method(
        torch.optim.AdamW,
        "torch.optim",
        note="AdamW with the number of AdaBelief's weight decay instead of the one that it was published with, "
        "decoupled even where AdaBelief's is coupled; the paper does not have it.",
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
    if "tuple" in annotation:
        return options.pair(name, value, *options.BETA)
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
