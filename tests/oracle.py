"""The only source of expected values and of tolerances: `rule.reference_step`, followed step by step.

`Walk` knows NumPy only, for every framework and kernel: Keras's and optax's processes need no torch. `Oracle` hands it
what PyTorch's optimizers step, and imports torch where tensors are made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from adabelief.rule import coefficients, reference_step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RULE_OPTIONS = {
    *("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd"),
    *("max_update", "amsgrad", "maximize", "use_gc", "gc_conv_only", "gc_loc", "k", "alpha"),
}


BETAS = signature(coefficients).parameters["betas"].default


def tolerance(eps: float) -> float:
    """Relative error allowed in a step and in the state, whose type has this epsilon: double precision or single."""
    return 1e-12 if eps < 1e-12 else 1e-5


ALLOWANCES = {
    "added": "the parameter is itself plus an update that was rounded to its type, instead of rounded once",
    "lookahead": "the way back to the slow weights is rounded once more, where numbers are as large as both",
    "decayed": "weights that were rounded when they decayed are exact to a unit from the rounded number only",
    "small means": "a mean that is next to nothing by cancellation is off by as much as what it was added up from",
    "small steps": "and so is the step that follows it",
}
"""What some walks have to allow beside the tolerances of all."""


class Walk:
    """The reference's walk beside one parameter: each step starts where the parameter did, with a state of its own.

    Args:
        options: Those of `reference_step`, and `gc_outputs_last`: the mean is over all dimensions but the last.
        allowing: Of ALLOWANCES.
        state: The reference's state to begin with, by default that of no step.
        reach: The size of what its means were added up from, by name: what was rounded then is still in them.
    """

    def __init__(
        self,
        options: dict[str, Any],
        *,
        allowing: Collection[str] = (),
        state: dict[str, Any] | None = None,
        reach: dict[str, float] | None = None,
    ) -> None:
        assert ALLOWANCES.keys() >= set(allowing)
        self.options, self.allowing, self.state, self.reach = options, allowing, state or {}, reach or {}

    def step(self, before: Any, gradient: Any, after: Any, state: dict[str, Any], info: Any, **options: Any) -> None:
        """Asserts what a parameter and its state must be after a step.

        Args:
            before: The parameter before the step.
            gradient: Its gradient.
            after: The parameter after the step.
            state: Its state after the step, in float32 or wider, by the reference's names.
            info: The `finfo` of the parameter's type.
            **options: What differs from the options in this step.
        """
        options = self.options | options
        before, gradient, after = map(wide, (before, gradient, after))
        if options.pop("gc_outputs_last", False) and before.ndim > 1 and before.size:
            before, gradient, after = (np.moveaxis(x, -1, 0) for x in (before, gradient, after))
            state = {name: np.moveaxis(np.asarray(x), -1, 0) for name, x in state.items()}
        previous = self.state
        expected, self.state = reference_step(before, gradient, previous, **options)
        self._reached(previous, options.get("betas", BETAS))
        assert_state(state, self.state, self.reach if "small means" in self.allowing else {})
        if "slow_buffer" in state:  # weights they are, too: the next step starts where these are
            self.state = self.state | {"slow_buffer": wide(state["slow_buffer"])}
        relative = tolerance(max(np.finfo(np.asarray(x).dtype).eps for x in state.values()))
        mean = largest(self.state["exp_avg"])
        relative *= self.reach["exp_avg"] / mean if mean and "small steps" in self.allowing else 1.0
        step, size = np.abs(expected - before), np.abs(expected)
        if "lookahead" in self.allowing and "slow_buffer" in previous:
            size = np.maximum(size, np.abs(before) + np.abs(previous["slow_buffer"]))
        if "added" in self.allowing and info.eps > 1e-6:  # in wider types the tolerance of a step has it
            size = size + step
        # a unit in the last place, both from the number expected and from that as rounded; and the tolerance of a step
        allowed = float(info.eps) * np.maximum(size, float(info.smallest_normal)) + relative * step.max(initial=0.0)
        error = np.abs(after - rounded(expected, info))
        if "decayed" not in self.allowing:
            error = np.maximum(error, np.abs(after - expected))
        assert np.all(error <= allowed), f"off by {np.max(error / allowed):.3g} times the allowed"

    def _reached(self, previous: dict[str, Any], betas: Collection[Any]) -> None:
        """Follows the size of the means: of what was larger once, a beta is left after each step."""
        left = dict(zip(("exp_avg", "exp_avg_var"), map(float, betas), strict=True))
        self.reach = {
            name: max(largest(x), largest(previous.get(name, 0.0)), left.get(name, 0.0) * self.reach.get(name, 0.0))
            for name, x in self.state.items()
        }


def assert_state(found: dict[str, Any], expected: dict[str, Any], reach: dict[str, float]) -> None:
    """A parameter's state is the expected one, within the tolerance of its type and of the largest number expected.

    Or else of the size in `reach`, where there is one.
    """
    assert found.keys() | {"step"} == expected.keys()
    for name, x in found.items():
        wanted, eps = expected[name], np.finfo(np.asarray(x).dtype).eps
        scale = max(largest(wanted), reach.get(name, 0.0))
        # slow weights are not added up over steps
        allowed = (8 * eps if name == "slow_buffer" else tolerance(eps)) * scale
        x = wide(x)
        with np.errstate(invalid="ignore"):
            near = x.shape == np.shape(wanted) and bool((np.abs(x - wanted) <= allowed).all())
        if not near:  # what is no number, or wrong; the whole check takes ten times as long
            np.testing.assert_allclose(x, wanted, rtol=0, atol=allowed, err_msg=name)


def rounded(x: np.ndarray, info: Any) -> np.ndarray:
    """The nearest number of a type, to even, as far as it is no overflow."""
    if np.iscomplexobj(x):
        return rounded(x.real, info) + 1j * rounded(x.imag, info)
    _, exponent = np.frexp(np.abs(x))
    unit = float(info.eps) * np.maximum(np.ldexp(1.0, exponent - 1), float(info.smallest_normal))
    return np.rint(x / unit) * unit


def wide(x: Any) -> np.ndarray:
    """In float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def largest(x: Any) -> float:
    """The largest absolute value; 0 of nothing."""
    return float(np.abs(x).max(initial=0.0))


