"""What two processes check once, beside the table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.torch import test_probe
from tests.torch.distributed.cases import compare, step, whole
from tests.torch.distributed.models import Exact, perceptron
from tests.torch.distributed.wrappers import WRAPPERS

SHARED = {name: WRAPPERS[name] for name in ("FSDP2", "TP", "mixed")}


def skipped_together(mesh: DeviceMesh, folder: Path) -> None:
    """A step that one process's part of one gradient forbids is left out by both."""
    for way, wrapper in SHARED.items():
        for which in (0, -1):
            parts = wrapper.wrap(perceptron(6), mesh)
            optimizer = AdaBelief(parts.parameters(), skip_nonfinite=True)
            for seed in range(2):
                step(wrapper, parts, optimizer, seed)
            before = [whole(p).detach().clone() for p in parts.parameters()]
            gradient = [p.grad for p in parts.parameters()][which]
            if mesh.get_rank() == (0 if (way, which) == ("FSDP2", -1) else 1):  # the last has one row, in process 0
                getattr(gradient, "_local_tensor", gradient).fill_(float("nan"))
            optimizer.step()
            assert optimizer.skipped == 1, (way, which)
            assert all(torch.equal(whole(p), x) for p, x in zip(parts.parameters(), before, strict=True)), (way, which)


def flat_rows(mesh: DeviceMesh, folder: Path) -> None:
    """FSDP1 makes parameters flat, so that Ranger would silently centralize nothing."""
    for name in ("FSDP1", "FSDP1-orig"):
        parts = WRAPPERS[name].wrap(perceptron(6), mesh)
        for use_gc, told in ((True, 1), (False, 0)):
            optimizer = RangerAdaBelief(parts.parameters(), use_gc=use_gc)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for seed in range(2):
                    step(WRAPPERS[name], parts, optimizer, seed)
            said = [str(w.message) for w in caught if "no row is centralized" in str(w.message)]
            assert len(said) == told, (name, use_gc, said)


def other_options(mesh: DeviceMesh, folder: Path) -> None:
    """Options that the table leaves out, to the bit."""
    mixes = (
        (torch.float32, {"max_update": 0.5, "state_bits": 8}),
        (torch.float32, {"amsgrad": True, "state_bits": (16, 8), "fused": None}),
        (torch.bfloat16, {"stochastic_rounding": True, "foreach": True}),
        (torch.bfloat16, {"master_weight_bits": 32, "foreach": False}),
    )
    for name, wrapper in SHARED.items():
        for dtype, options in mixes:
            models = [Exact().to(dtype), Exact().to(dtype)]
            wrapper.wrap(models[0], mesh)
            whole_bits = {p: wrapper.wide(n, p) for n, p in models[1].named_parameters()}
            groups = [{"params": [p], **({"state_bits": 32} if wide else {})} for p, wide in whole_bits.items()]
            optimizers = [AdaBelief(each, **options) for each in (models[0].parameters(), groups)]
            for seed in range(3):
                for model, optimizer in zip(models, optimizers, strict=True):
                    step(wrapper, model, optimizer, seed)
            for (of, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
                compare(whole(p), q, dtype, f"{name}, {options}: {of}")
                for key, x in optimizers[1].state[q].items():
                    compare(whole(optimizers[0].state[p][key]), x, dtype, f"{name}, {options}: {key} of {of}")


def probed(mesh: DeviceMesh, folder: Path) -> None:
    test_probe.distributed(mesh.get_rank(), mesh, str(folder))


def documented(mesh: DeviceMesh, folder: Path) -> None:
    """The code of docs/large-scale.md's sections on FSDP2 and on checkpoints, as it stands there."""
    page = (Path(__file__).parents[3] / "docs/large-scale.md").read_text()
    sections = {section.partition("\n")[0]: section for section in page.split("\n## ")[1:]}
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(90, 90) for _ in range(2))
    names = {"model": model, "AdaBeliefW": AdaBeliefW}
    for heading in ("FSDP2", "Checkpoints"):
        for block in re.findall(r"^ *```python\n(.*?)^ *```", sections[heading], re.DOTALL | re.MULTILINE):
            exec(dedent(block).replace("run/", f"{folder}/run/"), names)
        if heading == "FSDP2":
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            names["optimizer"].step()
    assert all(group["state_bits"] == 32 for group in names["optimizer"].param_groups)
    assert {float(entry["step"]) for entry in names["optimizer"].state.values()} == {1.0}


JOBS: dict[str, Callable[[DeviceMesh, Path], None]] = {
    f"once/{job.__name__}": job for job in (skipped_together, flat_rows, other_options, probed, documented)
}
