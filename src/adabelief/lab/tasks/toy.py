"""Walks over the paper's six functions of two variables with the real optimizers.

The number of steps is that of the re-creation that `models.functions` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adabelief.lab import optimizers
from adabelief.lab.catalogue import about
from adabelief.lab.models.functions import FUNCTIONS, Function
from adabelief.lab.schedules import constant
from adabelief.lab.task import Metric, Request, Scale, Settings, Task, Workload
from adabelief.lab.trainer import Trainer

STEPS = 30_000
STEPS_PER_EPOCH = 1000
NEAR = 0.01
PATIENCE = 500
FAR = 1e6


@dataclass(frozen=True)
class Walk:
    """A finished walk.

    Attributes:
        function: A name in `FUNCTIONS`.
        optimizer: A label in `Function.settings`.
        settings: The optimizer's arguments.
        path: The points, (steps + 1, 2), the start first.
        arrival: The first step from which all later points are less than `NEAR` from the optimum, or None.
    """

    function: str
    optimizer: str
    settings: Mapping[str, Any]
    path: NDArray[np.float64]
    arrival: int | None

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.path) - 1

    @property
    def distance(self) -> NDArray[np.float64]:
        """The distance to the optimum, (steps + 1,)."""
        x, y = (self.path - FUNCTIONS[self.function].optimum).T
        return np.asarray(np.hypot(x, y))

    @property
    def value(self) -> NDArray[np.float64]:
        """The function's values, (steps + 1,)."""
        return np.asarray(FUNCTIONS[self.function].value(*self.path.T))


def walk(
    function: Function, optimizer: str, *, steps: int = STEPS, after_step: Callable[[int], None] = lambda step: None
) -> Walk:
    """Walks over a function from its start, in float64.

    The walk ends after `steps` steps, or when it has been within `NEAR` of the optimum for `PATIENCE` steps in a row,
    or when it is `FAR` from it.

    Args:
        function: What to walk over.
        optimizer: A label in `function.settings()`.
        steps: How many steps at most.
        after_step: Called after each step with its number.
    """
    settings = function.settings()[optimizer]
    point = torch.nn.Parameter(torch.tensor(function.start, dtype=torch.float64))
    gradient = point.grad = torch.zeros_like(point)
    name = optimizer.partition(",")[0]
    stepper = optimizers.build(name, [point], {**settings, **optimizers.METHODS[name].form})  # as a run has it
    path, arrival = [function.start], None
    x, y = function.start
    for step in range(1, steps + 1):
        gradient[0], gradient[1] = function.gradient(x, y)
        stepper.step()
        x, y = point.tolist()
        path.append((x, y))
        distance = math.dist((x, y), function.optimum)
        if distance >= NEAR:
            arrival = None
        elif arrival is None:
            arrival = step
        after_step(step)
        if (arrival is not None and step - arrival >= PATIENCE) or not distance < FAR:
            break
    return Walk(function.name, optimizer, settings, np.array(path), arrival)


class _Height(torch.autograd.Function):
    """A function's value at a point, with the gradient that `Function` gives."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, function: Function) -> Tensor:
        x, y = point.tolist()
        ctx.gradient = point.new_tensor(function.gradient(x, y))
        return point.new_tensor(function.value(x, y))

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[0] * ctx.gradient, None


class Walker(nn.Module):
    """The point that walks."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(start, dtype=torch.float64))


class Descent(Workload):
    """A walk over one function as a run of the lab: an epoch is 1,000 steps, and every point is recorded."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, function: Function) -> None:
        self.modules = {"point": Walker(function.start)}
        self._function, self._path = function, [list(function.start)]

    def batches(self, epoch: int) -> Iterator[tuple[Tensor]]:
        """There is no data: every step sees the function itself."""
        for _ in range(STEPS_PER_EPOCH):
            yield (torch.zeros(1),)

    def loss(self, batch: tuple[Tensor]) -> Tensor:
        """The function's value."""
        value: Tensor = _Height.apply(self._point(), self._function)
        return value

    def step(self, batch: tuple[Tensor], trainer: Trainer) -> Tensor:
        """One step, whose end is recorded."""
        loss = super().step(batch, trainer)
        self._path.append(self._point().tolist())
        return loss

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """The distance to the optimum, the value there, and the path since the epoch before.

        The distance is that of the metric for "validation" and "test" alike: there is nothing to generalize to.
        """
        path, self._path = self._path, []
        distance = math.dist(path[-1], self._function.optimum)
        value = float(self._function.value(*path[-1]))
        return {"validation_distance": distance, "test_distance": distance, "validation_loss": value, "path": path}

    def state_dict(self) -> dict[str, Any]:
        """The path since the epoch before."""
        return {"path": self._path}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it up again."""
        self._path = state["path"]

    def _point(self) -> nn.Parameter:
        point: nn.Parameter = self.modules["point"].at  # type: ignore[assignment]
        return point


def recorded(function: str, label: str, settings: Mapping[str, Any], path: Sequence[Sequence[float]]) -> Walk:
    """The walk that a run recorded; `arrival` is as in `Walk`."""
    points = np.array(path)
    x, y = (points - FUNCTIONS[function].optimum).T
    far = np.flatnonzero(~(np.hypot(x, y) < NEAR))
    arrival = int(far[-1]) + 1 if len(far) else 0
    if label.startswith("SGD") and not settings.get("dampening"):
        label = "SGD, undamped"
    return Walk(function, label, settings, points, arrival if arrival < len(points) else None)


def _settings(model: str) -> Settings:
    """The paper's three, and the other optimizers at the same learning rate, betas and eps, without decay."""
    function = FUNCTIONS[model]
    paper, adaptive = function.settings(), function.settings()["Adam"]
    return {
        "AdaBelief": adaptive,
        "SGD": paper["SGD"],
        "Adam": adaptive,
        "AdamW": {**adaptive, "weight_decay": 0.0},
        "RAdam": adaptive,
        "AdaBound": {**adaptive, "final_lr": 0.1, "gamma": 1e-3},
        "Yogi": {**adaptive, "initial_accumulator": 1e-6},
        "MSVAG": {"lr": 1e-3, "beta": function.betas[0]},
        "Fromage": {"lr": 1e-3},
        "RMSprop": {"lr": 1e-3, "alpha": function.betas[1], "eps": 1e-8},
        "EAdam": adaptive,
    }


def _make(request: Request) -> Descent:
    return Descent(FUNCTIONS[request.model])


TASKS = {
    "toy": Task(
        **about("toy"),
        metric=Metric("distance", higher_is_better=False),
        scales=lambda model: {
            "smoke": Scale(epochs=1, batch_size=1, note="1,000 instead of 30,000 steps"),
            "small": Scale(epochs=STEPS // STEPS_PER_EPOCH, batch_size=1),
            "paper": Scale(epochs=STEPS // STEPS_PER_EPOCH, batch_size=1),
        },
        settings=_settings,
        make=_make,
        schedule=constant,
        threads=1,
    )
}
