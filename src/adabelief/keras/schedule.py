"""The learning rate's schedule that adabelief-tf has built in."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from adabelief.options import ALPHA, RATE, check


@keras.saving.register_keras_serializable(package="adabelief")
class WarmupDecay(LearningRateSchedule):  # type: ignore[misc]
    r"""Linear warm-up, then linear decay: what adabelief-tf does with `total_steps`.

    With W = total_steps · warmup_proportion and t = 1, 2, ... the number of the step:

        learning_rate · t / W                                                             while t ≤ W
        learning_rate − (learning_rate − min_lr) · (t − W) / max(total_steps − W, 1)      up to total_steps
        min_lr                                                                            from there on

    It is computed in float32, or float64 where that is Keras's float type.

    Args:
        learning_rate: The largest value.
        total_steps: Steps of warm-up and decay together, at least 1.
        warmup_proportion: The share of them that is warm-up, in [0, 1].
        min_lr: The last value.

    Raises:
        ValueError: If an argument is out of its range.

    Source: adabelief-tf 0.2.1.

    Example:
        >>> schedule = WarmupDecay(1.0, total_steps=10, warmup_proportion=0.2, min_lr=0.2)
        >>> [round(float(schedule(step)), 2) for step in (0, 1, 5, 9, 99)]
        [0.5, 1.0, 0.6, 0.2, 0.2]
    """

    def __init__(
        self, learning_rate: float = 1e-3, total_steps: int = 1, warmup_proportion: float = 0.1, min_lr: float = 0.0
    ) -> None:
        super().__init__()
        for name, rate in [("learning_rate", learning_rate), ("min_lr", min_lr)]:
            check(name, rate, *RATE)
        check("total_steps", total_steps, "a finite number, at least 1", lambda x: 1 <= x < math.inf)
        check("warmup_proportion", warmup_proportion, *ALPHA)
        self._config = dict(
            learning_rate=learning_rate, total_steps=total_steps, warmup_proportion=warmup_proportion, min_lr=min_lr
        )

    def __call__(self, step: Any) -> Any:
        """The learning rate after `step` steps."""
        lr, total, proportion, min_lr = self._config.values()
        warmup = total * proportion
        t = ops.cast(step, "float64" if keras.backend.floatx() == "float64" else "float32") + 1
        decayed = lr - (lr - min_lr) * ops.minimum(t - warmup, total - warmup) / max(total - warmup, 1)
        return ops.where(t <= warmup, lr * t / max(warmup, 1), decayed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._config)
