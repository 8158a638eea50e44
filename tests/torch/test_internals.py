"""What is used of torch beside its documented interface is in one file, and steps do without any of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import Optimizer

from adabelief import AdaBelief, RangerAdaBelief
from adabelief.torch import internals, launch, proof
from tests.oracle import Oracle, set_gradients

FOLDER = Path(internals.__file__).parent
ELSEWHERE = {
    "_foreach_": "torch's own optimizers are made of these operators, and so is foreach",
    "_local_tensor": "read by proof.c; where it is missing no plan holds, and foreach steps",
    "_spec": "the same",
    "_make_wrapper_subclass": "how torch has tensors without memory made; every torch that is supported has it",
    "_cdata": "where a tensor is, which only the proof has to know",
}
"""Names, or what they begin with, that other files use of torch, and why."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name.isidentifier()


def used(tree: ast.AST) -> set[str]:
    """Private names that a file looks up: attributes, imports, and strings that may be names."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return set(filter(private, names))


def defined(tree: ast.AST) -> set[str]:
    """Names that a file gives: functions, classes, variables, attributes of self."""
    names: set[str] = {"_replace", "_fields", "_asdict"}  # of every NamedTuple
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


TREES = {path.name: ast.parse(path.read_text()) for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("file", sorted(TREES.keys() - {"internals.py"}))
def test_no_other_file_uses_a_private_name(file):
    ours = set().union(*map(defined, TREES.values()))
    assert {name for name in used(TREES[file]) - ours if not name.startswith(tuple(ELSEWHERE))} == set()


def plain(func):
    """Instead of `Optimizer.profile_hook_step`, which could not be as it is in a torch without those names."""
    return lambda *args, **kwargs: func(*args, **kwargs)


MODULE = sys.modules[Optimizer.__module__]
GRAPH_CHECKS = ["_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"]
WITHOUT = {
    "_profiler_enabled": [(torch.autograd, "_profiler_enabled")],
    "_global_optimizer_pre_hooks": [(MODULE, "_global_optimizer_pre_hooks")],
    "_global_optimizer_post_hooks": [(MODULE, "_global_optimizer_post_hooks")],
    "_optimizer_step_pre_hooks": [],  # an optimizer's own
    "_optimizer_step_post_hooks": [],
    "profile_hook_step": [(Optimizer, "profile_hook_step")],
    "increment_version": [(torch.autograd.graph, "increment_version")],
    "_accelerator_graph_capture_health_check": [(Optimizer, GRAPH_CHECKS[0])],
    "_cuda_graph_capture_health_check": [(Optimizer, name) for name in GRAPH_CHECKS],
    "_execution_engine": [(torch.autograd.Variable, "_execution_engine")],
    "_is_gil_enabled": [(sys, "_is_gil_enabled")],
    "_get_default_store": [(torch.distributed.distributed_c10d, "_get_default_store")],
}
"""From a name to where it is taken away."""

OF_TENSORS = {"_local_tensor", "_spec", "_is_flat_param", "_fsdp_flattened", "_ddp_ignored"}
"""What a distributed tensor has, and a parameter of FSDP1 or DDP: nothing else is asked for it."""


def test_the_table_has_every_private_name():
    ours = {"_global_hooks", "_named"}
    parts = used(TREES["internals.py"]) - OF_TENSORS - ours
    assert [part for part in parts if not any(part in name for name in WITHOUT)] == []
    assert [name for name in WITHOUT if private(name) and not any(part in name for part in parts)] == []


@pytest.fixture
def without(request):
    """As if this torch had never had a name."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in WITHOUT[request.param]:
            patch.delattr(owner, name, raising=False)
        if request.param.endswith("_hooks"):
            patch.setattr(Optimizer, "profile_hook_step", staticmethod(plain))
        importlib.reload(internals)
        yield request.param
    importlib.reload(internals)


@pytest.mark.parametrize(
    "fused", [False, pytest.param(True, marks=pytest.mark.skipif(bool(launch.unserved("cpu")), reason="-"))]
)
@pytest.mark.parametrize("base", [AdaBelief, RangerAdaBelief])
@pytest.mark.filterwarnings("ignore:Use _accelerator_graph_capture_health_check instead")  # of the name before it
@pytest.mark.parametrize("without", WITHOUT, indirect=True)
def test_a_step_does_without(without, base, fused):
    new = type("New", (base,), {"step": inspect.unwrap(base.step)})  # whose step has not been wrapped yet
    params = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    optimizer = new(params, lr=0.1, fused=fused)
    vars(optimizer).pop(without, None)
    oracle = Oracle(optimizer)
    for seed in range(3):
        set_gradients(params, seed)
        oracle.step()
    internals.check_graph_capture(optimizer)


def test_the_package_is_imported_without_any_of_them():
    places = {(owner.__name__, name) for each in WITHOUT.values() for owner, name in each if inspect.ismodule(owner)}
    code = f"""
import importlib, torch
for module, name in {sorted(places)}:
    vars(importlib.import_module(module)).pop(name, None)
torch.optim.Optimizer.profile_hook_step = staticmethod(lambda func: func)
import adabelief
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
adabelief.AdaBelief([p], lr=0.1).step()
assert bool((p < 1).all())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_hooks_are_called_where_nothing_is_known_of_them(monkeypatch):
    """Steps go through `hooked` then: too often rather than past a hook."""
    optimizer = AdaBelief([torch.nn.Parameter(torch.ones(1))])
    assert not internals.watched(optimizer)
    del optimizer._optimizer_step_post_hooks
    assert internals.watched(optimizer)


def test_without_a_global_lock_there_is_no_proof(monkeypatch):
    """A free-threaded Python: addresses would be read while other threads change them."""
    monkeypatch.setattr(internals, "has_lock", lambda: False)
    proof._load.cache_clear()
    try:
        assert "this Python has no global lock" in proof.unavailable()
        with pytest.raises(ValueError, match="this Python has no global lock"):
            AdaBelief([torch.nn.Parameter(torch.ones(1))], fused=True)
        params = [torch.nn.Parameter(torch.ones(3))]
        oracle = Oracle(AdaBelief(params))
        set_gradients(params, 0)
        oracle.step()
        assert "_plan" not in vars(oracle.optimizer) or not oracle.optimizer._plan.parts[0].launches
    finally:
        proof._load.cache_clear()
