"""The table of wrappers: how each shares a model among processes, and what that means for its codes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "two": ((2,), ("shards",)),
    "four": ((4,), ("shards",)),
    "square": ((2, 2), ("outer", "inner")),
}
"""Shape and names of the meshes, by the name that a wrapper asks for."""


@dataclass(frozen=True)
class Wrapper:
    """One way to share a model."""

    wrap: Callable[[nn.Module, DeviceMesh], nn.Module]
    mesh: str = "two"
    ways: Callable[[DeviceMesh], tuple[int, int]] = lambda mesh: (mesh.size(), mesh.get_rank())
    """Shares of a batch, and which one is this process's."""
    rows: int = 5
    """Of the perceptron; uneven, where the wrapper takes that."""
    exact: bool = False
    """Whether the model in float64 is `Exact`, too: what reads its gradients in bf16 finds them as they are."""
    wide: Callable[[str, torch.Tensor], bool] = lambda name, p: False
    """Which parameters keep their state in float32 whatever is asked, as the documentation says."""
    before: Callable[[nn.Module], None] = lambda model: None
    """What is done to the model, here and in one process."""
    clip: bool = False
    optimizer: Callable[..., Any] | None = None
    """Takes the class, the parameters and the options."""
    flat: bool = False
    """Whether parameters are flat pieces: Ranger has no rows, and codes are refused."""
    columns: bool = False
    """Whether rows of a matrix are spread, whose means are then sums in another order."""
    whole: Callable[[nn.Module], AbstractContextManager[Any]] = field(default=lambda model: nullcontext())
    """While it is open, the model's parameters are whole."""


def ddp(views: bool) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    def wrap(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, process_group=mesh.get_group(), gradient_as_bucket_view=views)

    return wrap


def zero(cls: Any, params: Any, mesh: DeviceMesh, views: bool, **options: Any) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        list(params), optimizer_class=cls, process_group=mesh.get_group(), parameters_as_bucket_view=views, **options
    )


def fsdp1(original: bool) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    def wrap(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(
            model, process_group=mesh.get_group(), use_orig_params=original, device_id=torch.device("cpu")
        )

    return wrap


def summoned(model: nn.Module) -> AbstractContextManager[Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(model)  # type: ignore[no-any-return]


def fsdp2(
    options: Callable[[], dict[str, Any]] = dict, children: bool = True
) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """`fully_shard` of every child that has parameters, and of the model."""

    def wrap(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.fsdp import fully_shard

        for child in model.children() if children else ():
            if any(True for _ in child.parameters()):
                fully_shard(child, mesh=mesh, **options())
        return fully_shard(model, mesh=mesh, **options())

    return wrap


def bf16() -> dict[str, Any]:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}


def offloaded() -> dict[str, Any]:
    from torch.distributed.fsdp import CPUOffloadPolicy

    return {"offload_policy": CPUOffloadPolicy(pin_memory=False)}


def tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """One matrix by its rows and one by its columns, so that none of its rows is whole in one process."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    if isinstance(model, nn.Sequential):
        return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    placements = {
        "rows.weight": Shard(0),
        "rows.bias": Shard(0),
        "columns.weight": Shard(1),
        "columns.bias": Replicate(),
        "short.weight": Replicate(),
    }
    for name, placement in placements.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        p = getattr(module, attribute)
        setattr(module, attribute, nn.Parameter(distribute_tensor(p.detach(), mesh, [placement])))
    return model


def tensor_parallel_fsdp2(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fsdp2()(tensor_parallel(model, mesh["inner"]), mesh["outer"])


def some(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Distributed and plain parameters in one group."""
    fsdp2(children=False)(next(model.children()), mesh)
    return model


def freeze(model: nn.Module) -> None:
    for p in list(model.children())[1 if hasattr(model, "short") else 0].parameters():
        p.requires_grad_(False)


def tie(model: nn.Module) -> None:
    if isinstance(model, nn.Sequential):
        model.append(nn.Linear(1, model[2].in_features)).double()
        model.append(nn.Linear(model[2].in_features, model[2].in_features)).double()
        model[-1].weight = model[2].weight
    else:
        again = Tied(model.get_submodule("rows"))
        model.add_module("again", again)


class Tied(nn.Module):
    """The weight of another piece, once more in the loss."""

    def __init__(self, piece: nn.Module) -> None:
        super().__init__()
        self.weight = piece.weight

    def forward(self, seed: int) -> torch.Tensor:
        from tests.torch.distributed.models import linear

        return linear(self.weight, seed, 99)


def _vectors(name: str, p: torch.Tensor) -> bool:
    return p.ndim == 1


def _vectors_and_columns(name: str, p: torch.Tensor) -> bool:
    return name in ("rows.bias", "columns.bias", "columns.weight")


def _vectors_or_columns(name: str, p: torch.Tensor) -> bool:
    return p.ndim == 1 or name == "columns.weight"


def _alone(mesh: DeviceMesh) -> tuple[int, int]:
    """Every process has the whole batch."""
    return 1, 0


SHARDED = dict(wide=_vectors)
FLAT = dict(flat=True, whole=summoned)

WRAPPERS: dict[str, Wrapper] = {
    "DDP": Wrapper(ddp(views=False)),
    "DDP-views": Wrapper(ddp(views=True)),
    "ZeRO": Wrapper(ddp(views=False), optimizer=lambda *a, **k: zero(*a, views=False, **k)),
    "ZeRO-views": Wrapper(ddp(views=True), optimizer=lambda *a, **k: zero(*a, views=True, **k)),
    "FSDP1": Wrapper(fsdp1(original=False), **FLAT),
    "FSDP1-orig": Wrapper(fsdp1(original=True), **FLAT),
    "FSDP2": Wrapper(fsdp2(), **SHARDED),
    "FSDP2-bf16": Wrapper(fsdp2(bf16), exact=True, **SHARDED),
    "FSDP2-offload": Wrapper(fsdp2(offloaded), **SHARDED),
    "FSDP2-no-reshard": Wrapper(fsdp2(lambda: {"reshard_after_forward": False}), **SHARDED),
    "FSDP2-frozen": Wrapper(fsdp2(), before=freeze, **SHARDED),
    "FSDP2-tied": Wrapper(fsdp2(children=False), before=tie, **SHARDED),
    "FSDP2-clipped": Wrapper(fsdp2(), clip=True, **SHARDED),
    "TP": Wrapper(tensor_parallel, ways=_alone, rows=6, wide=_vectors_and_columns, columns=True),
    "mixed": Wrapper(some, ways=_alone, wide=lambda name, p: name == "rows.bias"),
    "FSDP2-four": Wrapper(fsdp2(), mesh="four", **SHARDED),
    "HSDP": Wrapper(fsdp2(), mesh="square", **SHARDED),
    "TP-FSDP2": Wrapper(
        tensor_parallel_fsdp2,
        mesh="square",
        ways=lambda mesh: (mesh["outer"].size(), mesh["outer"].get_local_rank()),
        rows=6,
        wide=_vectors_or_columns,
        columns=True,
    ),
}
