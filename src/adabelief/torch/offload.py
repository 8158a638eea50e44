"""CPU offload: the state lives on the CPU and is stepped there, while weights and gradients come and go in batches."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabelief.options import MIB, check
from adabelief.torch import checks, finite, internals, state
from adabelief.torch.base import Base, Group
from adabelief.torch.handle import Handle, unchanged

CPU = torch.device("cpu")

SLOTS = 3
"""Batches under way: one on its way here, one being stepped, one on its way back."""

ALIGNMENT = 64
"""Bytes; of what is staged."""


def offload(optimizer: Optimizer, *, batch_mib: float = 64) -> Offload:
    r"""Keeps the state on the CPU and steps there, with the kernel in C, so that a GPU has weights and gradients only.

    A step takes the parameters in batches. Weights and gradients of a batch are copied to the CPU, stepped there, and
    the weights copied back, while the batch before is on its way back and the one after is on its way here (on CUDA by
    two streams and through pinned memory; elsewhere by plain copies). For n parameters of w bytes each the device then
    holds none of

        8 n bytes        of m and s (2.01 n with `state_bits=8`), and 1 n or 2 n of the rests of 24- and 32-bit weights,

    and the CPU holds these and 3 · max(batch_mib, weight and gradient of the largest parameter); 3 w n bytes go over
    the bus in every step. `step()` returns when the last batch was stepped; its copies back are ordered before whatever
    the device does next.

    It remains the same optimizer, with the same `param_groups` (schedulers work), hooks and `state_dict`, which loads
    into one that is not offloaded and back. Gradients stay on their device: clipping, accumulation, a GradScaler and
    `skip_nonfinite` work. The weights are those that the optimizer would give on the CPU.

    Args:
        optimizer: An AdaBelief, AdaBeliefW or RangerAdaBelief; the state that it has moves to the CPU.
        batch_mib: Weights and gradients, in MiB, that are copied together; a larger parameter goes by itself.

    Returns:
        A handle; its `remove()`, or the end of a `with` block, moves the state to the parameters and ends it.

    Raises:
        TypeError: For other optimizers.
        ValueError: If `batch_mib` is no number above 0, `capturable` or `differentiable` is chosen, a parameter is
            distributed or of another package's type, two of them share memory, or the optimizer is already released
            or offloaded.
        RuntimeError: From `step`, for sparse gradients, and inside torch.compile.

    Source: Ren et al., "ZeRO-Offload: Democratizing Billion-Scale Model Training", USENIX ATC 2021.

    Example:
        >>> from adabelief import AdaBeliefW
        >>> model = torch.nn.Linear(4, 1)  # .cuda(), where there is a GPU
        >>> optimizer = AdaBeliefW(model.parameters(), lr=0.1)
        >>> with offload(optimizer):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(2, 4)).sum().backward()
        ...         optimizer.step()
        >>> int(optimizer.state[model.weight]["step"])
        3
    """
    check("batch_mib", batch_mib, *MIB)
    return Offload(unchanged(optimizer), int(batch_mib * 2**20))


class Batch(NamedTuple):
    """Parameters that are stepped together."""

    slot: int
    """Which of the `SLOTS` they use."""
    params: list[Tensor]
    copies: list[Tensor]
    """What is stepped in their place: with gradients, on the CPU."""
    groups: list[int]
    """The places of their groups."""
    kept: dict[str, Any]
    """What the optimizer keeps of the batch from one step to the next."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.params[0].device


class Offload(Handle):
    """What `offload` returns."""

    def __init__(self, optimizer: Base, batch_bytes: int) -> None:
        super().__init__(optimizer)
        self._batch_bytes = batch_bytes
        self._twin = copy.copy(optimizer)
        """The optimizer of the copies: with the same groups and, by copy, the same state."""
        self._batches: list[Batch] = []
        self._signature: list[Any] = []
        """What the batches were made for."""
        self._refuse()
        _refuse_overlapping([p for group in optimizer.param_groups for p in group["params"]])
        optimizer._instead, optimizer._state_device = self._step, CPU
        self._move(CPU)

    def remove(self) -> None:
        """Moves the state to the parameters and ends it. A second call does nothing."""
        if self.in_force:
            del self.optimizer._state_device
            super().remove()
            self._move(None)
            self._batches, self._signature = [], []

    def _move(self, place: torch.device | None) -> None:
        """Moves the state, but for step numbers, to a device, or each entry to its parameter's."""
        for p, entry in self.optimizer.state.items():
            entry.update({name: x.to(place or p.device) for name, x in entry.items() if name in state.COLUMNS.values()})

    def _refuse(self) -> None:
        """Raises ValueError for what cannot be stepped on the CPU."""
        for group in self.optimizer.param_groups:
            checks.refuse(
                group,
                ("capturable", "differentiable"),
                "a step on the parameters' device, and offload makes it on the CPU",
                ", or train without offload",
            )
            for p in group["params"]:
                if not internals.is_plain(p):
                    raise ValueError(
                        f"params: one of shape {tuple(p.shape)} is a {type(p).__name__}, and offload copies plain "
                        "tensors only; for FSDP2 use fully_shard(..., offload_policy=CPUOffloadPolicy())"
                    )

    def _step(self) -> None:
        """What `optimizer.step()` does, after its closure."""
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "offload: a compiled step cannot wait for copies; compile the model instead of the step, or call "
                "remove() of what offload(optimizer) returned"
            )
        self._refuse()
        groups, _ = finite.due(self.optimizer, on_device=False)
        with torch.no_grad():
            self._arrange(groups)
            self._twin.__dict__.pop("grad_scale", None)
            if hasattr(self.optimizer, "grad_scale"):
                self._twin.grad_scale = self.optimizer.grad_scale
            self._twin.param_groups = self.optimizer.param_groups
            pairs = [pair for batch in self._batches for pair in zip(batch.params, batch.copies, strict=True)]
            self._twin.state = defaultdict(dict, {q: self.optimizer.state[p] for p, q in pairs})  # before any plan
            copying = Copying(self._batches)
            for batch, after in pairwise([None, *self._batches, None]):
                if after:
                    copying.fetch(after)
                if batch:
                    copying.arrived(batch)
                    groups = self._parts_of_groups(zip(batch.groups, batch.copies, strict=True))
                    self._twin._step_groups(groups, kept=batch.kept)
                    copying.give_back(batch)
            copying.finish()

    def _arrange(self, groups: list[Group]) -> None:
        """Sorts parameters that have a gradient into batches and makes room for their copies, if that is not done."""
        places = {id(group): i for i, group in enumerate(self.optimizer.param_groups)}
        due = [(places[id(group)], p) for group in groups for p in group["params"] if p.grad is not None]
        for _, p in due:
            state.refuse_sparse(p.grad, type(self.optimizer).__name__)
        signature = [(i, id(p), p.device, p.dtype, p.shape, p.stride()) for i, p in due]
        if signature == self._signature:
            return
        _refuse_overlapping([p for _, p in due])
        self._signature, self._batches = [], []
        parts = list(_batches(due, self._batch_bytes))
        sizes = [sum(map(_room, (p for _, p in part))) for part in parts]
        pinned = any(p.is_cuda for _, p in due)
        rooms = [max(sizes[k::SLOTS]) for k in range(min(SLOTS, len(parts)))]
        slots = [torch.empty(room, dtype=torch.uint8, pin_memory=pinned) for room in rooms]
        for k, part in enumerate(parts):
            copies = list(_copies([p for _, p in part], slots[k % SLOTS]))
            self._batches.append(Batch(k % SLOTS, [p for _, p in part], copies, [i for i, _ in part], {}))
        self._signature = signature


