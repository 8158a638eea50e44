"""What a run is of: all that was asked for, and resolved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adabelief.lab import optimizers
from adabelief.lab.processor import multiplies_bf16
from adabelief.lab.task import Task
from adabelief.names import one_of


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
        changed = ",".join(f"{name}={short(value)}" for name, value in sorted(self.changes.items())).replace("/", "_")
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
        seeds: Seeds of weights, order and augmentation.
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


def short(value: Any) -> str:
    """A value as the names of runs have it: `0.001`, `(0.9,0.99)`."""
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
