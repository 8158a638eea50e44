"""The paper's six functions of two variables, and walks over them with the real optimizers.

The paper shows the walks as films and publishes no code for them. Formulae and betas are the paper's; the starts, the
number of steps, SGD's dampening and its learning rate on the last two functions are those of a published re-creation,
https://github.com/seiyab/adabelief-toy-examples-pytorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adabelief.lab import optimizers
from adabelief.lab.catalogue import about
from adabelief.lab.tasks import Experiment, Metric, Request, Scale, Settings, Task

if TYPE_CHECKING:
    from adabelief.lab.train import Trainer

STEPS = 30_000
STEPS_PER_EPOCH = 1000
NEAR = 0.01
PATIENCE = 500
FAR = 1e6

Point = tuple[float, float]


@dataclass(frozen=True)
class Function:
    """A function to be minimized.

    Attributes:
        name: What `results.csv` and the figures call it.
        formula: For readers.
        value: f(x, y), for numbers and for arrays.
        gradient: Its gradient at a point; where |.| has a corner, the part of that term is 0, as in torch.
        start: Where the walks begin.
        optimum: Where f is least; f is 0 there.
        x_range: What the figures show.
        y_range: What the figures show.
        betas: Of Adam and AdaBelief; betas[0] is SGD's momentum too.
        sgd_lr: SGD's learning rate.
    """

    name: str
    formula: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], Point]
    start: Point
    optimum: Point
    x_range: Point
    y_range: Point
    betas: tuple[float, float] = (0.9, 0.999)
    sgd_lr: float = 1e-3

    def settings(self) -> dict[str, dict[str, Any]]:
        """The arguments of each walker, by its label."""
        adaptive = {"lr": 1e-3, "betas": self.betas, "eps": 1e-8}
        sgd = {"lr": self.sgd_lr, "momentum": self.betas[0]}
        return {
            "SGD": {**sgd, "dampening": self.betas[0]},
            "SGD, undamped": sgd,
            "Adam": adaptive,
            "AdaBelief": adaptive,
        }


def _sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def _valley_gradient(x: float, y: float) -> Point:
    across, along = _sign(x + y), _sign(x - y) / 10
    return across + along, across - along


def _bowl_gradient(x: float, y: float) -> Point:
    across, along = 2 * (x + y), 2 * (x - y) / 10
    return across + along, across - along


def _beale(x: Any, y: Any) -> Any:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_gradient(x: float, y: float) -> Point:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)), 2 * x * (a + 2 * b * y + 3 * c * y**2)


def _rosenbrock_gradient(x: float, y: float) -> Point:
    return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


FUNCTIONS: Mapping[str, Function] = {
    function.name: function
    for function in (
        Function(
            name="cone",
            formula="|x| + |y|",
            value=lambda x, y: abs(x) + abs(y),
            gradient=lambda x, y: (_sign(x), _sign(y)),
            start=(-2.5, 0.0),
            optimum=(0.0, 0.0),
            x_range=(-3.0, 1.0),
            y_range=(-1.5, 1.5),
        ),
        Function(
            name="valley",
            formula="|x + y| + |x − y|/10",
            value=lambda x, y: abs(x + y) + abs(x - y) / 10,
            gradient=_valley_gradient,
            start=(2.5, 0.0),
            optimum=(0.0, 0.0),
            x_range=(-0.5, 3.0),
            y_range=(-2.0, 1.0),
        ),
        Function(
            name="bowl",
            formula="(x + y)² + (x − y)²/10",
            value=lambda x, y: (x + y) ** 2 + (x - y) ** 2 / 10,
            gradient=_bowl_gradient,
            start=(2.5, 0.0),
            optimum=(0.0, 0.0),
            x_range=(-0.5, 3.0),
            y_range=(-2.0, 1.0),
        ),
        Function(
            name="steep",
            formula="|x|/10 + |y|",
            value=lambda x, y: abs(x) / 10 + abs(y),
            gradient=lambda x, y: (_sign(x) / 10, _sign(y)),
            start=(0.5, -1.5),
            optimum=(0.0, 0.0),
            x_range=(-1.0, 1.0),
            y_range=(-1.75, 0.5),
            betas=(0.3, 0.3),
        ),
        Function(
            name="beale",
            formula="(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²",
            value=_beale,
            gradient=_beale_gradient,
            start=(-2.5, -2.5),
            optimum=(3.0, 0.5),
            x_range=(-4.0, 4.0),
            y_range=(-4.0, 4.0),
            sgd_lr=1e-6,
        ),
        Function(
            name="rosenbrock",
            formula="(1 − x)² + 100 (y − x²)²",
            value=lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
            gradient=_rosenbrock_gradient,
            start=(-4.0, -4.0),
            optimum=(1.0, 1.0),
            x_range=(-5.0, 4.0),
            y_range=(-5.0, 7.0),
            sgd_lr=1e-6,
        ),
    )
}


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
    stepper = optimizers.build(optimizer.partition(",")[0], [point], {**settings, "foreach": False})
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


class Descent(Experiment):
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
        schedule=lambda moment: 1.0,
        threads=1,
    )
}
