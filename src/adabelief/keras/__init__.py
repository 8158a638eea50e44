"""AdaBelief for Keras 3: `AdaBelief`, `AdaBeliefW` and `RangerAdaBelief` on TensorFlow, JAX and PyTorch.

The scalars of a step come from `adabelief.rule`. On TensorFlow and JAX the rest is written in `keras.ops`, variable by
variable; on PyTorch the whole list goes through the update of `adabelief.torch`: its kernels, or foreach.
"""

from __future__ import annotations

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise
    raise ImportError("AdaBelief for Keras needs keras: pip install 'adabelief[keras]'") from error

from adabelief.keras.optimizers import AdaBelief, AdaBeliefW, RangerAdaBelief
from adabelief.keras.schedule import WarmupDecay

__all__ = ["AdaBelief", "AdaBeliefW", "RangerAdaBelief", "WarmupDecay"]
