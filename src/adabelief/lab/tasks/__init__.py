"""Tasks, one file a family: the data, the model, and the settings of every optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn


class Examples(NamedTuple):
    """Inputs (n, ...) and labels (n,)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Classification:
    """A classification task, the same for every optimizer but for `settings`.

    Attributes:
        name: What `results.csv` calls it.
        train: What the model learns from.
        validation: What picks the epoch.
        test: What is reported.
        model: Builds the model; its initial weights come from torch's global random state.
        settings: The arguments of each optimizer, by the optimizer's name.
        batch_size: Examples a step.
        epochs: Passes over `train`.
        decay_at: The fraction of the epochs after which the learning rate is divided by 10.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    model: Callable[[], nn.Module]
    settings: Mapping[str, Mapping[str, Any]]
    batch_size: int
    epochs: int
    decay_at: float
