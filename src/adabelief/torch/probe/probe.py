"""The probe: it looks at a sample of every parameter now and then, and says what the optimizer is."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.options import K, check, check_path
from adabelief.torch import internals
from adabelief.torch.probe import compiled, show
from adabelief.torch.probe.measure import Layer, Measured, describe, flags, measured, verdict
from adabelief.torch.probe.notes import notes
from adabelief.torch.probe.ranks import Exchange
from adabelief.torch.probe.sample import is_readable, seen, take

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

LINGER = 2.0
"""Seconds for which the end waits for what other processes are about to post, and no longer."""

_handles = itertools.count(1)


class Probe:
    r"""Says whether an optimizer is adaptive with its eps, and what else its state tells: why is it slow, or just SGD?

    In every `every`-th step it samples gradient, m, s and weights, element by element, after the update. With the
    bias-corrected ŝ = s/(1 − beta2^t), of which eps/(1 − beta2) is eps and v = ŝ − eps/(1 − beta2) the element's own,
    an element is *ruled by eps* where

        √v < √(eps/(1 − beta2)),         that is, where eps makes up more than half of ŝ.

    There the step is next to that of momentum SGD with lr/√(eps/(1 − beta2)). For torch's Adam and AdamW, which can be
    probed for comparison, the same is √v̂ < eps. Turned round, it gives the eps at which a share of the elements would
    be adaptive. Elements whose gradients have always been 0 are counted apart.

    `report()` has, for all parameters, by group and by layer: `elements`, `sampled`, `eps`, `floor`; the shares
    `ruled_by_eps`, `zero`, `constant`, `thresholded` (exactly at ±c, the largest gradient: clipped by value),
    `not_finite`; by percents the quantiles of `denominator`, `residual` = |g − m|/|g| and `step` = |m̂|/denominator
    (which `max_update` bounds); `update_to_weight`, the norm of lr · step over that of the weights; `adaptive_eps`, the
    eps at or below which 1, 50, 90 and 99 % of the elements are adaptive; and `histogram`s of the denominator and of
    √v, in quarters of a decade. None stands for what cannot be said (|g − m| at beta1 = 0).

    It works with every implementation, under torch.compile (as an operator of the graph, for which a step is compiled
    once more at each entry) and with distributed tensors (FSDP2, tensor parallelism): each process samples its part and
    leaves it in the store of the process group, where the others look without waiting. Outside the `with` there is no
    hook.

    Args:
        optimizer: AdaBelief, AdaBeliefW, RangerAdaBelief, or torch's Adam or AdamW.
        every: Steps from one look to the next.
        named_parameters: `model.named_parameters()`, for the names of layers; by default those that the optimizer was
            constructed with, or else places such as `0.3`.
        sample: Elements of a tensor, at most; the same ones every time.
        jsonl: File to which every report is appended, a line of JSON each; by the process of rank 0.
        writer: TensorBoard's `SummaryWriter`, or what else has `add_scalar(name, value, step)`.

    Raises:
        ValueError: If `every` or `sample` is no whole number from 1 upwards, or `jsonl` is no path.
        TypeError: For an optimizer that it cannot read, and for names that are none.
        FileNotFoundError: If there is no folder for the file.

    Warns:
        UserWarning: Once for each kind of gradient that no eps helps: thresholded, constant, always 0.

    Example:
        >>> import torch
        >>> from adabelief import AdaBelief
        >>> weight = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = AdaBelief([weight], eps=1e-8)
        >>> with Probe(optimizer, every=5) as probe:
        ...     for step in range(10):
        ...         weight.grad = torch.tensor([1e-4, -1e-4, 3e-4, 2e-4]) * (-1) ** step
        ...         optimizer.step()
        >>> print(probe.verdict)  # doctest: +NORMALIZE_WHITESPACE
        100 % of the elements are ruled by eps: this is momentum SGD;
        eps <= 1e-12 would be adaptive (for 90 % of them).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        every: int = 100,
        *,
        named_parameters: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None = None,
        sample: int = 1024,
        jsonl: str | os.PathLike[str] | None = None,
        writer: Any = None,
    ) -> None:
        check("every", every, *K)
        check("sample", sample, *K)
        if not is_readable(optimizer):
            inner = getattr(optimizer, "optimizer", None)
            remedy = "pass its .optimizer" if is_readable(inner) else "pass one of these"
            raise TypeError(
                "optimizer must be AdaBelief, AdaBeliefW, RangerAdaBelief, or torch's Adam or AdamW, got "
                f"{type(optimizer).__name__}; {remedy}"
            )
        if writer is not None and not hasattr(writer, "add_scalar"):
            raise TypeError(f"writer must have add_scalar, got {writer!r}; pass TensorBoard's SummaryWriter")
        self.optimizer, self.every = optimizer, int(every)
        self.steps = 0
        """Steps that it has counted; whoever goes on from a checkpoint sets it."""
        self.looks = 0
        """How often it has looked."""
        self._names = _names(named_parameters)
        file = None if jsonl is None else check_path("jsonl", jsonl)
        if file and not file.absolute().parent.is_dir():  # the first look may be hours away
            raise FileNotFoundError(f"jsonl={str(jsonl)!r}: there is no folder {file.parent}; make it")
        self._sample, self._jsonl, self._writer = int(sample), file, writer
        self._indices: dict[Any, Tensor] = {}
        self._layers: list[Layer] | None = None
        self._pending, self._due = False, False
        self._exchange: Exchange | None = None
        self._said: set[str] = set()
        self._hook: Any = None
        self._handle, self._tick = next(_handles), torch.zeros(())

    def __enter__(self) -> Probe:
        if self._hook is not None:
            raise RuntimeError("this Probe is already entered; leave it first, or make another one")
        compiled.enrol(self._handle, self._count)
        self._hook = self.optimizer.register_step_post_hook(self._after_step)
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._hook.remove()
        self._hook = None
        compiled.enrol(self._handle, None)
        self._settle(linger=0.0 if kind else LINGER)

    @property
    def verdict(self) -> str:
        """One line: what the optimizer is with its eps, and which eps would change that."""
        if self._layers is None and self._due:
            return f"nothing was probed yet: in {self.steps} steps no parameter had a gradient; call backward first."
        if self._layers is None:
            return (
                f"nothing was probed yet: {self.steps} steps so far, and every={self.every}; train longer, or look "
                "more often."
            )
        return str(self.report()["verdict"])

    def report(self) -> dict[str, Any]:
        """The latest look, as a dict that JSON takes; empty before the first.

        Of distributed tensors it has what other processes have posted by now: `processes` says how many of how many.
        """
        if self._layers is None:
            return {}
        layers, have = self._merged()
        parts = [*map(measured, layers)]
        groups: dict[str, list[Measured]] = defaultdict(list)
        for part in parts:
            groups[part[0].group].append(part)
        by_group = {name: describe(each) for name, each in groups.items()}
        by_layer = {part[0].name: describe([part]) for part in parts}
        everything = describe(parts) if len(groups) > 1 else next(iter(by_group.values()), {})
        found = {
            "step": max((layer.step for layer in layers), default=0),
            "optimizer": type(self.optimizer).__name__,
            "processes": [have, self._processes],
            "verdict": verdict(everything) if everything else "this process has no part of what was sampled.",
            "notes": [*notes(by_layer).values()],
            "all": everything,
            "groups": {name: {"verdict": verdict(stats), **stats} for name, stats in by_group.items()},
            "layers": {
                name: {key: x for key, x in stats.items() if key != "histogram"} for name, stats in by_layer.items()
            },
        }
        return _for_json(found)  # type: ignore[no-any-return]

    def table(self) -> Table:
        """The latest report as a table of rich."""
        return show.table(self.report())

    def picture(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the distribution of the denominator, with the floor, by matplotlib.

        Args:
            path: File to save it to, as PNG, SVG or what else the name ends in.
        """
        figure = show.picture(self.report())
        if path is not None:
            figure.savefig(check_path("path", path))
        return figure

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            compiled.observe(optimizer, self._tick, self._handle)
        else:
            self._count()

    def _count(self, columns: Sequence[Sequence[Tensor]] | None = None) -> None:
        """Counts a step, and looks where it is time; `columns` is what a compiled step hands over."""
        self.steps += 1
        self._due = self._due or self.steps % self.every == 0
        if not self._due:
            return
        found = seen(self.optimizer, columns)
        if not found:  # a step without gradients, or skipped by a GradScaler before any other: look at the next one
            return
        self._due = False
        self._settle()
        self._layers = take(self.optimizer, found, self._name, self._sample, self._indices)
        self.looks, self._pending = self.looks + 1, True
        if self.looks == 1:
            self._meet()
        if self._exchange:
            self._exchange.post(self.looks, self._layers)
        else:
            self._settle()

    def _meet(self) -> None:
        """Looks who else has parts of the same tensors."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        ranks = {rank for p in params if internals.is_distributed(p) for rank in internals.ranks(p)}
        if len(ranks) > 1:
            shapes = [tuple(p.shape) for p in params]
            self._exchange = Exchange(f"{self.every} {self._sample} {shapes}", ranks)

    @property
    def _processes(self) -> int:
        return 1 + len(self._exchange.others) if self._exchange else 1

    def _merged(self) -> tuple[list[Layer], int]:
        """The latest look with what others have posted of it, and how many processes that is."""
        layers = self._layers or []
        return self._exchange.collect(self.looks, layers) if self._exchange else (layers, 1)

    def _settle(self, *, linger: float = 0.0) -> None:
        """Tells of the latest look what is to be told of each, with what others have posted by then."""
        if not self._pending or (internals.in_process_group() and torch.distributed.get_rank()):
            return
        self._pending = False
        if self._jsonl is not None or self._writer is not None:
            end = time.monotonic() + linger
            while time.monotonic() < end and self._merged()[1] < self._processes:
                time.sleep(0.02)
            record = self.report()
            if self._jsonl is not None:
                with open(self._jsonl, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            for name, value in show.scalars(record).items() if self._writer is not None else ():
                self._writer.add_scalar(name, value, record["step"])
        parts = map(measured, self._layers or ())
        for kind, text in notes({part[0].name: flags([part]) for part in parts}).items():
            if kind not in self._said:
                self._said.add(kind)
                warnings.warn(f"{type(self.optimizer).__name__}: {text}", stacklevel=2)

    def _name(self, i: int, j: int) -> tuple[str, str]:
        """The names of a parameter and of its group."""
        group = self.optimizer.param_groups[i]
        own = group.get("param_names") or ()
        name = self._names.get(id(group["params"][j])) or (own[j] if j < len(own) else f"{i}.{j}")
        return name, str(group.get("name", i))


def _names(given: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None) -> dict[int, str]:
    """The name of each parameter, by its id; as it is without torch.compile."""
    given = given.items() if isinstance(given, Mapping) else given or ()
    pairs = [*given] if isinstance(given, Iterable) else [given]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(
                f"named_parameters must be pairs of a name and a parameter, got {type(pair).__name__}; pass "
                "model.named_parameters()"
            )
    return {id(p): name.replace("_orig_mod.", "") for name, p in pairs}


def _for_json(x: Any) -> Any:
    """The same with None for what is no finite number: JSON has neither nan nor infinity."""
    if isinstance(x, dict):
        return {key: _for_json(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_for_json(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
