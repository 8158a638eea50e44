"""What the optimizers of the family share: groups and their checks, the step, saving and loading."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief import rule
from adabelief.options import items, never_adaptive, never_adaptive_text
from adabelief.torch import bits, checks, finite, internals, launch, state
from adabelief.torch.compiled import compiled_update
from adabelief.torch.local import local
from adabelief.torch.plan import Plan, Share
from adabelief.torch.update import Options, Recipe, Tensors, update

Group = dict[str, Any]

CHOOSING = (
    *("foreach", "fused", "capturable", "differentiable", "amsgrad", "use_gc", "gc_conv_only", "gc_loc"),
    *("state_bits", "master_weight_bits", "stochastic_rounding"),
)
"""Options that decide what a plan is; the others are read at every step."""

RULE = ("betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd", "max_update")
"""Options that go to `rule.coefficients`, which takes tensors for numbers."""


class Base(Optimizer):
    """An AdaBelief: options live in the groups, scalars in `rule`, the update in `update` and the kernels."""

    # The GradScaler's contract, as for torch's own: it sets them before a step and deletes them after it. What is there
    # already goes into its product, so that a class attribute would be in its way.
    grad_scale: Tensor | float
    """Gradients are divided by it, where it is set."""

    found_inf: Tensor | float
    """The step is skipped where it is set and not 0."""

    _instead: Callable[[], None] | None = None
    """What `step` does in place of `_step_all`, while `release` or `offload` is in force."""

    _state_device: torch.device | None = None
    """Where the state is kept; None for where its parameter is."""

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a class's step as torch does, for hooks and the profiler; where neither is in use, calls go past it.

        What torch does for the profiler costs more than the step of many small tensors.
        """
        hooked = internals.hooked(func)

        @wraps(func)
        def step(self: Base, *args: Any, **kwargs: Any) -> Any:
            return (hooked if internals.watched(self) else func)(self, *args, **kwargs)

        return step

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether the GradScaler leaves unscaling and skipping to the step: where `fused=True`, as for torch's own."""
        return all(group["fused"] for group in self.param_groups)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters; options that it does not name are the constructor's.

        Raises:
            ValueError: If an option is out of its range, a parameter a lazy conjugate, or `fused=True` has no kernel.
        """
        group = self.defaults | (param_group if isinstance(param_group, dict) else {})  # torch says what else is wrong
        self._check(group)
        warned = any(self._never_adaptive(other) for other in self.param_groups)
        super().add_param_group(param_group)
        group = finite.begun(self.param_groups[-1])
        for name in ("betas", "state_bits"):  # as tuples: other types of sequences could not be saved everywhere
            group[name] = items(group[name]) or group[name]
        try:
            checks.check_parameters(group)
        except ValueError:
            self.param_groups.pop()
            raise
        if self._never_adaptive(group) and not warned:
            text = never_adaptive_text(
                float(group["betas"][1]), self._adaptive_from(group), name="betas[1]", instead="rectify=False"
            )
            warnings.warn(text, stacklevel=2)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: If a gradient is sparse, or a CUDA graph is being captured and a group is not `capturable`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (self._instead or self._step_all)()
        return loss

    def _step_all(self) -> None:
        """The step of every parameter that has a gradient."""
        if any(group["params"] and group["params"][0].is_cuda for group in self.param_groups):
            internals.check_graph_capture(self)
        groups, skip = finite.due(self, self._skips_on_device())
        self._step_groups(groups, skip)

    def _step_groups(self, groups: list[Group], skip: Tensor | None = None, kept: Group | None = None) -> None:
        """The step of some groups, or of some parameters of each; their plan is in `kept` from one to the next."""
        if not torch.compiler.is_compiling() and any(map(wanted, groups)):
            self._step_planned(groups, skip, self.__dict__ if kept is None else kept)
        else:
            for group in groups:
                self._step_group(group, skip)

    @property
    def skipped(self) -> int | Tensor:
        """The steps that `skip_nonfinite` has left out: saved and loaded with the groups that asked for it.

        A tensor on their device where that decides (`capturable`), so that nobody waits for it before reading it.
        """
        return finite.skipped(self.param_groups)

    def _skips_on_device(self) -> bool:
        """Whether steps are skipped where the gradients are, so that the host need not wait for what is found there."""
        compiling = torch.compiler.is_compiling()
        return all(
            (compiling or (group["capturable"] and group["params"][0].device.type != "cpu"))
            and not group["differentiable"]
            for group in self.param_groups
            if group["params"]
        )

    def _step_planned(self, groups: list[Group], skip: Tensor | None, kept: Group) -> None:
        """The step of groups of which at least one wants a kernel: by the last plan, or by a new one."""
        lists, choices = [group["params"] for group in groups], [[*map(group.get, CHOOSING)] for group in groups]
        plan: Plan | None = kept.get("_plan")
        held = plan.hold(choices, lists, self.state) if plan else None
        if not held:
            with torch.no_grad():
                shares = [self._share(group) if wanted(group) else None for group in groups]
                gradients = [p.grad for params in lists for p in params]
                plan = kept["_plan"] = Plan(shares, choices, lists, self.state, gradients)
            held = plan.hold(choices, lists, self.state)
        parts = list(plan.parts) if plan and held else [None] * len(groups)
        try:
            for group, part in zip(groups, parts, strict=True):
                if part:
                    part.step(self._recipe(group, skip), group["params"])
                    if part.rest:
                        self._step_group(group | {"params": [group["params"][i] for i in part.rest]}, skip)
                else:
                    self._step_group(group, skip)
        finally:
            if held:
                held.release()

    def _step_group(self, group: Group, skip: Tensor | None) -> None:
        """The step of a group without a plan: in a compiled graph, with foreach, or one tensor after another."""
        compiling, recorded = torch.compiler.is_compiling(), group["differentiable"]
        with torch.set_grad_enabled(recorded):
            tensors, options, recipe = self._tensors(group), self._options(group), self._recipe(group, skip)
            if compiling and wanted(group):
                compiled_update(tensors, recipe, options)
                return
            whole = tensors.params
            if not (compiling or recorded):
                tensors = local(tensors, options)
            update(tensors, recipe, options, foreach=group["foreach"], recorded=recorded, traced=_traced(group))
            if tensors.params is not whole:  # autograd has to notice it on the whole as well
                internals.increment_version(whole)

    def _share(self, group: Group) -> Share | None:
        """What there is in a group for kernels."""
        for p in group["params"]:
            if p.grad is not None and internals.is_plain(p):
                state.follow_layout(self.state[p], p)
        tensors = self._tensors(group)
        stepped = set(map(id, tensors.params))
        positions = [i for i, p in enumerate(group["params"]) if id(p) in stepped]
        return Share(tensors, self._options(group), positions) if positions else None

    def _tensors(self, group: Group) -> Tensors:
        """The tensors of a group's parameters that have a gradient, their state begun where it is missing."""
        tensors = Tensors.empty()
        self._init_group(group, tensors.params, tensors.grads, tensors.steps, *tensors.columns.values())
        return tensors.pick(list(range(len(tensors.params))))  # without the lists of what none of them has

    def _init_group(
        self, group: Group, params: list[Tensor], grads: list[Tensor], steps: list[Tensor], *columns: list[Any]
    ) -> None:
        # torch.compile runs a method of this name, with empty lists as arguments, instead of tracing it.
        for p in group["params"]:
            g = p.grad  # once: another thread may drop it
            if g is None:
                continue
            state.refuse_sparse(g, type(self).__name__)
            state.refuse_conjugate(p)
            entry = state.begin(self.state[p], p, group)
            if group["differentiable"]:
                entry.update({name: x.clone() for name, x in entry.items() if name != state.STEP})
            params.append(p)
            grads.append(g)
            steps.append(entry[state.STEP])
            for (column, name), xs in zip(state.COLUMNS.items(), columns, strict=True):
                xs.append(entry.get(name) if group["amsgrad"] or not column.startswith("s_max") else None)

    def _recipe(self, group: Group, skip: Tensor | None = None) -> Recipe:
        """What the scalars of a group's step follow from, in the form that it needs: numbers, or tensors if traced.

        `skip` is what `finite.due` returns for the groups that asked.
        """
        compiling, traced = torch.compiler.is_compiling(), _traced(group)
        scale = getattr(self, "grad_scale", None)
        gain = -1.0 if group["maximize"] else 1.0
        if scale is not None:
            gain = gain / (
                float(scale) if internals.has_value(scale) and not (traced or group["differentiable"]) else scale
            )
        found: Any = skip if skip is not None and group["skip_nonfinite"] else getattr(self, "found_inf", None)
        place = group["params"][0].device if group["capturable"] and group["params"] else "cpu"  # of the step numbers
        found = found.to(place) if traced and isinstance(found, Tensor) else 0.0
        # a compiler gets tensors, so that the graph serves every number
        convert = _tensor if compiling else _scalar if traced or group["differentiable"] else float
        decay = group["weight_decay"]  # a number says that there is none where it is 0, so it stays one
        numbers = {"lr": convert(group["lr"]), "betas": tuple(map(convert, group["betas"]))}
        numbers["weight_decay"] = convert(decay) if isinstance(decay, Tensor) else decay
        return Recipe(partial(self._coefficients, group, numbers), gain, skip=found)

    def _coefficients(self, group: Group, numbers: dict[str, Any], t: Any, **more: Any) -> rule.Coefficients:
        return rule.coefficients(t, **({name: group[name] for name in RULE} | numbers), **more)

    def _options(self, group: Group) -> Options:
        chosen = {"fused": bool(group["fused"]), "dithered": bool(group["stochastic_rounding"])}
        return Options(capturable=group["capturable"], **chosen)

    def _adaptive_from(self, group: Group) -> float:
        return rule.ADAPTIVE_FROM

    def _never_adaptive(self, group: Group) -> bool:
        return bool(group["rectify"]) and never_adaptive(float(group["betas"][1]), self._adaptive_from(group))

    def _check(self, group: Group) -> None:
        """Raises ValueError for the first option that is out of its range."""
        checks.check(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class, of adabelief-pytorch, timm, ranger-adabelief, torch_ or pytorch_optimizer.

        State keeps the precision in which it was saved or float32, whichever is wider, also for half-precision
        parameters. The options are those of the checkpoint; the ones that other packages do not save (weight_decouple,
        rectify, ...) stay as this optimizer was constructed.

        Raises:
            ValueError: If the groups differ in number or size, or the state is that of another algorithm or model: it
                names the first wrong key, and the optimizer is as it was.
        """
        state.load(self, state_dict, super().load_state_dict)

    def report_per_parameter_metrics(self, param: Tensor, name: str, optimizer_metrics: Group) -> Group:
        """Adds what `Probe` says of a parameter to the metrics of Composer's OptimizerMonitor, which calls this."""
        from adabelief.torch.probe.monitor import metrics  # which stands on this file

        return {**optimizer_metrics, **metrics(self, param, name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults = _defaults(type(self)) | self.defaults  # one pickled by an older version has fewer
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {value}" for name, value in sorted(group.items()) if name != "params"]
            floor = rule.denominator_floor(group["eps"], float(group["betas"][1]))
            lines.append(f"    denominator floor: {floor:.2g} = sqrt(eps / (1 - beta2)) + eps")
            lines += bits.described(group)
        return "\n".join([*lines, ")"])


def _defaults(cls: type[Base]) -> Group:
    """The options that this package's constructors have a default for, of a class or of what it inherits."""
    ours = [each for each in reversed(cls.__mro__) if each.__module__.startswith(__package__)]
    constructors = [vars(each)["__init__"] for each in ours if "__init__" in vars(each)]
    taken = [x for init in constructors for x in inspect.signature(init).parameters.values()]
    return {x.name: x.default for x in taken if x.default is not x.empty and not x.name.startswith("_")}


def wanted(group: Group) -> bool:
    """Whether a group's step is to go through a kernel, as far as there is one for its tensors."""
    if group["fused"] is not None:
        return bool(group["fused"])
    if group["foreach"] is not None or group["differentiable"] or not group["params"]:
        return False
    device = group["params"][0].device.type
    return device in launch.BY_DEFAULT and launch.unserved(device) is None


def _traced(group: Group) -> bool:
    """Whether what follows from the step number is computed by torch, as tensors."""
    learned = group["differentiable"] and any(isinstance(beta, Tensor) for beta in group["betas"])
    return bool(group["capturable"] or torch.compiler.is_compiling() or learned)


def _tensor(x: Any) -> Tensor:
    """A number as a tensor that a compiled graph takes for any number."""
    return _scalar(x) if isinstance(x, Tensor) else torch.zeros((), dtype=torch.float64, device="cpu") + x  # type: ignore[no-any-return]


def _scalar(x: Any) -> Any:
    """A tensor of one element without dimensions, in double precision where its device has that; a number as it is."""
    if not isinstance(x, Tensor):
        return float(x)
    return x.reshape(()) if x.device.type == "mps" else x.reshape(()).double()
