"""Whatever a user does to an optimizer between its steps, in any order: every step is the reference's.

50 walks in make test, always the same ones; as many as ADABELIEF_SOAK says, and new ones, in make soak.
"""

from __future__ import annotations

import copy
import io
import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief
from tests.oracle import Oracle, array, assert_state, numpy, set_gradients

SOAK = int(os.environ.get("ADABELIEF_SOAK", "0"))

SHAPES = [(4, 3), (5,), (), (2, 3, 2, 2), (0, 2), (1, 1), (130, 130)]
"""The last one is worth a second thread."""

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]
IMPLEMENTATIONS = {
    "chosen": {"foreach": None, "fused": None},
    "kernel": {"foreach": None, "fused": True},
    "foreach": {"foreach": True, "fused": None},
    "loop": {"foreach": False, "fused": None},
}
EPS = {AdaBelief: [1e-8, 1e-5], AdaBeliefW: [1e-8, 1e-5], RangerAdaBelief: [1e-5, 1e-3]}
"""Ranger's are so large that a step does not enlarge what rounding leaves of a centralized gradient of almost 0."""

SWITCH = [False, True]
OPTIONS: dict[str, list[Any]] = {
    "lr": [0.0, 1e-3, 0.03, torch.tensor(0.01, dtype=torch.float64)],
    "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.95, 0.7)],
    "weight_decay": [0.0, 0.1],
    "fixed_decay": SWITCH,
    "degenerated_to_sgd": SWITCH,
    "amsgrad": SWITCH,
    "maximize": SWITCH,
    "capturable": SWITCH,
}
OF_CLASS: dict[type, dict[str, list[Any]]] = {
    AdaBelief: {"weight_decouple": SWITCH, "rectify": SWITCH},
    AdaBeliefW: {"rectify": SWITCH},
    RangerAdaBelief: {
        **{"k": [1, 2, 6], "alpha": [0.0, 0.3, 1.0], "weight_decouple": SWITCH},
        **{"use_gc": SWITCH, "gc_conv_only": SWITCH, "gc_loc": SWITCH},
    },
}
SWITCHES = [name for each in (OPTIONS, *OF_CLASS.values()) for name, values in each.items() if values is SWITCH]
LAYOUTS = ["contiguous", "own", "strided", "shifted", "expanded"]

anywhere = st.integers(0, 99)
"""Picks one of a list, whatever its length."""


def laid_out(g: Tensor, layout: str, p: Tensor) -> Tensor:
    """A gradient's values, or for `expanded` its first row everywhere, in memory of some layout."""
    if layout == "own":
        return torch.empty_like(p).copy_(g)
    if layout == "strided":
        return torch.stack([g, g + 1], dim=-1)[..., 0]
    if layout == "shifted":
        return torch.cat([torch.ones(1, dtype=g.dtype), g.flatten()])[1:].view(g.shape)
    if layout == "expanded" and g.ndim:
        return g[:1].clone().expand(g.shape)
    return g


