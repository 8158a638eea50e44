"""Published settings, as data, each with its source; and how to choose eps.

Rows are those that the authors published, faults included; where two of their sources differ, there are two rows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from adabelief.names import there_are

TaskName = Literal[
    "cifar",
    "imagenet",
    "gan-small",
    "sn-gan",
    "transformer",
    "lstm-1",
    "lstm-2",
    "lstm-3",
    "detection",
    "transformer-fairseq",
    "rl-rainbow",
    "rl-halfcheetah",
]
"""The tasks of the table."""

FrontEnd = Literal["torch", "keras", "optax"]

_OTHER_NAMES: dict[FrontEnd, dict[str, str | tuple[str, ...]]] = {
    "torch": {},
    "keras": {"lr": "learning_rate", "betas": ("beta_1", "beta_2"), "eps": "epsilon"},
    "optax": {"lr": "learning_rate", "betas": ("b1", "b2")},
}
"""How each front-end calls an argument, where PyTorch calls it otherwise."""

FIRST_README = "the authors' README at publication (2020, adabelief-pytorch 0.0.5), table of settings"
LATER_README = "the authors' README as last published (adabelief-pytorch 0.2.1), table of settings"


@dataclass(frozen=True)
class Setting:
    """One row: arguments for `AdaBelief`, and where they come from."""

    task: TaskName
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    weight_decouple: bool
    rectify: bool
    source: str
    note: str = ""

    def as_arguments(self, front_end: FrontEnd = "torch") -> dict[str, Any]:
        """Keyword arguments for `AdaBelief`, as a front-end calls them."""
        arguments: dict[str, Any] = {}
        for name in ("lr", "betas", "eps", "weight_decay", "weight_decouple", "rectify"):
            value, its = getattr(self, name), _OTHER_NAMES[front_end].get(name, name)
            arguments.update({its: value} if isinstance(its, str) else zip(its, value, strict=True))
        return arguments


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


def recommended(task: TaskName, optimizer: Callable[..., Any] | None = None) -> dict[str, Any]:
    """The published settings for a task, as keyword arguments for an optimizer of this package.

    They are starting points: the authors chose them for their model, data and schedule (see `SETTINGS[task].note`).

    Args:
        task: A name in `SETTINGS`.
        optimizer: What takes the arguments, whose names differ: a class for PyTorch (`AdaBelief`, `AdaBeliefW`,
            `RangerAdaBelief`) or Keras, or a function of `adabelief.optax`; None is PyTorch's `AdaBelief`. What an
            optimizer has no argument for is left out: Ranger rectifies, whatever the row says.

    Raises:
        ValueError: If there is no such task (the message lists those that there are), if the decay of the row is
            coupled and that of the optimizer is not or the other way round, so that the number would mean something
            else, or if the optimizer takes other arguments altogether.

    Example:
        >>> recommended("cifar")["eps"]
        1e-08
        >>> from adabelief import AdaBeliefW
        >>> sorted(recommended("imagenet", AdaBeliefW))
        ['betas', 'eps', 'lr', 'rectify', 'weight_decay']
    """
    if not isinstance(task, str) or task not in SETTINGS:
        raise ValueError(f"task: there are no published settings for {task!r}; {there_are(str(task), SETTINGS)}")
    setting = SETTINGS[task]
    return setting.as_arguments() if optimizer is None else _taken_by(optimizer, setting)


def _taken_by(optimizer: Callable[..., Any], setting: Setting) -> dict[str, Any]:
    called = getattr(optimizer, "__name__", repr(optimizer))
    made_by: Any = optimizer
    if isinstance(optimizer, type):  # Keras's metaclass hides what a class takes; its __init__ does not
        made_by = made_by.__init__
    names = inspect.signature(made_by).parameters if callable(made_by) else {}
    front_end = _front_end(names)
    if front_end is None:
        raise ValueError(
            f"optimizer: {called} takes other arguments; give AdaBelief, AdaBeliefW or RangerAdaBelief of adabelief or "
            "adabelief.keras, or adabelief, adabeliefw or ranger_adabelief of adabelief.optax"
        )
    decouples = "fixed_decay" in names  # an option of decoupled decay alone
    if setting.weight_decay and "weight_decouple" not in names and decouples != setting.weight_decouple:
        decay, other = ("decoupled", "AdaBeliefW") if setting.weight_decouple else ("coupled", "AdaBelief")
        other = other.lower() if front_end == "optax" else other
        raise ValueError(
            f"optimizer: the weight decay of {setting.task!r} is {decay} and that of {called} is not, so "
            f"{setting.weight_decay:g} would mean something else; use {other}"
        )
    return {name: value for name, value in setting.as_arguments(front_end).items() if name in names}


def _front_end(names: Collection[str]) -> FrontEnd | None:
    """Whose optimizer takes arguments of these names: all of AdaBelief's, but for what it is by definition."""
    for front_end in _OTHER_NAMES:
        needed = {"degenerated_to_sgd", *SETTINGS["cifar"].as_arguments(front_end)} - {"weight_decouple", "rectify"}
        if needed <= set(names):
            return front_end
    return None


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
    _check_finite("eps", eps)
    return eps * eps


def eps_for_floor(floor: float, beta2: float = 0.999) -> float:
    """The eps of AdaBelief with which its bias-corrected denominator has a floor: eps = floor² · (1 − beta2).

    AdaBelief adds eps to s in every step, so that s/(1 − beta2^t) has eps/(1 − beta2) in it and its root never falls
    below sqrt(eps/(1 − beta2)) (`adabelief.rule.denominator_floor`). An Adam whose eps is `floor` has the same floor:
    optimizers can be compared at equal floors, not at equal eps.

    Args:
        floor: Of the denominator, finite and at least 0.
        beta2: The second decay rate.

    Raises:
        ValueError: If one of them is out of range.

    Example:
        >>> f"{eps_for_floor(1e-8, 0.999):.0e} {eps_for_floor(3.2e-3, 0.999):.0e}"  # Adam's default; near SGD
        '1e-19 1e-08'
    """
    _check_finite("floor", floor)
    if not 0 <= _number(beta2) < 1:
        raise ValueError(f"beta2 must be a number in [0, 1), got {beta2!r}")
    return floor * floor * (1.0 - beta2)


def _check_finite(name: str, value: Any) -> None:
    if not 0 <= _number(value) < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}")


def _number(value: Any) -> float:
    """A number, or a tensor of one; nan of what is neither."""
    return float(value) if hasattr(value, "__float__") else math.nan
