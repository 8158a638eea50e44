"""What a probe says once: gradients of which no eps makes anything good."""

from __future__ import annotations

from collections.abc import Mapping

from adabelief.torch.probe.measure import Stats, percent


def notes(layers: Mapping[str, Stats]) -> dict[str, str]:
    """What is noteworthy of some parameters, by its kind."""
    found = {}
    cut = [name for name, stats in layers.items() if stats["thresholded"]]
    same = [name for name, stats in layers.items() if (stats["constant"] or 0) >= 0.5 and name not in cut]
    still = [name for name, stats in layers.items() if stats["zero"] == 1]
    if cut:
        most = max(cut, key=lambda name: layers[name]["thresholded"])
        part, at = percent(layers[most]["thresholded"]), layers[most]["thresholds"][-1]
        found["thresholded"] = (
            f"gradients are cut element by element at ±{at:g} ({part} of {most}{_others(cut)}): what is cut step after "
            "step looks perfectly predictable, g - m tends to 0 and AdaBelief's step grows to what eps allows. Clip by "
            "norm instead, or bound the step by max_update."
        )
    if same:
        found["constant"] = (
            f"the gradient of {same[0]}{_others(same)} is the same in every step: g - m is 0 there, and eps alone "
            "bounds AdaBelief's step. Is the loss linear in it?"
        )
    if still:
        found["zero"] = (
            f"the gradient of {still[0]}{_others(still)} has always been 0: it does not move. Is its part of the model "
            "used?"
        )
    return found


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
