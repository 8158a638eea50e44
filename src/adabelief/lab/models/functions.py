"""The paper's six functions of two variables.

Formulae and betas are the paper's, which shows walks over them as films and publishes no code for these; the starts,
SGD's dampening and its learning rate on the last two functions are those of a published re-creation,
https://github.com/seiyab/adabelief-toy-examples-pytorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
        betas: Betas of Adam and AdaBelief; betas[0] is SGD's momentum too.
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
