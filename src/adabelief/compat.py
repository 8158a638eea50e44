"""Drop-in names for scripts written for adabelief-pytorch: its signature and its defaults, on this package's optimizer.

from adabelief.compat import AdaBelief     # instead of: from adabelief_pytorch import AdaBelief
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from adabelief import torch as _ours


class AdaBelief(_ours.AdaBelief):
    """`adabelief.AdaBelief` with the arguments and the defaults of adabelief-pytorch 0.2.1.

    There weight decay is decoupled and steps are rectified unless it is said otherwise; here neither is. It warns once
    with the call that does the same without this module. Checkpoints of adabelief-pytorch load.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates of m and s.
        eps: Added to s at every step and to its root.
        weight_decay: Decay rate.
        amsgrad: Use the largest s so far; there it does nothing under `rectify`, here it does.
        weight_decouple: Decay the parameter itself, by 1 − lr · weight_decay.
        fixed_decay: With `weight_decouple`, by 1 − weight_decay.
        rectify: Rectified steps.
        degenerated_to_sgd: With `rectify`, follow m in the first steps.
        print_change_log: Has no effect: nothing is printed.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        amsgrad: bool = False,
        weight_decouple: bool = True,
        fixed_decay: bool = False,
        rectify: bool = True,
        degenerated_to_sgd: bool = True,
        print_change_log: bool = True,
    ) -> None:
        options: dict[str, Any] = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        options |= dict(weight_decouple=weight_decouple, fixed_decay=fixed_decay, rectify=rectify)
        options |= dict(degenerated_to_sgd=degenerated_to_sgd)
        super().__init__(params, **options)
        defaults = {name: p.default for name, p in inspect.signature(_ours.AdaBelief).parameters.items()}
        told = ", ".join(f"{name}={value!r}" for name, value in options.items() if value != defaults[name])
        warnings.warn(
            f"adabelief.compat is for scripts of adabelief-pytorch; the same optimizer is adabelief.AdaBelief(params"
            f"{', ' if told else ''}{told})",
            DeprecationWarning,
            stacklevel=2,
        )
