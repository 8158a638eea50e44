"""The only source of expected values: `rule.reference_step`, followed step by step beside an optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabelief.rule import reference_step

STEP_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Relative error allowed in a step and in the state, by the type of the state."""

RULE_OPTIONS = {
    *("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd"),
    *("amsgrad", "maximize", "use_gc", "gc_conv_only", "gc_loc", "k", "alpha"),
}


def array(x: Tensor) -> np.ndarray:
    """A copy in float64 or complex128."""
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64).cpu().numpy().copy()


def rule_options(group: dict[str, Any]) -> dict[str, Any]:
    """The reference's arguments for a parameter group."""
    options = {name: value for name, value in group.items() if name in RULE_OPTIONS}
    options["lr"] = float(options["lr"])
    if "N_sma_threshhold" in group:
        options |= {"adaptive_from": group["N_sma_threshhold"], "eps_before_adaptive": False}
    return options


class Oracle:
    """Walks beside an optimizer: before each step it notes the parameters, after it, it asserts what they must be."""

    def __init__(self, optimizer: torch.optim.Optimizer, grad_scale: float = 1.0) -> None:
        self.optimizer, self.grad_scale = optimizer, grad_scale
        self.states: dict[Tensor, dict[str, Any]] = {}

    def step(self, step: Any = None) -> None:
        """Runs one step of the optimizer (or `step`, a compiled one) and asserts parameters, state and gradients."""
        before = [(group, p, array(p), p.grad) for group in self.optimizer.param_groups for p in group["params"]]
        kept = [(g, None if g is None else g.clone(), p.data_ptr()) for _, p, _, g in before]
        (step or self.optimizer.step)()
        for (group, p, p_before, g), (g_object, g_before, address) in zip(before, kept, strict=True):
            assert p.data_ptr() == address
            assert p.grad is g_object
            if g is None:
                assert np.array_equal(array(p), p_before)
                continue
            assert torch.equal(g, g_before)
            options = rule_options(group) | {"grad_scale": self.grad_scale}
            previous = self.states.get(p, {})
            expected, self.states[p] = reference_step(p_before, array(g), previous, **options)
            mean, before_it = (_size(state, "exp_avg") for state in (self.states[p], previous))
            assert_close(p, expected, p_before, cancelled=max(1.0, before_it / mean) if mean else 1.0)
            self.assert_state(p, previous)

    def assert_state(self, p: Tensor, previous: dict[str, Any]) -> None:
        """Within the tolerance of what is there or was there before: a mean that changes its sign comes close to 0."""
        expected, state = self.states[p], self.optimizer.state[p]
        assert float(state["step"]) == expected["step"]
        assert set(state) == set(expected)
        for name in set(expected) - {"step"}:
            dtype = torch.promote_types(p.dtype, torch.float32)
            assert state[name].dtype == dtype
            assert state[name].shape == p.shape
            tolerance = STEP_TOLERANCE[dtype.to_real()] * max(_size(expected, name), _size(previous, name))
            np.testing.assert_allclose(array(state[name]), expected[name], rtol=0, atol=tolerance, err_msg=name)


def _size(state: dict[str, Any], name: str) -> float:
    """The largest absolute value."""
    return float(np.abs(state.get(name, 0.0)).max(initial=0.0))


def assert_close(p: Tensor, expected: np.ndarray, p_before: np.ndarray, cancelled: float = 1.0) -> None:
    """The new parameter is the expected one, within one unit in its last place and the tolerance of the step.

    `cancelled` is how much larger what the mean was added up from is than the mean: as much less exact is the step.
    """
    state_dtype = torch.promote_types(p.dtype, torch.float32).to_real()
    rounded = array(torch.from_numpy(np.array(expected)).to(p.dtype))
    unit = np.maximum(torch.finfo(p.dtype).eps * np.abs(rounded), torch.finfo(p.dtype).smallest_normal)
    error, step = np.abs(array(p) - rounded), np.abs(expected - p_before)
    allowed = unit + STEP_TOLERANCE[state_dtype] * cancelled * np.maximum(step, step.max(initial=0.0))
    assert np.all(error <= allowed), (
        f"{p.dtype} {tuple(p.shape)}: off by {np.max(error / allowed):.3g} times the allowed"
    )


def set_gradients(params: Iterable[Tensor], seed: int) -> None:
    """Normal gradients of a seed; contiguous whatever the parameter's layout is, in the tensors that are there."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        g = torch.randn(p.shape, generator=generator, dtype=torch.complex128 if p.is_complex() else torch.float64)
        p.grad = g.to(p)
