"""Arguments that users of other packages know, and what to write instead."""

from __future__ import annotations

from collections.abc import Collection

_WARM_UP = "pass learning_rate=WarmupDecay(learning_rate, total_steps, warmup_proportion, min_lr)"

FOREIGN = {
    **dict.fromkeys(("n_sma_threshold", "sma_threshold", "N_sma_threshhold"), "write adaptive_from"),
    **dict.fromkeys(("total_steps", "warmup_proportion", "min_lr"), _WARM_UP),
    "decay": "pass learning_rate=keras.optimizers.schedules.InverseTimeDecay(learning_rate, 1, decay)",
    "print_change_log": "leave it out, nothing is printed",
    "lr": "write learning_rate",
    "eps": "write epsilon",
    "betas": "write beta_1 and beta_2",
}
"""Those of adabelief-tf, ranger-adabelief, PyTorch and older versions."""


def refuse_foreign(optimizer: str, arguments: Collection[str]) -> None:
    """Says what to write instead of another package's argument.

    Raises:
        TypeError: If one is among the arguments.
    """
    for name in FOREIGN:
        if name in arguments:
            raise TypeError(f"{optimizer} has no argument {name}: {FOREIGN[name]}")
