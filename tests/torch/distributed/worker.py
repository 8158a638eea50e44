"""One of the processes that run the matrix: every case in turn, in one process group.

A case that fails in one process fails in none of the others for long: they wait some seconds for it, all tell each
other what they saw, and go on with new groups.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tests.torch.distributed import cases, checkpoints, once
from tests.torch.distributed.wrappers import MESHES, WRAPPERS

WAIT = timedelta(seconds=20)
"""For another process within a case."""


class First:
    """Meshes of the first processes, for `checkpoints`; all have to ask for them."""

    def __init__(self, together: dist.ProcessGroup) -> None:
        self.barrier = lambda: dist.barrier(group=together)

    def __call__(self, processes: int) -> DeviceMesh | None:
        ranks = list(range(processes))
        group = dist.new_group(ranks, timeout=WAIT)
        if dist.get_rank() >= processes:
            return None
        return DeviceMesh.from_group(group, "cpu", mesh=ranks, mesh_dim_names=("shards",))


class Run(NamedTuple):
    """What a job is given."""

    folder: Path
    first: First
    meshes: dict[str, DeviceMesh]
    """Those that are made, until a case fails."""

    def mesh(self, name: str) -> DeviceMesh:
        if name not in self.meshes:
            shape, names = MESHES[name]
            if len(shape) == 1:  # in a group of its own: that of all would not come back to life
                self.meshes[name] = DeviceMesh.from_group(dist.new_group(timeout=WAIT), "cpu", mesh_dim_names=names)
            else:
                self.meshes[name] = init_device_mesh("cpu", shape, mesh_dim_names=names)
        return self.meshes[name]


class Job(NamedTuple):
    run: Callable[[Run], None]
    refused: str | None = None
    """What the error has to say, where there has to be one."""


def attempt(job: Job, run: Run) -> str:
    """What went wrong, in words; nothing if nothing did, or if it was refused as it should be."""
    try:
        job.run(run)
    except ValueError as error:
        return "" if job.refused and job.refused in str(error) else traceback.format_exc()
    except Exception:  # whatever it was: the others have to be told
        return traceback.format_exc()
    return f"should have been refused: {job.refused}" if job.refused else ""


def jobs(processes: int, all_of_them: bool) -> dict[str, Job]:
    """What so many processes do, by name."""
    table = cases.TABLE if all_of_them else cases.sample()
    found = {
        str(case): Job(lambda run, case=case: cases.run(case, run.mesh(WRAPPERS[case.wrapper].mesh)), case.refused)
        for case in table
        if case.processes == processes
    }
    for name, check in once.JOBS.items() if processes == 2 else ():
        found[name] = Job(lambda run, check=check: check(run.mesh("two"), run.folder))
    for name, check in checkpoints.JOBS.items() if processes == 4 else ():
        if all_of_them or name in checkpoints.SAMPLE:
            path = name.replace("/", "-")
            found[f"checkpoint/{name}"] = Job(lambda run, check=check, path=path: check(run.first, run.folder / path))
    return found


def main(rank: int, processes: int, folder: Path, chosen: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes, timeout=WAIT
    )
    together = dist.new_group(timeout=timedelta(minutes=5))
    run = Run(folder, First(together), {})
    with (folder / "results.jsonl" if rank == 0 else Path(os.devnull)).open("w") as results:
        for name, job in jobs(processes, chosen == "all").items():
            told: list[str] = [""] * processes
            dist.all_gather_object(told, attempt(job, run), group=together)
            print(json.dumps([name, told]), file=results, flush=True)
            if any(told):
                run.meshes.clear()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
