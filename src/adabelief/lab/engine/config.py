"""What a run is of: all that was asked for, and resolved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from adabelief.lab import optimizers, values
from adabelief.lab.schedules import SCHEDULES
from adabelief.lab.task import BOUNDS, HALF_LIVES, Scale, Task
from adabelief.names import one_of, suggestion

PRECISIONS = ("no", "bf16", "fp16")
"""Of autocast."""

CONDITIONS = ("epochs", "precision", "accumulate")
"""What of a configuration's changes are no options of a scale or an optimizer."""

CHOICES: Mapping[str, Sequence[str]] = {"schedule": tuple(SCHEDULES), "half_life": HALF_LIVES}
"""What the engine's own options can be, where they are words."""


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
    grid: Mapping[str, Sequence[Any]] | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    accumulate: int = 1,
) -> list[Config]:
    """The runs of a task: for every point of the grid all optimizers of a seed before the next seed.

    Args:
        task: What to run.
        model: One of the task's models; None for its first.
        scale: One of the task's scales.
        names: Optimizers, or `all` of which the task has settings.
        seeds: Seeds of weights, order and augmentation.
        changes: Values for `batch_size`, for options of the scale, or else for the optimizers' arguments.
        grid: Several values of each of some further such names: every combination is run.
        epochs: Instead of the scale's.
        precision: Instead of the scale's.
        accumulate: Parts into which each process splits its share of a batch.

    Returns:
        The runs, no two of them the same.

    Raises:
        ValueError: For a name that there is none of, or a value of another kind or out of range.
    """
    model = one_of("model", model or (task.models or ("",))[0], task.models or ("",))
    scales, settings = task.scales(model), task.settings(model)
    scale = one_of("scale", scale, scales)
    chosen = scales[scale]
    precision = one_of("precision", precision or chosen.precision, PRECISIONS)
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")
    names = [one_of("optimizer", name, (*settings, "all")) for name in names]
    names = list(settings) if "all" in names else list(dict.fromkeys(names))
    conditions = {
        **({"epochs": epochs} if epochs and epochs != chosen.epochs else {}),
        **({"precision": precision} if precision != chosen.precision else {}),
        **({"accumulate": accumulate} if accumulate > 1 else {}),
    }
    grid = grid or {}
    configs: dict[Path, Config] = {}
    for point, seed, name in product(product(*grid.values()), seeds, names):
        asked = {**(changes or {}), **dict(zip(grid, point, strict=True))}
        own, arguments = _sorted_out(asked, task.name, scales, scale, name)
        all_arguments = optimizers.check(name, {**settings[name], **arguments})
        options = {**chosen.options, **{key: own[key] for key in own if key != "batch_size"}}
        batch_size, used = own.get("batch_size", chosen.batch_size), all_arguments
        if options.get("half_life") == "examples":
            used = optimizers.with_batches(name, all_arguments, batch_size / chosen.batch_size)
        config = Config(
            task=task.name,
            model=model,
            scale=scale,
            optimizer=name,
            settings=used,
            seed=seed,
            epochs=epochs or chosen.epochs,
            batch_size=batch_size,
            precision=precision,
            accumulate=accumulate,
            options=options,
            changes={**own, **{key: all_arguments[key] for key in arguments}, **conditions},
        )
        configs.setdefault(config.folder, config)
    return list(configs.values())


def _sorted_out(
    asked: Mapping[str, Any], task: str, scales: Mapping[str, Scale], scale: str, optimizer: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked for as values of the scale's options and `batch_size`, and as arguments of the optimizer."""
    options = scales[scale].options
    known = ["batch_size", *options, *optimizers.arguments(optimizer)]
    own: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for typed, value in asked.items():
        try:
            name = one_of("", typed, known)
        except ValueError:
            library, has = optimizers.METHODS[optimizer].library, ", ".join(optimizers.arguments(optimizer))
            raise ValueError(
                f"{typed}: {optimizer} of {library} has no argument {typed}; it has {has}; "
                f"the scale {scale} has {', '.join(['batch_size', *options])}{suggestion(typed, known)}"
            ) from None
        if name in own or name in arguments:
            raise ValueError(f"{name} is given twice, once as {typed}; write it one way")
        if name == "batch_size":
            own[name] = _option(task, name, value, [scales[scale].batch_size])
        elif name in options:
            own[name] = _option(task, name, value, [x.options[name] for x in scales.values() if name in x.options])
            if name in CHOICES:
                own[name] = one_of(name, own[name], CHOICES[name])
        else:
            arguments[name] = value
    return own, arguments


def _option(task: str, name: str, value: Any, usual: Sequence[Any]) -> Any:
    """A value of the kind that the usual ones are of, within its bounds."""
    kind = next((type(one) for one in usual if one is not None), int)
    bounds = BOUNDS.get(kind, {}).get(name)
    try:
        return values.read(name, value, kind, optional=None in usual, bounds=bounds)
    except ValueError as error:
        raise ValueError(f"{error}; `adabelief tasks {task}` tells the usual ones") from None


def short(value: Any) -> str:
    """A value as the names of runs have it: `0.001`, `(0.9,0.99)`; no two different ones alike."""
    if not isinstance(value, float):
        return str(value).replace(" ", "")
    return rounded if float(rounded := f"{value:g}") == value else repr(value)
