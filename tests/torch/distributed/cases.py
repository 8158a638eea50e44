"""The table of cases, and how one of them is run beside one process."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.torch import launch
from tests.torch.distributed.models import Exact, loss, perceptron
from tests.torch.distributed.wrappers import MESHES, WRAPPERS, Wrapper

CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (AdaBelief, AdaBeliefW, RangerAdaBelief)}

IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}

STORAGES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "32": (torch.float64, {}),
    "16": (torch.float32, {"state_bits": 16}),
    "8": (torch.float32, {"state_bits": 8}),
    "weights-24": (torch.bfloat16, {"state_bits": (16, 8), "master_weight_bits": 24}),
}
"""Element type of the parameters, and how state and weights are stored."""

FLAT = "flat pieces"
"""What the refusal of codes for flat parameters says."""


class Case(NamedTuple):
    wrapper: str
    cls: str
    implementation: str
    storage: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def processes(self) -> int:
        shape, _ = MESHES[WRAPPERS[self.wrapper].mesh]
        return torch.Size(shape).numel()

    @property
    def refused(self) -> str | None:
        """What the error says, where there is one."""
        return FLAT if WRAPPERS[self.wrapper].flat and self.storage != "32" else None


TABLE = [Case(*each) for each in product(WRAPPERS, CLASSES, IMPLEMENTATIONS, STORAGES)]


def sample() -> list[Case]:
    """Of the table, four cases a wrapper, so that every pair of what two columns have is there."""
    cases = []
    for w, wrapper in enumerate(WRAPPERS):
        for s, storage in enumerate(STORAGES):
            cls, implementation = [*CLASSES][(s + w) % 3], [*IMPLEMENTATIONS][(s + w // 3) % 3]
            cases.append(Case(wrapper, cls, implementation, storage))
    return cases


STEPS = {"RangerAdaBelief": 4}
"""How often a model with codes is stepped, with Lookahead in every third step; others 3 times, in float64 all 8."""


def run(case: Case, mesh: DeviceMesh) -> None:
    """Raises AssertionError where the steps of all processes are not those of one."""
    wrapper, (dtype, stored) = WRAPPERS[case.wrapper], STORAGES[case.storage]
    if case.implementation == "fused" and launch.unserved("cpu"):
        return
    model = _model(wrapper, case.storage)
    names = {id(p): name for name, p in model.named_parameters()}
    parts = wrapper.wrap(model, mesh)
    options = _options(case, wrapper)
    make = wrapper.optimizer or (lambda cls, params, mesh, **options: cls(params, **options))
    optimizer = make(CLASSES[case.cls], parts.parameters(), mesh, **options, **stored)
    ways, part = wrapper.ways(mesh)
    for seed in range(_steps(case)):
        step(wrapper, parts, optimizer, seed, ways, part)
    expected, plain = _alone(case)
    with wrapper.whole(parts), torch.no_grad():
        for (name, p), (_, q) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            compare(whole(p), q, dtype, name)
    for p, q in zip(() if wrapper.flat else model.parameters(), expected.parameters(), strict=not wrapper.flat):
        if p in optimizer.state:  # ZeRO has no more than its own
            kept = set(optimizer.state[p])
            assert kept == set(plain.state[q]), (names.get(id(p)), kept, set(plain.state[q]))
            for key, x in plain.state[q].items():
                compare(whole(optimizer.state[p][key]), x, dtype, f"{key} of a parameter {tuple(q.shape)}")
    if case.implementation == "fused" and _all_in_kernels(case, wrapper):
        assert not any(part.rest for part in optimizer._plan.parts if part), "not all went through the kernel"


def step(wrapper: Wrapper, parts: nn.Module, optimizer: Any, seed: int, ways: int = 1, part: int = 0) -> None:
    exact = next(parts.parameters()).dtype != torch.float64 or wrapper.exact
    optimizer.zero_grad()
    loss(parts, seed, ways, part, exact).backward()
    if wrapper.clip and exact:  # norms are sums, which processes add up in another order
        torch.nn.utils.clip_grad_value_(parts.parameters(), 0.3)
    elif wrapper.clip:
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 0.05)
    optimizer.step()


def whole(x: Tensor) -> Tensor:
    if not hasattr(x, "full_tensor"):
        return x
    return x.int().full_tensor().short() if x.dtype == torch.int16 else x.full_tensor()  # which gloo does not gather


def compare(x: Tensor, y: Tensor, dtype: torch.dtype, what: str) -> None:
    if dtype == torch.float64:
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13, msg=lambda m: f"{what}: {m}")
    else:
        different = int((x != y).sum()) if x.shape == y.shape and x.dtype == y.dtype else x.shape
        assert torch.equal(x, y), f"{what}: {different} of {y.numel()} differ"


def _model(wrapper: Wrapper, storage: str) -> nn.Module:
    dtype = STORAGES[storage][0]
    model = Exact() if storage != "32" or wrapper.exact else perceptron(wrapper.rows)
    wrapper.before(model)
    return model.to(dtype)


def _options(case: Case, wrapper: Wrapper) -> dict[str, Any]:
    options = {"lr": 0.01, "weight_decay": 0.1, **IMPLEMENTATIONS[case.implementation]}
    if case.cls == "RangerAdaBelief":
        options |= {"k": 3, "use_gc": not wrapper.flat and (not wrapper.columns or case.storage == "32")}
    return options


def _all_in_kernels(case: Case, wrapper: Wrapper) -> bool:
    """Whether nothing is left to foreach: neither means of rows that are spread, nor codes of such."""
    spread = case.cls == "RangerAdaBelief" or case.storage == "weights-24"
    return wrapper.optimizer is None and not (wrapper.columns and spread)


def _steps(case: Case) -> int:
    return 8 if case.storage == "32" else STEPS.get(case.cls, 3)


def _alone(case: Case) -> tuple[nn.Module, Any]:
    """Model and optimizer of one process after the same steps; in float64 always those of the loop."""
    wrapper = WRAPPERS[case.wrapper]
    alike = next(name for name, other in WRAPPERS.items() if _same_alone(other, wrapper))
    implementation = "loop" if case.storage == "32" else case.implementation
    return _expected(case._replace(wrapper=alike, implementation=implementation))


def _same_alone(one: Wrapper, other: Wrapper) -> bool:
    mine, its = ((w.rows, w.exact, w.before, w.clip, w.flat, w.columns, w.wide) for w in (one, other))
    return mine == its


@cache
def _expected(case: Case) -> tuple[nn.Module, Any]:
    wrapper, (_, stored) = WRAPPERS[case.wrapper], STORAGES[case.storage]
    model = _model(wrapper, case.storage)
    groups = []
    for name, p in model.named_parameters():
        its: dict[str, Any] = {"state_bits": 32} if stored and wrapper.wide(name, p) else {}
        if wrapper.columns and name == "columns.weight" and case.storage == "weights-24":
            its |= {"fused": None, "foreach": case.implementation != "loop"}  # as codes that are spread go
        groups.append({"params": [p], **its})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = CLASSES[case.cls](groups, **_options(case, wrapper), **stored)
        for seed in range(_steps(case)):
            step(wrapper, model, optimizer, seed)
    return model, optimizer
