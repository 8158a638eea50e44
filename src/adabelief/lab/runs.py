"""A run: what it is of, and the folder that has all of it.

config.json        what was asked for, resolved: nothing is left to a default
environment.json   versions, processor, accelerator, commit: where its (latest) part was run
metrics.jsonl      one line for every few steps and for every epoch; only ever appended to
checkpoint.pt      all that the run needs to go on, replaced atomically; of a finished run, the modules
result.json        what came of it, written last: a run that has it is finished
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from adabelief.lab import files, optimizers
from adabelief.lab.processor import multiplies_bf16, processor
from adabelief.lab.tasks import Task
from adabelief.names import one_of

PACKAGES = (
    *("adabelief", "torch", "pytorch_optimizer", "accelerate", "torchvision", "datasets", "numpy"),
    *("tokenizers", "sacrebleu", "keras", "stable_baselines3", "gymnasium"),
)
"""Whose versions a run notes; empty where one is not installed."""


class Busy(Exception):
    """Another process is at work on the run."""


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run, but for its data."""

    task: str
    model: str
    scale: str
    optimizer: str
    settings: Mapping[str, Any]
    seed: int
    epochs: int
    batch_size: int
    precision: str
    accumulate: int
    options: Mapping[str, Any]
    changes: Mapping[str, Any]
    """What was asked for beside the published settings and the scale's own."""

    @property
    def experiment(self) -> str:
        """What runs that can be compared have in common: task, model and scale."""
        return "-".join(filter(None, (self.task, self.model, self.scale)))

    @property
    def folder(self) -> Path:
        """Where it is kept, under the folder of all runs."""
        changed = ",".join(f"{name}={_short(value)}" for name, value in sorted(self.changes.items()))
        label = ",".join(filter(None, (self.optimizer, changed)))
        if len(label) > 100:
            label = f"{self.optimizer},{hashlib.sha256(label.encode()).hexdigest()[:12]}"
        return Path(self.experiment, label, f"seed{self.seed}")

    def as_json(self) -> str:
        """The file's content."""
        return json.dumps(asdict(self), indent=2) + "\n"


def plan(
    task: Task,
    *,
    model: str | None = None,
    scale: str = "small",
    names: Sequence[str] = ("AdaBelief",),
    seeds: Sequence[int] = (0,),
    changes: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    accumulate: int = 1,
) -> list[Config]:
    """The runs of a task, all optimizers of a seed before the next seed.

    Args:
        task: What to run.
        model: One of the task's models; None for its first.
        scale: One of the task's scales.
        names: Optimizers, or `all` of which the task has settings.
        seeds: Of weights, order and augmentation.
        changes: Values for `batch_size`, for options of the scale, or else for the optimizers' arguments.
        epochs: Instead of the scale's.
        precision: Instead of the scale's.
        accumulate: Parts into which each process splits its share of a batch.

    Raises:
        ValueError: For a name that there is none of, or a value out of range.
    """
    model = one_of("--model", model or (task.models or ("",))[0], task.models or ("",))
    scales, settings = task.scales(model), task.settings(model)
    scale = one_of("--scale", scale, scales)
    chosen = scales[scale]
    usual = chosen.precision
    if usual == "auto":
        usual = "bf16" if not torch.cuda.is_available() and multiplies_bf16() else "no"
    precision = one_of("--precision", precision or usual, ("no", "bf16", "fp16"))
    if accumulate < 1:
        raise ValueError(f"--accumulate must be at least 1, got {accumulate}")
    names = [one_of("--optimizer", name, (*settings, "all")) for name in names]
    names = list(settings) if "all" in names else list(dict.fromkeys(names))
    changes = dict(changes or {})
    own = {name: changes[name] for name in changes if name in chosen.options or name == "batch_size"}
    arguments = {name: value for name, value in changes.items() if name not in own}
    configs = []
    for seed in seeds:
        for name in names:
            optimizers.check(name, arguments)
            config = Config(
                task=task.name,
                model=model,
                scale=scale,
                optimizer=name,
                settings=optimizers.METHODS[name].arguments({**settings[name], **arguments}),
                seed=seed,
                epochs=epochs or chosen.epochs,
                batch_size=own.get("batch_size", chosen.batch_size),
                precision=precision,
                accumulate=accumulate,
                options={**chosen.options, **{key: own[key] for key in own if key != "batch_size"}},
                changes={
                    **changes,
                    **({"epochs": epochs} if epochs and epochs != chosen.epochs else {}),
                    **({"precision": precision} if precision != usual else {}),
                    **({"accumulate": accumulate} if accumulate > 1 else {}),
                },
            )
            if not isinstance(config.batch_size, int) or config.batch_size < 1:
                raise ValueError(f"--set batch_size must be a whole number, at least 1, got {config.batch_size!r}")
            configs.append(config)
    return configs


class Folder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.json", path / "environment.json"
        self.metrics, self.checkpoint, self.result = (
            *(path / "metrics.jsonl", path / "checkpoint.pt"),
            path / "result.json",
        )

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Keeps other processes out; raises Busy where one is in. A process that dies is out."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(f"{self.path} is being run by another process") from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, config: Config) -> None:
        """Writes the configuration, or compares it with the one that is there.

        Raises:
            ValueError: If the folder has a run of another configuration.
        """
        text = config.as_json()
        if self.config.exists() and json.loads(self.config.read_text()) != json.loads(text):
            then, now = json.loads(self.config.read_text()), json.loads(text)
            differing = [name for name in now if then.get(name) != now[name]]
            name = differing[0] if differing else "config.json"
            raise ValueError(
                f"{self.path} has a run with another {name} ({then.get(name)!r}, now {now.get(name)!r}); "
                "name another folder with --out, or remove this one"
            )
        files.write(self.config, text)

    def begin_metrics(self, size: int) -> None:
        """Cuts off what was appended after the checkpoint that the run goes on from."""
        with self.metrics.open("ab") as file:
            file.truncate(size)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Appends lines to the metrics, on the disk when it returns; returns the size of the file then."""
        with self.metrics.open("ab") as file:
            file.write("".join(json.dumps(_plain(line)) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()


def environment(accelerator: Any) -> dict[str, Any]:
    """Where a run takes place."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    device = accelerator.device
    return {
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "command": sys.argv,
    }


def _commit() -> str:
    """The commit of the package's checkout, with a plus where it was changed; empty where there is none."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == tracked.returncode == 0 else ""


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "").replace("/", "_")


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity: they become strings, which `float` reads."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
