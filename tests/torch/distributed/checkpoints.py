"""Checkpoints: saved by two processes, loaded by one, two and three, in the ways that torch has for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh

from adabelief import AdaBelief
from tests.torch.distributed import cases
from tests.torch.distributed.cases import compare, step, whole
from tests.torch.distributed.models import Exact
from tests.torch.distributed.wrappers import WRAPPERS, fsdp2

SHARDED = WRAPPERS["FSDP2"]


class First(Protocol):
    def __call__(self, processes: int) -> DeviceMesh | None:
        """The mesh of the first so many processes; None where this is none of them."""

    def barrier(self) -> None:
        """Waits for all processes."""


STORAGES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "weights-32": (torch.bfloat16, {"master_weight_bits": 32}),
} | {name: x for name, x in cases.STORAGES.items() if name != "32"}


def begun(
    storage: str, mesh: DeviceMesh | None, seeds: range = range(0), **options: Any
) -> tuple[nn.Module, AdaBelief]:
    """A model and its optimizer after some steps, shared over a mesh, or whole (with the state that shards have)."""
    dtype, stored = STORAGES[storage]
    model = Exact().to(dtype)
    if mesh is not None:
        fsdp2()(model, mesh)
    groups = [{"params": [p]} for p in model.parameters()]  # so that each can have bits of its own
    optimizer = AdaBelief(groups, lr=0.01, **stored | options)
    for group in optimizer.param_groups if mesh is None else ():
        group["state_bits"] = 32 if group["params"][0].ndim == 1 else group["state_bits"]
    for seed in seeds:
        step(SHARDED, model, optimizer, seed)
    return model, optimizer


def same(model: nn.Module, optimizer: Any, expected: nn.Module, plain: Any) -> None:
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        compare(whole(p).detach(), q.detach(), torch.float32, name)
        assert optimizer.state[p].keys() == plain.state[q].keys(), name
        for key, x in plain.state[q].items():
            compare(whole(optimizer.state[p][key]), x, torch.float32, f"{key} of {name}")


def states(model: nn.Module, optimizer: Any, options: StateDictOptions) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def put(model: nn.Module, optimizer: Any, saved: dict[str, Any], options: StateDictOptions) -> None:
    set_optimizer_state_dict(model, optimizer, saved["optimizer"], options=options)
    set_model_state_dict(model, saved["model"], options=options)


def other(model: nn.Module) -> None:
    """Weights that a checkpoint has to replace."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)


def resharded(first: First, folder: Path, storage: str, options: StateDictOptions) -> None:
    """Saved by two processes, then loaded by the first one, two and three, which go on as if nothing had been."""
    mesh = first(2)
    if mesh is not None:
        model, optimizer = begun(storage, mesh, range(2))
        saved = states(model, optimizer, options)
        if not options.full_state_dict:
            dcp.save(saved, checkpoint_id=folder, process_group=mesh.get_group())
        elif mesh.get_rank() == 0:
            assert all(x.device.type == "cpu" for x in saved["model"].values())
            torch.save(saved, folder.with_suffix(".pt"))
    first.barrier()
    for processes in (1, 2, 3):
        mesh = first(processes)
        if mesh is None:
            continue
        model, optimizer = begun(storage, mesh)
        other(model)
        if options.full_state_dict:
            put(model, optimizer, torch.load(folder.with_suffix(".pt")), StateDictOptions(full_state_dict=True))
        else:
            saved = states(model, optimizer, options)
            dcp.load(saved, checkpoint_id=folder, process_group=mesh.get_group())
            put(model, optimizer, saved, options)
        same(model, optimizer, *begun(storage, None, range(2)))
        step(SHARDED, model, optimizer, 2)
        same(model, optimizer, *begun(storage, None, range(3)))


def asynchronous(first: First, folder: Path, storage: str) -> None:
    """What async_save writes is the state at its call, though training goes on."""
    mesh, its_own = first(2), first(2)  # a thread uses it while training uses the other
    if mesh is None:
        return
    options = StateDictOptions()
    model, optimizer = begun(storage, mesh, range(2))
    saving = dcp.async_save(states(model, optimizer, options), checkpoint_id=folder, process_group=its_own.get_group())
    for seed in range(2, 4):
        step(SHARDED, model, optimizer, seed)
    saving.result()
    same(model, optimizer, *begun(storage, None, range(4)))
    model, optimizer = begun(storage, mesh)
    saved = states(model, optimizer, options)
    dcp.load(saved, checkpoint_id=folder, process_group=mesh.get_group())
    put(model, optimizer, saved, options)
    same(model, optimizer, *begun(storage, None, range(2)))


def converted(first: First, folder: Path, saved_in: str, loaded_in: str) -> None:
    """A full checkpoint in other bits: they are those of the optimizer that loads it, as in one process."""
    mesh = first(2)
    if mesh is None:
        return
    model, optimizer = begun(saved_in, mesh, range(2))
    saved = states(model, optimizer, StateDictOptions(full_state_dict=True))
    model, optimizer = begun(loaded_in, mesh)
    put(model, optimizer, saved, StateDictOptions(full_state_dict=True))
    expected, before = begun(saved_in, None, range(2))
    plain = begun(loaded_in, None)[1].__class__([{"params": [p]} for p in expected.parameters()], lr=0.01)
    for group in plain.param_groups:
        group["state_bits"] = STORAGES[loaded_in][1].get("state_bits", 32) if group["params"][0].ndim > 1 else 32
    plain.load_state_dict(before.state_dict())
    same(model, optimizer, expected, plain)
    step(SHARDED, model, optimizer, 2)
    step(SHARDED, expected, plain, 2)
    same(model, optimizer, expected, plain)