class Oracle:
    """Walks beside an optimizer: before each step it notes the parameters, after it, it asserts what they must be."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, grad_scale: float = 1.0, *, allowing: Collection[str] = ()
    ) -> None:
        self.optimizer, self.grad_scale, self.allowing = optimizer, grad_scale, {"decayed", *allowing}
        self.states: dict[Tensor, dict[str, Any]] = {}
        self.reach: dict[Tensor, dict[str, float]] = {}

    def step(self, step: Any = None) -> None:
        """Runs one step of the optimizer (or `step`, a compiled one) and asserts parameters, state and gradients."""
        import torch

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
            reach = self.reach.get(p) if p in self.states else None
            walk = Walk(options, allowing=self.allowing, state=self.states.get(p), reach=reach)
            walk.step(p_before, array(g), array(p), self.found(p), torch.finfo(p.dtype))
            self.states[p], self.reach[p] = walk.state, walk.reach
            assert float(self.optimizer.state[p]["step"]) == walk.state["step"]

    def found(self, p: Tensor) -> dict[str, Any]:
        """A parameter's state but for its step number, in its own type: float32, or as wide as the parameter."""
        import torch

        state = {name: x for name, x in self.optimizer.state[p].items() if name != "step"}
        for x in state.values():
            assert x.dtype == torch.promote_types(p.dtype, torch.float32)
            assert x.shape == p.shape
        return {name: numpy(x) for name, x in state.items()}


def array(x: Tensor) -> np.ndarray:
    """A copy in float64 or complex128."""
    return numpy(x.cdouble() if x.is_complex() else x.double()).copy()


def numpy(x: Tensor) -> np.ndarray:
    """A tensor's numbers in its own type, which NumPy has to have."""
    return x.detach().cpu().resolve_conj().resolve_neg().numpy()


def rule_options(group: dict[str, Any]) -> dict[str, Any]:
    """The reference's arguments for a parameter group."""
    options = {name: value for name, value in group.items() if name in RULE_OPTIONS}
    options |= {name: float(options[name]) for name in ("lr", "weight_decay")}
    options["betas"] = tuple(map(float, options["betas"]))
    if "N_sma_threshhold" in group:
        options |= {"adaptive_from": group["N_sma_threshhold"], "eps_before_adaptive": False}
    return options


def set_gradients(params: Iterable[Tensor], seed: int) -> None:
    """Normal gradients of a seed; contiguous whatever the parameter's layout is, in the tensors that are there."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for p in params:
        g = torch.randn(p.shape, generator=generator, dtype=torch.complex128 if p.is_complex() else torch.float64)
        p.grad = g.to(p)
