"""What a task says: its model, data and objective, and the published settings of every optimizer on it.

A task is described by a `Task`, whose `make` builds a `Workload`: a run's modules and batches. The tasks are in
`adabelief.lab.tasks`. What all of them have in common (seeds, learning rates over time, accumulation, several
processes, evaluation after every epoch, checkpoints) is the engine's, `adabelief.lab.engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from adabelief.lab.schedules import SCHEDULES, Schedule
from adabelief.lab.trainer import Trainer
from adabelief.lab.values import Bounds

Settings = Mapping[str, Mapping[str, Any]]
"""The arguments of each optimizer, by its name in `optimizers.METHODS`."""


@dataclass(frozen=True)
class Metric:
    """What a task is judged by: evaluations have it as `validation_<name>` and `test_<name>`.

    Attributes:
        name: The metric's name.
        unit: What stands behind its values.
        higher_is_better: Or else lower.
        title: What it is called, where that is not its name.
        by_options: What of all this the options of a run decide, from the options; None where it is always the same.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    title: str = ""
    by_options: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    @property
    def called(self) -> str:
        """What to call it before people."""
        return self.title or self.name

    @property
    def suffix(self) -> str:
        """The unit as it stands behind a number, with a space before it; empty where there is none."""
        return f" {self.unit}" if self.unit else ""

    def of(self, options: Mapping[str, Any]) -> Metric:
        """The metric of a run with these options."""
        return replace(self, **self.by_options(options)) if self.by_options else self


@dataclass(frozen=True)
class Scale:
    """How much of a task is run.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Examples of a step, over all processes and accumulated parts.
        options: Further choices: whatever its `make` reads; numbers among them are held to `BOUNDS`.
        precision: "no", "bf16" or "fp16" for autocast: the same on every machine.
        note: What differs from the published experiment, for the report; empty where nothing does.
        target: A value of the metric that is worth reaching, the same for everybody; None where none is set.
        threads: Torch's threads in a run on a CPU; None is for what the task says.
    """

    epochs: int
    batch_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "no"
    note: str = ""
    target: float | None = None
    threads: int | None = None


BOUNDS: Mapping[type, Mapping[str, Bounds]] = {
    int: {
        **dict.fromkeys(("batch_size", "vocabulary", "episodes"), (1, 10**6)),
        **dict.fromkeys(("train_examples", "validation_examples", "test_examples"), (1, 10**9)),
        **dict.fromkeys(("steps", "memory", "exploration", "target_update"), (1, 10**9)),
        **dict.fromkeys(("layers", "heads", "average", "beam", "passes", "critic_steps", "multi_step"), (1, 1000)),
        **dict.fromkeys(("width", "inner", "context"), (1, 10**5)),
        "samples": (8, 10**6),  # a report shows 8 of them
        **dict.fromkeys(("size", "patch"), (1, 10**4)),
        **dict.fromkeys(("coverage", "held_out"), (0, 10**6)),
        "workers": (0, 1000),
        "start": (0, 10**9),
    },
    float: {
        "width": (1e-3, 100),
        **dict.fromkeys(("smoothing", "validation_share", "noise"), (0, 1)),
        **dict.fromkeys(("dropout", "inner_dropout"), (0, 10)),
        **dict.fromkeys(("clip", "clip_value", "max_norm", "penalty"), (0, 10**6)),
    },
}
"""The bounds of `batch_size` and of the options of scales, by kind and name: wide, but so that nothing is begun that no
machine ends. An int `width` is a number of units, a float one a factor on that of the published network, as a float
`dropout` may be on its rates. What only a network or the data know (which sizes go together) they refuse themselves."""


@dataclass(frozen=True)
class Task:
    """What differs from task to task.

    Attributes:
        name: As in `adabelief train NAME`.
        summary: A line for `adabelief tasks`.
        metric: What it is judged by.
        scales: "smoke", "small", "study" and "paper" for a model, as far as they make sense.
        settings: The settings of the optimizers for a model.
        make: Builds a run's workload. Random numbers are seeded before, alike for all optimizers.
        schedule: The factor of the learning rate at a moment, where no option `schedule` names another.
        models: What `--model` can be, the default first; empty where there is no choice.
        threads: Torch's threads in a run on a CPU, where the scale says nothing; None leaves them as they are.
        data: What `--data` has to name; empty where the data is embedded.
        training_loss: What the loss of a training step is, where something is in it that the other losses do not have.
    """

    name: str
    summary: str
    metric: Metric
    scales: Callable[[str], Mapping[str, Scale]]
    settings: Callable[[str], Settings]
    make: Callable[[Request], Workload]
    schedule: Schedule
    models: tuple[str, ...] = ()
    threads: int | None = None
    data: str = ""
    training_loss: str = "training loss"


class Request(NamedTuple):
    """What a workload is built from."""

    model: str
    seed: int
    batch_size: int
    options: Mapping[str, Any]
    data: Path | None


