"""AdaBelief's classes as torch describes its own optimizers to its tests (OptimizerInfo), beside torch.optim.AdamW."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.oracle import set_gradients

with pytest.MonkeyPatch.context() as kept:  # its import forbids the whole process to set torch.backends' flags
    kept.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
    torchs = pytest.importorskip(
        "torch.testing._internal.common_optimizers",
        reason="torch keeps the machinery of its own tests elsewhere, or expecttest, which it needs, is missing",
        exc_type=ImportError,
    )

OWN = {
    AdaBelief: [
        {"weight_decay": 0.1, "weight_decouple": True, "rectify": True},
        {"weight_decay": 0.1, "weight_decouple": True, "fixed_decay": True, "betas": (0.0, 0.9)},
        {"rectify": True, "degenerated_to_sgd": False, "amsgrad": True},
    ],
    AdaBeliefW: [{"rectify": True}, {"fixed_decay": True, "eps": 1e-8}],
    RangerAdaBelief: [{"k": 1, "alpha": 0.3}, {"gc_loc": False}, {"gc_conv_only": True}, {"use_gc": False}],
}
EVERYWHERE = [{"capturable": True}, {"lr": torch.tensor(1e-3)}, {"lr": torch.tensor(1e-3), "capturable": True}]
LR_IS_ONE_NUMBER = "Tensor lr must be 1-element"
"""torch's words for what every error of ours says with the argument's name and value."""

LOOP = {"foreach": False, "fused": False}
"""The plain loop, which every other implementation must equal."""

SHAPES = [(4, 3), (3,), (), (0, 2), (2, 3, 2, 2)]


def _inputs(cls: type[torch.optim.Optimizer]) -> Callable[..., list[Any]]:
    """All configurations that torch tries on AdamW, and those that only ours have."""

    def of(device: Any, dtype: torch.dtype | None = None) -> list[Any]:
        more = [torchs.OptimizerInput(None, options, ",".join(options)) for options in OWN[cls] + EVERYWHERE]
        return torchs.optim_inputs_func_adamw(device, dtype) + copy.deepcopy(more)

    return of


def _error_inputs(device: Any, dtype: torch.dtype) -> list[Any]:
    """What torch holds every optimizer to, in its own words where it is torch that raises."""
    errors = torchs.get_error_inputs_for_all_optims(device, dtype)
    for error in errors:
        if error.error_regex == LR_IS_ONE_NUMBER:
            error.error_regex = r"lr.*\(2,\)"
    bad = {"betas": (1.0, 0.0), "weight_decay": -1, "lr": -1.0, "eps": -1.0}
    return errors + [
        torchs.ErrorOptimizerInput(
            torchs.OptimizerInput(None, {name: value}, name), error_type=ValueError, error_regex=name
        )
        for name, value in bad.items()
    ]


def _has_kernel() -> bool:
    try:
        AdaBelief([torch.ones(1)], fused=True)
    except ValueError:
        return False
    return True


def _info(cls: type[torch.optim.Optimizer]) -> Any:
    return torchs.OptimizerInfo(
        cls,
        optim_inputs_func=_inputs(cls),
        optim_error_inputs_func=_error_inputs,
        supported_impls=("foreach", "differentiable", "fused"),
        not_og_supported_flags=("foreach", "differentiable", "fused", "maximize", "capturable"),
        has_capturable_arg=True,
        supports_fused_on=("cpu",) if _has_kernel() else (),
    )


INFOS = {each.name: each for each in torchs.optim_db if each.optim_cls is torch.optim.AdamW}
INFOS |= {cls.__name__: _info(cls) for cls in OWN}


def implementations(each: Any) -> dict[str, dict[str, bool | None]]:
    """The ways to make a step on a CPU; torch's own helper leaves foreach to GPUs."""
    supported = [name for name in each.supported_impls if name != "fused" or "cpu" in each.supports_fused_on]
    return {"chosen": {}, "loop": LOOP} | {name: {name: True} for name in supported if name != "differentiable"}


CASES = {
    f"{each.name}-{given.desc}-{name}": (each.optim_cls, given.kwargs, implementation)
    for each in INFOS.values()
    for given in each.optim_inputs_func("cpu")
    for name, implementation in implementations(each).items()
}
"""Every class with every configuration and implementation."""

IMPLEMENTATIONS = {
    f"{name}-{kind}": (each, options) for name, each in INFOS.items() for kind, options in implementations(each).items()
}

of_each = pytest.mark.parametrize("each", INFOS.values(), ids=list(INFOS))
of_every_implementation = pytest.mark.parametrize(
    ("each", "implementation"), IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS)
)
of_every_case = pytest.mark.parametrize(("cls", "options", "implementation"), CASES.values(), ids=list(CASES))


def built(cls: Any, params: Any, *options: dict[str, Any]) -> torch.optim.Optimizer:
    """An optimizer; what the options hold is copied, so that no case sees another's tensors."""
    return cls(params, **copy.deepcopy({name: value for each in options for name, value in each.items()}))


def parameters(dtype: torch.dtype = torch.float64, contiguous: bool = True) -> list[torch.nn.Parameter]:
    """One of every shape, an empty one and one of no dimension among them."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    tensors = [torch.randn(*shape, 2, generator=generator, dtype=wide).to(dtype)[..., 0] for shape in SHAPES]
    return [torch.nn.Parameter(x.clone() if contiguous else x) for x in tensors]


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of all groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def walk(optimizer: torch.optim.Optimizer, seeds: range) -> None:
    """Makes a step with the gradients of each seed."""
    for seed in seeds:
        set_gradients(params_of(optimizer), seed)
        optimizer.step()


def assert_alike(one: torch.optim.Optimizer, other: torch.optim.Optimizer, tolerance: float = 0.0) -> None:
    """Asserts that two optimizers have the same parameters and the same state."""
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(params_of(one), params_of(other), **close)
    states = [[dict(each.state[p]) for p in params_of(each) if p in each.state] for each in (one, other)]
    torch.testing.assert_close(*states, **close)