def mistaken(first: First, folder: Path) -> None:
    """Codes that were read into floats in place are refused; with the checkpoint's bits they load, and then change."""
    mesh = first(2)
    if mesh is None:
        return
    options, group = StateDictOptions(), mesh.get_group()
    model, optimizer = begun("8", mesh, range(2))
    dcp.save(states(model, optimizer, options), checkpoint_id=folder, process_group=group)
    for bits in (32, 16):
        model, optimizer = begun("8", mesh, state_bits=bits)
        saved = states(model, optimizer, options)
        dcp.load(saved, checkpoint_id=folder, process_group=group)
        with pytest.raises(ValueError, match="state_bits=8"):
            put(model, optimizer, saved, options)
    model, optimizer = begun("8", mesh)
    saved = states(model, optimizer, options)
    dcp.load(saved, checkpoint_id=folder, process_group=group)
    put(model, optimizer, saved, options)
    for each in optimizer.param_groups:
        each["state_bits"] = 32
    expected, plain = begun("8", None, range(2))
    for each in plain.param_groups:
        each["state_bits"] = 32
    step(SHARDED, model, optimizer, 2)
    step(SHARDED, expected, plain, 2)
    same(model, optimizer, expected, plain)


def consolidated(first: First, folder: Path, wrapper: str) -> None:
    """ZeRO's checkpoint loads in one process, and that in ZeRO."""
    mesh = first(2)
    if mesh is None:
        return
    zero, options = WRAPPERS[wrapper], {"lr": 0.01, "state_bits": 8}
    model = Exact()
    parts = zero.wrap(model, mesh)
    optimizer = zero.optimizer(AdaBelief, parts.parameters(), mesh, **options)
    expected = Exact()
    plain = AdaBelief(expected.parameters(), **options)
    for seed in range(2):
        step(zero, parts, optimizer, seed)
        step(zero, expected, plain, seed)
    optimizer.consolidate_state_dict(to=0)
    saved = [optimizer.state_dict() if mesh.get_rank() == 0 else None]
    dist.broadcast_object_list(saved, src=0, group=mesh.get_group())
    fresh = AdaBelief(expected.parameters(), **options)
    fresh.load_state_dict(saved[0])
    for p in expected.parameters():
        for key, x in plain.state[p].items():
            compare(fresh.state[p][key], x, torch.float32, key)
    optimizer = zero.optimizer(AdaBelief, parts.parameters(), mesh, **options)
    optimizer.load_state_dict(saved[0])
    step(zero, parts, optimizer, 2)
    step(zero, expected, plain, 2)
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        compare(p.detach(), q.detach(), torch.float32, name)


def flat(first: First, folder: Path, wrapper: str) -> None:
    """FSDP1's full checkpoint loads in one process, and its sharded one in FSDP1."""
    mesh = first(2)
    if mesh is None:
        return
    fsdp1 = WRAPPERS[wrapper]

    def made(seeds: range) -> tuple[nn.Module, AdaBelief]:
        parts = fsdp1.wrap(Exact(), mesh)
        optimizer = AdaBelief(parts.parameters(), lr=0.01)
        for seed in seeds:
            step(fsdp1, parts, optimizer, seed)
        return parts, optimizer

    parts, optimizer = made(range(2))
    model, plain = begun("float32", None)
    put(model, plain, states(parts, optimizer, StateDictOptions(full_state_dict=True)), StateDictOptions())
    same(model, plain, *begun("float32", None, range(2)))
    again, other_optimizer = made(range(0))
    put(again, other_optimizer, states(parts, optimizer, StateDictOptions()), StateDictOptions())
    step(fsdp1, again, other_optimizer, 2)
    step(fsdp1, model, plain, 2)
    with fsdp1.whole(again):
        for (name, p), q in zip(again.named_parameters(), model.parameters(), strict=True):
            compare(p.detach(), q.detach(), torch.float32, name)


FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
STYLES = {
    "nested": StateDictOptions(),
    "nested-offloaded": StateDictOptions(cpu_offload=True),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": FULL,
    "full-flat": StateDictOptions(full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=True),
}

Job = Callable[[First, Path], None]
JOBS: dict[str, Job] = {
    f"{style}/{storage}": lambda first, folder, s=storage, o=options: resharded(first, folder, s, o)
    for style, options in STYLES.items()
    for storage in STORAGES
    if storage != "weights-32" or not options.full_state_dict  # whose int16 no collective gathers
}
JOBS |= {f"async/{s}": lambda first, folder, s=s: asynchronous(first, folder, s) for s in STORAGES}
JOBS |= {
    f"bits/{one}-to-{two}": lambda first, folder, one=one, two=two: converted(first, folder, one, two)
    for one, two in (("8", "16"), ("16", "8"), ("8", "float32"), ("float32", "8"))
}
JOBS |= {"bits/in-place": mistaken}
JOBS |= {f"consolidated/{w}": lambda first, folder, w=w: consolidated(first, folder, w) for w in ("ZeRO", "ZeRO-views")}
JOBS |= {f"pieces/{w}": lambda first, folder, w=w: flat(first, folder, w) for w in ("FSDP1", "FSDP1-orig")}

SAMPLE = {"nested/8", "flat/weights-24", "full/8", "full-flat/16", "async/8", "bits/8-to-float32", "bits/float32-to-8"}
SAMPLE |= {"bits/in-place", "consolidated/ZeRO", "pieces/FSDP1", "pieces/FSDP1-orig", "nested/float32"}
