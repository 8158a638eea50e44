"""Published settings, as data, each with its source; and how to choose eps.

Rows are those that the authors published, faults included; where two of their sources differ, there are two rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FIRST_README = "the authors' README at publication (2020, adabelief-pytorch 0.0.5), table of settings"
LATER_README = "the authors' README as last published (adabelief-pytorch 0.2.1), table of settings"


@dataclass(frozen=True)
class Setting:
    """One row: arguments for `AdaBelief`, and where they come from."""

    task: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    weight_decouple: bool
    rectify: bool
    source: str
    note: str = ""

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `AdaBelief`."""
        names = ("lr", "betas", "eps", "weight_decay", "weight_decouple", "rectify")
        return {name: getattr(self, name) for name in names}


_DEFAULT = (0.9, 0.999)
_GAN = (0.5, 0.999)
_EITHER = "without decay, weight_decouple makes no difference"

SETTINGS: dict[str, Setting] = {
    row.task: row
    for row in (
        Setting(
            *("cifar", 1e-3, _DEFAULT, 1e-8, 5e-4, False, False, FIRST_README),
            note="VGG11, ResNet34, DenseNet121; batch 128, 200 epochs, lr × 0.1 at epoch 150",
        ),
        Setting(
            *("imagenet", 1e-3, _DEFAULT, 1e-8, 1e-2, True, False, FIRST_README),
            note="ResNet18; batch 256, 90 epochs, lr × 0.1 at epochs 70 and 80",
        ),
        Setting("gan-small", 2e-4, _GAN, 1e-12, 0.0, False, False, FIRST_README, f"WGAN and WGAN-GP; {_EITHER}"),
        Setting("sn-gan", 2e-4, _GAN, 1e-16, 0.0, False, True, FIRST_README, f"a residual generator; {_EITHER}"),
        Setting(
            *("transformer", 1.5e-3, (0.9, 0.98), 1e-12, 1e-4, True, True, FIRST_README),
            note="IWSLT14 De-En, inverse-square-root schedule with 8,000 steps of warm-up",
        ),
        Setting("lstm-1", 1e-3, _DEFAULT, 1e-16, 1.2e-6, False, False, FIRST_README, "one layer, Penn Treebank"),
        Setting("lstm-2", 1e-2, _DEFAULT, 1e-12, 1.2e-6, False, False, FIRST_README, "two layers, Penn Treebank"),
        Setting("lstm-3", 1e-2, _DEFAULT, 1e-12, 1.2e-6, False, False, FIRST_README, "three layers, Penn Treebank"),
        Setting(
            *("detection", 1e-4, _DEFAULT, 1e-8, 1e-4, False, False, LATER_README),
            note="Faster R-CNN on PASCAL VOC, run by the authors of EAdam",
        ),
        Setting(
            *("transformer-fairseq", 5e-4, _DEFAULT, 1e-16, 1e-4, True, True, LATER_README),
            note="IWSLT14 De-En in fairseq; its code ignored rectify, so the published BLEU is that of rectify=False",
        ),
        Setting("rl-rainbow", 1e-4, _DEFAULT, 1e-10, 0.0, False, True, LATER_README, f"Space Invaders; {_EITHER}"),
        Setting("rl-halfcheetah", 1e-3, _DEFAULT, 1e-12, 0.0, False, True, LATER_README, f"SAC; {_EITHER}"),
    )
}


def recommended(task: str) -> dict[str, Any]:
    """The published settings for a task, as keyword arguments for `AdaBelief`.

    They are starting points: the authors chose them for their model, data and schedule (see `SETTINGS[task].note`).

    Args:
        task: A name in `SETTINGS`.

    Raises:
        ValueError: If there is no such task; the message lists those that there are.

    Example:
        >>> recommended("cifar")["eps"]
        1e-08
    """
    if task not in SETTINGS:
        raise ValueError(f"task: there are no published settings for {task!r}; there are for {', '.join(SETTINGS)}")
    return SETTINGS[task].as_arguments()


def eps_from_adam(eps: float) -> float:
    """The eps of AdaBelief that stands for an eps of Adam: its square.

    Adam adds eps to the root; AdaBelief keeps it in the mean square, inside the root. 1e-8, Adam's default, becomes
    1e-16, AdaBelief's. (The denominator's floor is then sqrt(eps/(1 − beta2)), see `adabelief.rule.denominator_floor`.)

    Args:
        eps: Adam's, finite and at least 0.

    Raises:
        ValueError: If it is not.

    Example:
        >>> eps_from_adam(1e-6)
        1e-12
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number, at least 0, got {eps!r}")
    return eps * eps
