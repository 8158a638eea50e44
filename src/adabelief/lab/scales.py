"""What `adabelief train` can be told of a task: its scales, optimizers and options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from adabelief.lab.listings import pairs, table
from adabelief.lab.task import Scale, Task


def scales(task: Task) -> Iterator[Table]:
    """A table of scales for every set of models that has the same ones, and what else `adabelief train` can be told."""
    alike: list[tuple[Mapping[str, Scale], list[str]]] = []
    for model in task.models or ("",):
        found = task.scales(model)
        models = next((models for known, models in alike if known == found), None)
        if models is None:
            alike.append((found, [model]))
        else:
            models.append(model)
    for found, models in alike:
        title = f"--model {', '.join(models)}" if len(alike) > 1 else None
        listed = table("--scale", "epochs", "batch", "what differs from the paper", title=title)
        for name, scale in found.items():
            listed.add_row(name, str(scale.epochs), str(scale.batch_size), _what(task, scale))
        yield listed
    options = {name for found, _ in alike for scale in found.values() for name in scale.options}
    yield pairs(
        {
            "--optimizer": ", ".join(task.settings((task.models or ("",))[0])),
            "--set": ", ".join(["batch_size", *sorted(options)]) + ", and the optimizers' arguments",
        }.items()
    )


def _what(task: Task, scale: Scale) -> str:
    """What sets a scale apart, with the target where it has one."""
    metric = task.metric.of(scale.options)
    target = "" if scale.target is None else f"; target: {metric.called} {scale.target:g}{metric.suffix}"
    return scale.note + target
