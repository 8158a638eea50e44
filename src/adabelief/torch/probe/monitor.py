"""What `OptimizerMonitor`, a callback of Composer, logs of an optimizer's parameter."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from adabelief.torch.probe.measure import describe, measured
from adabelief.torch.probe.sample import seen, take
from adabelief.torch.probe.show import curves

SAMPLE = 1024


def metrics(optimizer: Optimizer, param: Tensor, name: str) -> dict[str, float]:
    """The numbers of a parameter by Composer's kind of names: `ruled_by_eps/fc.weight`; none before its first step.

    Of a distributed parameter they are those of this process's part.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    found = [each for each in seen(optimizer) if groups[each.place[0]]["params"][each.place[1]] is param]
    layers = take(optimizer, found, lambda i, j: (name, str(i)), SAMPLE, {})
    numbers = curves(describe([measured(layers[0])])) if layers else {}
    return {f"{key}/{name}": value for key, value in numbers.items() if value is not None}
