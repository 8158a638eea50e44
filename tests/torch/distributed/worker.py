"""One of the processes that run the matrix: every case in turn, in one process group.

A case that fails in one process fails in none of the others for long: they wait some seconds for it, all tell each
other what they saw, and go on with new groups.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tests.torch.distributed import cases, checkpoints
from tests.torch.distributed.wrappers import MESHES, WRAPPERS

WAIT = timedelta(seconds=20)
"""For another process within a case."""


class Meshes:
    """The meshes of the cases, made again after one of them has failed."""

    def __init__(self) -> None:
        self._made: dict[str, DeviceMesh] = {}

    def __call__(self, name: str) -> DeviceMesh:
        if name not in self._made:
            shape, names = MESHES[name]
            if len(shape) == 1:  # in a group of its own: that of all would not come back to life
                group = dist.new_group(timeout=WAIT)
                self._made[name] = DeviceMesh.from_group(group, "cpu", mesh_dim_names=names)
            else:
                self._made[name] = init_device_mesh("cpu", shape, mesh_dim_names=names)
        return self._made[name]

    def clear(self) -> None:
        self._made.clear()


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


def attempt(run: Callable[[], None], refused: str | None = None) -> str:
    """What went wrong, in words; nothing if nothing did, or if it was refused as it should be."""
    try:
        run()
    except ValueError as error:
        return "" if refused and refused in str(error) else traceback.format_exc()
    except Exception:  # whatever it was: the others have to be told
        return traceback.format_exc()
    return f"should have been refused: {refused}" if refused else ""


def main(rank: int, processes: int, folder: Path, chosen: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes, timeout=WAIT
    )
    together = dist.new_group(timeout=timedelta(minutes=2))
    meshes, table = Meshes(), cases.TABLE if chosen == "all" else cases.sample()
    jobs: dict[str, tuple[Callable[[], None], str | None]] = {}
    for case in table:
        if case.processes == processes and not __import__("os").environ.get("ONLYCK"):
            jobs[str(case)] = (lambda c=case: cases.run(c, meshes(WRAPPERS[c.wrapper].mesh))), case.refused
    if processes == 4:
        for name, job in checkpoints.JOBS.items():
            if chosen == "all" or name in checkpoints.SAMPLE:
                path = folder / name.replace("/", "-")
                jobs[f"checkpoint/{name}"] = (lambda j=job, f=path: j(First(together), f)), None
    with (folder / "results.jsonl").open("w") if rank == 0 else open("/dev/null", "w") as results:
        for name, (run, refused) in jobs.items():
            told: list[str] = [""] * processes
            dist.all_gather_object(told, attempt(run, refused), group=together)
            print(json.dumps([name, told]), file=results, flush=True)
            if any(told):
                meshes.clear()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