class Workload:
    """The modules, the batches and the objective of one run. Everything but `modules` and `loss` has a default.

    Attributes:
        modules: What is trained, by name, each by an optimizer of its own. The engine replaces them by what it made of
            them for the device and the processes at hand.
        steps_per_epoch: How many batches an epoch has.
        hits: Whether each example was right in the last evaluation, in the order of the examples, by held-out part;
            empty where examples are not right or wrong one by one.
    """

    modules: dict[str, nn.Module]
    steps_per_epoch: int
    hits: Mapping[str, Tensor] = MappingProxyType({})

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of an epoch, counted from 0: the same ones whenever it is asked, on the CPU.

        A batch is a tuple of tensors with the examples along the first dimension, or whatever `step` takes.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> Tensor:
        """The mean loss over a batch or a part of one."""
        raise NotImplementedError

    def step(self, batch: Any, trainer: Trainer) -> Tensor:
        """One training step; returns the loss. By default, a step of the only module's optimizer on `loss`."""
        (name,) = self.modules
        return trainer.descend(name, batch, self.loss)

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """What is measured after every epoch: `validation_loss`, the metric on both sets, and whatever else.

        Parts that are not among `trainer.held_out` need not be read: what is measured on them is dropped.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside modules and optimizers: a hidden state, averaged weights, ..."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""


def refuse_parts(trainer: Trainer) -> None:
    """For steps that another library makes whole.

    Raises:
        ValueError: If there are several processes, accumulated parts or another precision.
    """
    if trainer.accelerator.num_processes > 1:
        raise ValueError("this task runs in a single process: start it without torchrun or accelerate launch")
    if trainer.accumulate > 1:
        raise ValueError(f"--accumulate {trainer.accumulate}: this task's batches are not split; leave it at 1")
    if trainer.accelerator.mixed_precision != "no":
        raise ValueError(f"--precision {trainer.accelerator.mixed_precision}: this task runs in float32; leave it away")


QUESTIONS: Mapping[str, Any] = {"schedule": "cosine", "half_life": "steps", "max_norm": 0.0, "clip_value": 0.0}
"""Options of a scale that the engine itself reads, as a study has them; a scale without one leaves it as it was.

`schedule`: one of `SCHEDULES`. `half_life`: "steps", or "examples", which keeps that of the second moment in examples
where `batch_size` is not the scale's own. `max_norm`, `clip_value`: how gradients are clipped, by their norm or element
by element; 0 is not at all.
"""

HALF_LIVES = ("steps", "examples")
"""What the option `half_life` can be."""


def schedule_of(task: Task, options: Mapping[str, Any]) -> Schedule:
    """The schedule that the options of a run name, or else the task's own."""
    return SCHEDULES[options["schedule"]] if "schedule" in options else task.schedule


def and_rivals(settings: Settings, weight_decay: float) -> Settings:
    """Settings, and beside them arms that AdaBelief's papers do not have, untuned.

    EAdamW is the control of an AdaBelief whose decay is decoupled: it has its eps, and so its floor.

    Args:
        settings: Those of AdaBelief, AdamW and SGD among them.
        weight_decay: Decoupled decay for those that have one.
    """
    belief, adam, sgd = settings["AdaBelief"], settings["AdamW"], settings["SGD"]
    common = {"lr": adam["lr"], "weight_decay": weight_decay}
    decay = belief["weight_decay"] if belief["weight_decouple"] else weight_decay
    return {
        **settings,
        "EAdamW": {**common, "betas": belief["betas"], "eps": belief["eps"], "weight_decay": decay},
        "RangerAdaBelief": {**common, "betas": (0.95, belief["betas"][1]), "eps": belief["eps"]},
        "Lion": {"lr": adam["lr"] / 10, "betas": (0.9, 0.99), "weight_decay": 10 * weight_decay},
        "Muon": {**common, "momentum": 0.95, "betas": adam["betas"], "eps": adam["eps"]},
        "SGD-Nesterov": sgd if "momentum" in sgd else {**sgd, "momentum": 0.9, "lr": sgd["lr"] / 10},  # the same reach
    }


def untuned_settings(weight_decay: float) -> Settings:
    """Settings for tasks that no paper has any for; learning rates are to be searched, all on the same grid.

    AdaBeliefW and AdamW differ in the rule and in its default eps, AdaBeliefW and EAdamW in the rule alone; Adam and
    EAdam have no decay, and SGD momentum.
    """
    common = {"lr": 1e-3, "betas": (0.9, 0.999)}
    return and_rivals(
        {
            "AdaBelief": {
                **common,
                "eps": 1e-16,
                "weight_decay": weight_decay,
                "weight_decouple": True,
                "rectify": False,
            },
            "AdamW": {**common, "eps": 1e-8, "weight_decay": weight_decay},
            "Adam": {**common, "eps": 1e-8},
            "SGD": {"lr": 0.1, "momentum": 0.9},
            "EAdam": {**common, "eps": 1e-16},
        },
        weight_decay,
    )