class Copying:
    """Copies to the CPU and back: on CUDA by streams of their own, elsewhere at once."""

    def __init__(self, batches: list[Batch]) -> None:
        devices = {batch.device for batch in batches if batch.device.type == "cuda"}
        stream: Any = torch.cuda.Stream
        self._streams = {device: (stream(device), stream(device)) for device in devices}
        self._fetched: dict[int, torch.cuda.Event] = {}
        self._given_back: dict[int, torch.cuda.Event] = {}
        for fetching, _ in self._streams.values():
            for device in devices:  # of all, since their copies back of the step before may still be in the slots
                fetching.wait_stream(torch.cuda.current_stream(device))

    def fetch(self, batch: Batch) -> None:
        """Begins to copy weights and gradients to the CPU, as soon as nothing is on its way back from there."""
        streams = self._streams.get(batch.device)
        there, here = ([*xs, *(x.grad for x in xs if x.grad is not None)] for xs in (batch.params, batch.copies))
        with torch.cuda.stream(streams[0]) if streams else nullcontext():
            if streams and batch.slot in self._given_back:
                streams[0].wait_event(self._given_back[batch.slot])
            _copy(here, there)
            if streams:
                self._fetched[batch.slot] = streams[0].record_event()

    def arrived(self, batch: Batch) -> None:
        """Waits until the weights and gradients are there."""
        if batch.device in self._streams:
            self._fetched[batch.slot].synchronize()

    def give_back(self, batch: Batch) -> None:
        """Begins to copy the weights back."""
        streams = self._streams.get(batch.device)
        with torch.cuda.stream(streams[1]) if streams else nullcontext():
            _copy(batch.params, batch.copies)
            if streams:
                self._given_back[batch.slot] = streams[1].record_event()

    def finish(self) -> None:
        """Orders all that before what the devices do next."""
        for device, (_, giving) in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(giving)


def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    for x, y in zip(to, of, strict=True):
        x.copy_(y, non_blocking=True)


def _batches(due: list[tuple[int, Tensor]], limit: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Parameters with the places of their groups, each batch of one device and no larger than the limit."""
    batch: list[tuple[int, Tensor]] = []
    size = 0
    for i, p in due:
        if batch and (size + _room(p) > limit or p.device != batch[0][1].device):
            yield batch
            batch, size = [], 0
        batch.append((i, p))
        size += _room(p)
    if batch:
        yield batch


def _refuse_overlapping(params: list[Tensor]) -> None:
    """Raises ValueError for parameters that share memory, of whose copies one would undo the step of the other."""
    places = []
    for p in params:
        if p.numel() and p.device.type != "meta":
            last = sum(stride * (size - 1) for stride, size in zip(p.stride(), p.shape, strict=True))
            places.append((str(p.device), p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size(), tuple(p.shape)))
    for (device, _, end, shape), (other, begin, _, its) in pairwise(sorted(places)):
        if device == other and begin < end:
            raise ValueError(
                f"params: those of shapes {shape} and {its} share memory, and offload steps a copy of each; give the "
                "optimizer the tensor that they are views of, or train without offload"
            )


def _room(p: Tensor) -> int:
    """Bytes of a copy of a weight and its gradient."""
    return 2 * -(-p.numel() * p.element_size() // ALIGNMENT) * ALIGNMENT


def _copies(params: list[Tensor], slot: Tensor) -> Iterator[Tensor]:
    """Room for parameters and their gradients in a slot, laid out as they are, without gaps."""
    begin = 0
    for p in params:
        strides, size = torch.empty_like(p, device="meta").stride(), p.numel() * p.element_size()
        weight, gradient = (
            slot[at : at + size].view(p.dtype).as_strided(p.shape, strides) for at in (begin, begin + _room(p) // 2)
        )
        weight.grad = gradient
        begin += _room(p)
        yield weight
