"""The step through kernels: a plan of addresses, made once, and at every step the proof that it still holds.

The kernels read and write raw memory. Before every step a plan therefore compares whatever an address depends on with
what it was made from: the parameters of every group, the options that choose a kernel, the state's tensors, and the
address, type, size and layout of every parameter, state tensor and gradient. Gradients that moved are followed; for
anything else that changed, a new plan is made. What fits no kernel (a gradient of another layout, a subclass of Tensor,
...) is left to others. Between steps a plan keeps no tensor alive (but for step numbers that a GPU counts), and while a
kernel runs all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from adabelief.kernels import cpu
from adabelief.torch import internals, storage
from adabelief.torch.launch import OnCpu, OnGpu, kernel_for, overlapping
from adabelief.torch.local import local
from adabelief.torch.proof import Held, Proof
from adabelief.torch.update import Options, Recipe, Tensors


class Share(NamedTuple):
    """What a group asks a plan for."""

    tensors: Tensors
    options: Options
    positions: list[int]
    """Where the tensors' parameters are in the group's list."""


class Part:
    """A group's part of a plan: what its kernels step, and what is left to others."""

    def __init__(self, share: Share) -> None:
        tensors, options = local(share.tensors, share.options), share.options
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, p in enumerate(tensors.params):
            kind = kernel_for(tensors, i, options)
            if kind:  # those of one launch have one row of scalars, and so one step number
                number = None if kind is OnGpu and options.capturable else tensors.steps[i].item()
                alike[kind, p.device, p.dtype.to_real(), storage.flags(tensors.at(i), options), number].append(i)
        if any(overlapping(tensors, indices) for indices in alike.values()):
            alike.clear()
        self.launches: list[OnCpu | OnGpu] = [kind(tensors, each, options) for (kind, *_), each in alike.items()]
        stepped = [i for indices in alike.values() for i in indices]
        self.moving = [share.tensors.params[i] for i in stepped]
        """The parameters that it steps, until the plan is made."""
        self.stepped = [share.positions[i] for i in stepped]
        """Where they are in the group's list."""
        self.rest = sorted(set(share.positions) - set(self.stepped))
        """Where those are that it leaves to others."""
        self.numbers: Any = ()
        """The step numbers of the launches."""

    def step(self, recipe: Recipe, params: list[Tensor]) -> None:
        """Applies the step that was counted, to everything but the rest of the group's parameters."""
        for launch, t in zip(self.launches, self.numbers, strict=True):
            launch.step(recipe, t)
        # so that autograd notices, as after any in-place operator
        all_of_them = len(self.stepped) == len(params)
        internals.increment_version(params if all_of_them else [params[i] for i in self.stepped])


class Plan:
    """The addresses of everything that the next step touches."""

    def __init__(
        self,
        shares: Sequence[Share | None],
        choices: Any,
        lists: list[list[Tensor]],
        state: dict[Any, Any],
        gradients: Sequence[Tensor | None],
    ) -> None:
        """Plans the step of some groups.

        Args:
            shares: What each group has for kernels; None for nothing.
            choices: All that the shares follow from beside tensors; compared by ==.
            lists: The parameters of each group.
            state: The state's tensors by parameter and name.
            gradients: Of all parameters of the lists, in their order.
        """
        self.parts = [Part(share) if share else None for share in shares]
        parts = [part for part in self.parts if part]
        self._choices, self._launches = choices, [launch for part in parts for launch in part.launches]
        self._steps = cpu.Steps([launch.counted for launch in self._launches])
        moving = list(chain.from_iterable(part.moving for part in parts))
        counts = np.cumsum([0, *(len(part.launches) for part in parts)])
        for part, begin, end in zip(parts, counts[:-1], counts[1:], strict=True):
            part.numbers, part.moving = self._steps.numbers[begin:end], []
        self._proof = Proof(lists, state, moving, gradients)

    def hold(
        self,
        choices: Any,
        lists: list[list[Tensor]],
        state: dict[Any, Any],
        gradients: list[Tensor] | None = None,
    ) -> Held | None:
        """Holds every tensor that the step is to touch and counts the step, if the plan holds; else does nothing.

        Args:
            choices: As they are now.
            lists: As they are now.
            state: As it is now.
            gradients: Of all parameters; None where each is its parameter's attribute.
        """
        held = self._proof.holds(lists, state, gradients) if choices == self._choices else None
        if held is None:
            return None
        if self._proof.moved:
            addresses = iter(self._proof.gradients.tolist())
            for launch in self._launches:
                launch.follow(list(islice(addresses, len(launch.indices))))
        if not self._launches or self._steps.count():
            return held
        held.release()  # the numbers of a launch are no longer alike
        return None
