"""One process of a run of `day.py`: a small GPT under FSDP2, resumed from the newest checkpoint that is complete."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from adabelief import AdaBeliefW
from adabelief.lab.data.text import characters
from adabelief.lab.models.gpt import GPT

BATCH, CONTEXT, WIDTH, LAYERS = 12, 64, 64, 2  # a batch that one, two and three processes share evenly
EVERY = 20
"""Steps from one checkpoint to the next."""

Bits = int | tuple[int, int]


def rate(step: int, steps: int) -> float:
    """Rises for 20 steps, and falls to a third after 60 % of the run."""
    return 3e-3 * min(1.0, (step + 1) / 20) * (1 if step < 0.6 * steps else 1 / 3)


def bits(step: int, steps: int, changing: bool) -> Bits:
    """In how many bits the state is; 8, where that does not change."""
    plan: list[tuple[float, Bits]] = [(1 / 3, 8), (1 / 2, (16, 8)), (2 / 3, 32), (1, 8)]
    return next(its for until, its in plan if step < until * steps) if changing else 8


def batch(tokens: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The windows of a step and what follows each character: the same on any number of processes."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
    windows = torch.stack([tokens[at : at + CONTEXT + 1] for at in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def newest(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end: its metadata come last."""
    return max((path.parent for path in folder.glob("step-*/.metadata")), key=lambda path: path.name, default=None)


def state(model: nn.Module, optimizer: Any, step: int, its_bits: Bits) -> dict[str, Any]:
    """What a checkpoint has."""
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "progress": {"step": step, "bits": its_bits}}


def resumed(model: nn.Module, folder: Path) -> tuple[AdaBeliefW, int]:
    """An optimizer and the next step: of the newest checkpoint, in the bits in which that is."""
    path, progress = newest(folder), {"progress": {"step": 0, "bits": 8}}
    if path:
        dcp.load(progress, checkpoint_id=path)
    step, its_bits = progress["progress"]["step"], progress["progress"]["bits"]
    optimizer = AdaBeliefW(model.parameters(), lr=1e-3, state_bits=its_bits)
    if path:
        saved = state(model, optimizer, step, its_bits)
        dcp.load(saved, checkpoint_id=path)
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    return optimizer, step


def train(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The losses, step by step; the last one has the validation loss, too."""
    folder, steps, rank, world = arguments.folder, arguments.steps, arguments.rank, arguments.processes
    saving_group = dist.new_group(timeout=timedelta(minutes=2))  # a thread saves while training uses the other
    corpus = characters()
    torch.manual_seed(arguments.seed)
    model = GPT(corpus.vocabulary, CONTEXT, WIDTH, LAYERS)
    mesh = init_device_mesh("cpu", (world,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer, begin = resumed(model, folder)
    saving: Future[Any] | None = None
    for step in range(begin, steps):
        its_bits = bits(step, steps, arguments.changing)
        for group in optimizer.param_groups:
            group["lr"], group["state_bits"] = rate(step, steps), its_bits
        inputs, targets = (x.chunk(world)[rank] for x in batch(corpus.train, arguments.seed, step))
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.detach()
        dist.all_reduce(mean)
        found = {"step": step, "loss": float(mean) / world, "lr": rate(step, steps), "bits": json.dumps(its_bits)}
        if (step + 1) % EVERY == 0 and step + 1 < steps:
            if saving is not None:
                saving.result()
            to = folder / f"step-{step + 1:06d}"
            saving = dcp.async_save(
                state(model, optimizer, step + 1, its_bits), checkpoint_id=to, process_group=saving_group
            )
        if step + 1 == steps:
            found["validation"] = validation(model, corpus.validation)
        yield found | {"processes": world}
    if saving is not None:
        saving.result()


def validation(model: nn.Module, tokens: Tensor) -> float:
    """The loss on a text, in windows side by side."""
    windows = (len(tokens) - 1) // CONTEXT
    inputs, targets = (tokens[at : at + windows * CONTEXT].view(windows, CONTEXT) for at in (0, 1))
    with torch.no_grad():
        return float(loss_of(model, inputs, targets))


def main() -> None:
    """Trains, and has process 0 write the losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("rank", "processes", "seed", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--meeting", required=True)
    parser.add_argument("--changing", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{arguments.meeting}",
        rank=arguments.rank,
        world_size=arguments.processes,
        timeout=timedelta(seconds=60),
    )
    path = arguments.folder / "losses.csv"
    for found in train(arguments):
        if arguments.rank == 0:
            names = ("step", "loss", "lr", "bits", "processes", "validation")
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, names)
                if new:
                    writer.writeheader()
                writer.writerow(found)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