class Walk(RuleBasedStateMachine):
    """An optimizer, the reference beside it, and what was taken out of its hands."""

    @initialize(
        cls=st.sampled_from(list(OF_CLASS)),
        shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4),
        dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
        compiles=st.sampled_from([False] * 15 + [True]),
        at_once=st.booleans(),
    )
    def begin(self, cls, shapes, dtypes, compiles, at_once):
        self.seed, self.compiles, self.at_once, self.left = 0, compiles, at_once, []
        params = [self.parameter(*each) for each in zip(shapes, dtypes, strict=False)]
        self.oracle = Oracle(cls(params, eps=EPS[cls][0]), allowing=["lookahead", "small means", "small steps"])
        self.allowed = OPTIONS | OF_CLASS[cls] | {"eps": EPS[cls]}

    def parameter(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.empty(shape, dtype=dtype))
        set_gradients([p], self.next_seed())
        return torch.nn.Parameter(p.grad)

    def next_seed(self) -> int:
        self.seed += 1
        return self.seed

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.oracle.optimizer

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def params(self) -> list[Tensor]:
        return [p for group in self.groups for p in group["params"]]

    def group(self, at: int) -> dict[str, Any]:
        return self.groups[at % len(self.groups)]

    def one(self, at: int) -> Tensor:
        return self.params[at % len(self.params)]

    def leave(self, *tensors: Tensor | None) -> None:
        """From now on these are not the optimizer's to change."""
        self.left += [(x.detach(), x.detach().clone()) for x in tensors if x is not None]
        self.left = self.left[-20:]

    def follow_state(self, p: Tensor) -> None:
        """Takes the optimizer's state, rounded by a change of type, where it is the reference's as far as that goes."""
        if p not in self.oracle.states:
            return
        expected = self.oracle.states[p]
        state = self.optimizer.state[p]
        single = {name: x.to(torch.complex64 if x.is_complex() else torch.float32) for name, x in state.items()}
        assert float(single.pop("step")) == expected["step"]
        assert_state({name: numpy(x) for name, x in single.items()}, expected, self.oracle.reach.get(p, {}))
        self.oracle.states[p] = {name: array(x) for name, x in state.items()} | {"step": expected["step"]}

    # Steps

    @rule(without=st.sets(anywhere, max_size=2), layout=st.sampled_from(LAYOUTS), again=st.integers(0, 2))
    def step(self, without, layout, again):
        for i, p in enumerate(self.params):
            if p.requires_grad and not {i, i + 50} & without:
                set_gradients([p], self.next_seed())
                p.grad = laid_out(p.grad, layout, p)
        for _ in range(1 + again):
            self.oracle.step()

    @rule()
    def step_in_place(self):
        """Gradients that are overwritten where they are."""
        for p in self.params:
            if p.grad is not None and p.grad.is_contiguous():
                p.grad.mul_(-0.7)
        self.oracle.step()

    @precondition(lambda self: self.compiles)
    @rule()
    def compiled_step(self):
        torch._dynamo.reset()
        compiled = torch.compile(self.optimizer.step, backend="eager")
        for _ in range(2):
            self.oracle.step(compiled)

    # Options

    @rule(group=anywhere, name=anywhere, to=anywhere)
    def set_number(self, group, name, to):
        names = [name for name in self.allowed if self.allowed[name] is not SWITCH]
        values = self.allowed[names[name % len(names)]]
        self.group(group)[names[name % len(names)]] = copy.deepcopy(values[to % len(values)])

    @rule(group=anywhere, names=st.sets(st.sampled_from(SWITCHES), min_size=1, max_size=3))
    def flip_switches(self, group, names):
        for name in names & self.allowed.keys():
            self.group(group)[name] = not self.group(group)[name]

    @rule(group=anywhere, implementation=st.sampled_from(list(IMPLEMENTATIONS)))
    def choose_implementation(self, group, implementation):
        self.group(group).update(IMPLEMENTATIONS[implementation])

    @rule(threads=st.sampled_from([1, 2]))
    def set_threads(self, threads):
        torch.set_num_threads(threads)

    # Parameters and gradients

    @rule(at=anywhere, to=st.sampled_from(DTYPES))
    def move_type(self, at, to):
        """And load the state, which makes it follow."""
        p = self.one(at)
        if p.is_complex() != to.is_complex:
            return
        self.leave(p.data, p.grad)
        p.grad, p.data = None, p.data.to(to, copy=True)
        self.optimizer.load_state_dict(self.optimizer.state_dict())
        for each in self.params:
            self.follow_state(each)

    @rule(at=anywhere, how=st.sampled_from(["same", "transposed", "shifted", "spread"]))
    def move_memory(self, at, how):
        p = self.one(at)
        self.leave(p.data)
        x = p.data.clone()
        if how == "transposed" and x.ndim == 2:
            x = x.t().contiguous().t()
        elif how in ("shifted", "spread"):
            x = laid_out(x, {"shifted": "shifted", "spread": "strided"}[how], x)
        p.data = x

    @rule(at=anywhere)
    def edit(self, at):
        with torch.no_grad():
            self.one(at).mul_(0.5).add_(0.25)

    @rule(at=anywhere, layout=st.sampled_from(LAYOUTS))
    def replace_gradient(self, at, layout):
        p = self.one(at)
        if p.grad is not None:
            self.leave(p.grad)
            p.grad = laid_out(p.grad.clone(memory_format=torch.contiguous_format), layout, p)

    @rule(to_none=st.booleans())
    def zero_grad(self, to_none):
        if not to_none:  # what is expanded cannot be written to
            for p in self.params:
                p.grad = None if p.grad is None else p.grad.contiguous()
        self.optimizer.zero_grad(set_to_none=to_none)

    @rule(at=anywhere)
    def freeze(self, at):
        p = self.one(at)
        p.grad = None
        p.requires_grad_(not p.requires_grad)

    @rule(shape=st.sampled_from(SHAPES), dtype=st.sampled_from(DTYPES))
    def add_group(self, shape, dtype):
        if len(self.groups) < 4:
            self.optimizer.add_param_group({"params": self.parameter(shape, dtype), "lr": 0.02})

    @rule(at=anywhere)
    def remove(self, at):
        group = next((group for group in self.groups if len(group["params"]) > 1), None)
        if group:
            p = group["params"].pop(at % len(group["params"]))
            entry = self.optimizer.state.pop(p, {})
            self.oracle.states.pop(p, None)
            self.leave(p, p.grad, *entry.values())

    @rule(at=anywhere)
    def swap(self, at):
        """Another parameter in its place, with a state of its own, as wrappers do."""
        group = self.group(at)
        i = at % len(group["params"])
        old = group["params"][i]
        self.leave(old, old.grad, *self.optimizer.state.pop(old, {}).values())
        self.oracle.states.pop(old, None)
        group["params"][i] = torch.nn.Parameter(old.detach().clone())

    # State

    @rule(at=anywhere, everything=st.booleans())
    def forget(self, at, everything):
        for p in self.params if everything else [self.one(at)]:
            self.leave(*self.optimizer.state.pop(p, {}).values())
            self.oracle.states.pop(p, None)

    @rule(at=anywhere, whole=st.booleans())
    def move_state(self, at, whole):
        """Other tensors, or other memory behind the same ones."""
        for name, x in self.optimizer.state.get(self.one(at), {}).items():
            self.leave(x.data)
            if whole:
                self.optimizer.state[self.one(at)][name] = x.clone()
            else:
                x.data = x.data.clone()

    @rule(file=st.booleans(), anew=st.booleans())
    def save_and_load(self, file, anew):
        saved = self.optimizer.state_dict()
        if file:
            memory = io.BytesIO()
            torch.save(saved, memory)
            memory.seek(0)
            saved = torch.load(memory, weights_only=True)
        for entry in saved["state"].values():
            self.leave(*entry.values())
        if anew:
            groups = [{"params": list(group["params"])} for group in self.groups]
            self.oracle.optimizer = type(self.optimizer)(groups)
        self.optimizer.load_state_dict(saved)

    @rule()
    def go_on_with_a_copy(self):
        before = self.params
        self.leave(*before, *(x for entry in self.optimizer.state.values() for x in entry.values()))
        self.oracle.optimizer = copy.deepcopy(self.optimizer)
        copies = dict(zip(before, self.params, strict=True))
        self.oracle.states = {copies[p]: state for p, state in self.oracle.states.items() if p in copies}
        self.oracle.reach = {copies[p]: reach for p, reach in self.oracle.reach.items() if p in copies}

    @rule(at=anywhere, to=st.integers(1, 50))
    def count_from(self, at, to):
        p = self.one(at)
        if p in self.oracle.states:
            self.optimizer.state[p]["step"].fill_(to)
            self.oracle.states[p]["step"] = to

    @invariant()
    def what_was_left_stays(self):
        """Also after a step, in walks that take one after every change."""
        if getattr(self, "at_once", False):
            set_gradients([p for p in self.params if p.requires_grad and p.grad is None], self.next_seed())
            self.oracle.step()
        assert all(torch.equal(x, kept) for x, kept in getattr(self, "left", []))

    def teardown(self):
        torch.set_num_threads(1)


class TestSoak(Walk.TestCase):
    """Found by pytest by its name."""


TestSoak.settings = settings(
    max_examples=SOAK or 50,
    stateful_step_count=100 if SOAK else 60,
    derandomize=not SOAK,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSoak = pytest.mark.filterwarnings("ignore")(TestSoak)
