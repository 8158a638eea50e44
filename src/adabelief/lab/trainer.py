"""One step of an optimizer, on the devices and processes at hand.

With several processes every one takes its share of each batch, weighted by its size, so that a step is that of one
process with the same batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer


class Moment(NamedTuple):
    """A point in a run: `epoch` finished ones of `epochs`, `step` finished ones of all `steps`."""

    epoch: int
    epochs: int
    step: int
    steps: int = 0


HELD_OUT = ("validation", "test")
"""What is not trained on."""


class Trainer:
    """What a run's steps and evaluations work with: modules and optimizers, on the devices and processes at hand.

    Args:
        modules: What is trained, by name. They are replaced, in this very dictionary, by what the accelerator makes of
            them.
        optimizers: The optimizer of each module, by the module's name.
        accelerator: The devices and processes.
        accumulate: Parts into which each process splits its share of a batch.
        epochs: Epochs of the run.
        max_norm: Clip a module's gradient to this norm before every step; 0 for never.
        clip_value: Cut every element of a gradient to ± this before every step; 0 for never.

    Attributes:
        optimizer_seconds: The time of every step of an optimizer so far.
        moment: Where the run is.
        held_out: The parts that an evaluation is to read: "validation" and "test", or one of them.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        accelerator: Accelerator,
        *,
        accumulate: int,
        epochs: int,
        max_norm: float = 0.0,
        clip_value: float = 0.0,
    ) -> None:
        self.modules, self.accelerator, self.accumulate = modules, accelerator, accumulate
        self._max_norm, self._clip_value = max_norm, clip_value
        self.optimizers: dict[str, Any] = {}
        self.optimizer_seconds: list[float] = []
        self.moment = Moment(0, epochs, 0)
        self.held_out: tuple[str, ...] = HELD_OUT
        for name, optimizer in optimizers.items():
            modules[name], self.optimizers[name] = accelerator.prepare(modules[name], optimizer)
        self._full_lr = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in self.optimizers.items()
        }

    def set_lr(self, factor: float) -> None:
        """Sets every learning rate to a multiple of the configured one."""
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self._full_lr[name], strict=True):
                group["lr"] = factor * lr

    def descend(self, name: str, batch: Any, loss: Callable[[Any], Tensor]) -> Tensor:
        """One step of a module's optimizer, on gradients that are clipped as the run has it.

        Args:
            name: The module's name.
            batch: A tuple of tensors, the examples along the first dimension.
            loss: The mean loss over a part of a batch.

        Returns:
            The mean loss over the whole batch.
        """
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        size, module = len(batch[0]), self.modules[name]
        parts = list(_split(batch, processes * self.accumulate))[rank::processes]
        total = torch.zeros((), device=self.accelerator.device)
        for i, part in enumerate(parts):
            weight = len(part[0]) / size
            part = part if weight else _split_first(batch)  # every process has to take part in the exchange
            with self.accelerator.no_sync(module) if i + 1 < len(parts) else nullcontext():
                with self.accelerator.autocast():
                    value = loss(self.to_device(part))
                self.accelerator.backward(value * (weight * processes))
            total += value.detach().float() * weight
        optimizer = self.optimizers[name]
        if self._max_norm:
            self.accelerator.clip_grad_norm_(module.parameters(), self._max_norm)
        if self._clip_value:
            self.accelerator.clip_grad_value_(module.parameters(), self._clip_value)
        start = time.perf_counter()
        optimizer.step()
        self.optimizer_seconds.append(time.perf_counter() - start)
        optimizer.zero_grad()
        return self.sum(total)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        device = self.accelerator.device
        dtype = torch.float32 if device.type == "mps" else value.dtype
        summed: Tensor = self.accelerator.reduce(value.to(device, dtype), "sum")
        return summed

    def to_device(self, batch: Any) -> Any:
        """A batch on the device of the modules."""
        return type(batch)(*(x.to(self.accelerator.device, non_blocking=True) for x in batch))

    @contextmanager
    def evaluating(self) -> Iterator[dict[str, nn.Module]]:
        """The modules in evaluation mode, without gradients, in the precision of the run.

        They are those of this process alone, so that each may see as many batches as it likes; their buffers (the
        averages of batch normalization) are those of the main process.
        """
        modules = {name: self.bare(module) for name, module in self.modules.items()}
        for module in modules.values():
            module.eval()
            if self.accelerator.num_processes > 1:
                for buffer in module.buffers():
                    torch.distributed.broadcast(buffer, 0)
        with torch.no_grad(), self.accelerator.autocast():
            yield modules
        for module in modules.values():
            module.train()

    def bare(self, module: nn.Module) -> nn.Module:
        """A module without what was wrapped around it for several processes."""
        bare: nn.Module = self.accelerator.unwrap_model(module)
        return bare


def _split(batch: Any, parts: int) -> Iterator[Any]:
    if parts == 1:
        yield batch
        return
    yield from (type(batch)(*part) for part in zip(*(x.tensor_split(parts) for x in batch), strict=True))


def _split_first(batch: Any) -> Any:
    return type(batch)(*(x[:1] for x in batch))
