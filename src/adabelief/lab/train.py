"""The engine: one run from its first step, or from its last checkpoint, to its result.

Whatever decides the numbers is a function of the configuration: a run that was killed at any moment and started again
ends with the numbers of an undisturbed one, to the last bit on a CPU. The learning rate is a function of the moment,
the batches are a function of seed and epoch, and the checkpoint has the rest. With several processes every one takes
its share of each batch, weighted by its size, so that a step is that of one process with the same batch.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor, nn

from adabelief.lab import files, optimizers
from adabelief.lab.runs import Config, Folder, environment
from adabelief.lab.tasks import Experiment, Moment, Request, Task

WARM_UP = 3
"""Steps at the start of every part of a run whose times are not counted."""

LINES_PER_EPOCH = 50
"""Steps of an epoch that have a line in the metrics, at most."""


class Progress(NamedTuple):
    """Where a run is, for whoever watches."""

    epoch: int
    step: int
    steps: int
    loss: float
    step_seconds: float
    latest: Mapping[str, Any]
    """The metrics of the last epoch that is finished."""


class Trainer:
    """What an experiment's steps and evaluations work with: its optimizers, on the devices and processes at hand."""

    def __init__(self, experiment: Experiment, config: Config, accelerator: Accelerator) -> None:
        self.accelerator, self.accumulate = accelerator, config.accumulate
        self.optimizers: dict[str, Any] = {}
        self.optimizer_seconds: list[float] = []
        self.moment = Moment(0, config.epochs, 0)
        for name, module in experiment.modules.items():
            optimizer = optimizers.build(config.optimizer, module.parameters(), config.settings)
            experiment.modules[name], self.optimizers[name] = accelerator.prepare(module, optimizer)
        self.modules = experiment.modules
        self._base = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in self.optimizers.items()
        }

    def set_lr(self, factor: float) -> None:
        """Sets every learning rate to a multiple of the configured one."""
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self._base[name], strict=True):
                group["lr"] = factor * lr

    def descend(self, name: str, batch: Any, loss: Callable[[Any], Tensor], *, max_norm: float | None = None) -> Tensor:
        """One step of a module's optimizer.

        Args:
            name: Of the module.
            batch: A tuple of tensors, the examples along the first dimension.
            loss: The mean loss over a part of a batch.
            max_norm: Clip the gradient's norm to this first.

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
        if max_norm is not None:
            self.accelerator.clip_grad_norm_(module.parameters(), max_norm)
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


def train(
    task: Task,
    config: Config,
    folder: Folder,
    accelerator: Accelerator,
    *,
    data: Path | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    checkpoint_seconds: float = 60.0,
    board: Any = None,
) -> dict[str, Any]:
    """Runs what is left of a run and returns its result; of a finished run, that which it has.

    Args:
        task: The task that the configuration names.
        config: What to run.
        folder: Where; the caller keeps other processes out of it.
        accelerator: The devices and processes.
        data: Where the task's data is, if it needs any.
        watch: Called after every step of the main process.
        checkpoint_seconds: At least this long between two checkpoints within an epoch; there is one after each epoch.
        board: A TensorBoard writer, or None.

    Raises:
        ValueError: If the folder has a run of another configuration, or the task refuses its options or its data.
        OSError: If the data cannot be read or a file cannot be written.
    """
    finished, threads = folder.result.exists(), torch.get_num_threads()
    (finished,) = broadcast_object_list([finished])
    if accelerator.is_main_process:
        folder.claim(config)
    if finished:
        result: dict[str, Any] = json.loads(folder.result.read_text())
        return result
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if task.threads and accelerator.device.type == "cpu":
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(task.threads)
        set_seed(config.seed)
        request = Request(config.model, config.seed, config.batch_size, config.options, data)
        experiment = task.make(request)
        run = _Run(task, config, folder, accelerator, experiment, watch, checkpoint_seconds, board)
        return run.finish()


class _Run:
    """A run in progress."""

    def __init__(
        self,
        task: Task,
        config: Config,
        folder: Folder,
        accelerator: Accelerator,
        experiment: Experiment,
        watch: Callable[[Progress], None],
        checkpoint_seconds: float,
        board: Any,
    ) -> None:
        self.task, self.config, self.folder, self.accelerator = task, config, folder, accelerator
        self.experiment, self.watch, self.checkpoint_seconds, self.board = experiment, watch, checkpoint_seconds, board
        self.parameters = sum(p.numel() for module in experiment.modules.values() for p in module.parameters())
        self.trainer = Trainer(experiment, config, accelerator)
        self.epoch = self.step = self.done = self.size = 0
        self.losses: list[float] = []
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.saved = time.perf_counter()
        self._resume()

    def finish(self) -> dict[str, Any]:
        """Runs the epochs that are left, and writes the result."""
        while self.epoch < self.config.epochs and not self._diverged():
            self._epoch()
        result = self._result()
        if self.accelerator.is_main_process:
            weights = {name: self.trainer.bare(module).state_dict() for name, module in self.trainer.modules.items()}
            _save(self.folder.checkpoint, {"modules": weights})
            files.write(self.folder.result, json.dumps(result, indent=2) + "\n")
        self.accelerator.wait_for_everyone()
        return result

    def _epoch(self) -> None:
        experiment, trainer = self.experiment, self.trainer
        steps = experiment.steps_per_epoch
        every = max(1, steps // LINES_PER_EPOCH)
        start, whole, before = time.perf_counter(), [], len(trainer.optimizer_seconds)
        for batch in islice(experiment.batches(self.epoch), self.done, None):
            moment = Moment(self.epoch, self.config.epochs, self.step)
            factor, trainer.moment = self.task.schedule(moment), moment
            trainer.set_lr(factor)
            step_start = time.perf_counter()
            loss = float(experiment.step(batch, trainer))
            whole.append(time.perf_counter() - step_start)
            self.losses.append(loss)
            self.step, self.done = self.step + 1, self.done + 1
            if self.done % every == 0:
                self.lines.append({"step": self.step, "epoch": self.epoch + 1, "loss": loss, "lr_factor": factor})
            latest = self.history[-1] if self.history else {}
            self.watch(Progress(self.epoch + 1, self.done, steps, loss, whole[-1], latest))
            if not math.isfinite(loss):
                break
            if self._checkpoint_is_due(every) and self.done < steps:
                self._checkpoint(time.perf_counter() - start)
                start = time.perf_counter()
        measured = experiment.evaluate(trainer)
        counted = slice(WARM_UP if len(whole) > WARM_UP else 0, None)
        line = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "train_loss": statistics.fmean(self.losses) if self.losses else math.nan,
            **measured,
            "optimizer_seconds": statistics.median(trainer.optimizer_seconds[before:][counted] or [math.nan]),
            "step_seconds": statistics.median(whole[counted] or [math.nan]),
            "epoch_seconds": self.seconds + time.perf_counter() - start,
        }
        self.history.append(line)
        self.lines.append(line)
        self.epoch, self.done, self.losses, self.seconds = self.epoch + 1, 0, [], 0.0
        if self.board:
            for name, value in line.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, self.epoch)
        self._checkpoint(0.0)

    def _checkpoint_is_due(self, every: int) -> bool:
        due = time.perf_counter() - self.saved > self.checkpoint_seconds
        if self.accelerator.num_processes > 1:  # the main process decides for all, now and then
            (due,) = broadcast_object_list([due]) if self.done % every == 0 else (False,)
        return due

    def _diverged(self) -> bool:
        return bool(self.history) and not math.isfinite(self.history[-1]["train_loss"])

    def _result(self) -> dict[str, Any]:
        metric, history = self.task.metric, self.history
        sign = 1.0 if metric.higher_is_better else -1.0

        def rank(line: Mapping[str, Any]) -> tuple[float, float]:
            value, loss = sign * line[f"validation_{metric.name}"], -line.get("validation_loss", 0.0)
            return (value if math.isfinite(value) else -math.inf, loss if math.isfinite(loss) else -math.inf)

        best = max(history, key=rank)
        return {
            "epochs": len(history),
            "diverged": self._diverged(),
            "parameters": self.parameters,
            "best_epoch": best["epoch"],
            "validation": best[f"validation_{metric.name}"],
            "test": best[f"test_{metric.name}"],
            "last_test": history[-1][f"test_{metric.name}"],
            "optimizer_seconds": statistics.median(line["optimizer_seconds"] for line in history),
            "step_seconds": statistics.median(line["step_seconds"] for line in history),
            "run_seconds": sum(line["epoch_seconds"] for line in history),
        }

    def _checkpoint(self, seconds: float) -> None:
        """Everything that the rest of the run depends on; `seconds` of the epoch have passed since the last one."""
        self.seconds += seconds
        random_states = gather_object([_random_state()])
        if self.accelerator.is_main_process:
            self.size, self.lines = self.folder.append(self.lines), []
            state = {
                **{name: getattr(self, name) for name in ("epoch", "step", "done", "size", "losses", "seconds")},
                "history": self.history,
                "modules": {
                    name: self.trainer.bare(module).state_dict() for name, module in self.trainer.modules.items()
                },
                "optimizers": {name: x.state_dict() for name, x in self.trainer.optimizers.items()},
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "experiment": self.experiment.state_dict(),
                "random": random_states,
            }
            _save(self.folder.checkpoint, state)
        self.saved = time.perf_counter()

    def _resume(self) -> None:
        path = self.folder.checkpoint
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=False)
            for name in ("epoch", "step", "done", "size", "losses", "seconds", "history"):
                setattr(self, name, state[name])
            for name, module in self.trainer.modules.items():
                self.trainer.bare(module).load_state_dict(state["modules"][name])
                self.trainer.optimizers[name].load_state_dict(state["optimizers"][name])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.experiment.load_state_dict(state["experiment"])
            states = state["random"]
            _set_random_state(states[self.accelerator.process_index % len(states)])
        elif self.accelerator.num_processes > 1:
            set_seed(self.config.seed * 1_000_003 + self.accelerator.process_index)
        self.accelerator.wait_for_everyone()  # all have read what is there before one writes
        if self.accelerator.is_main_process:
            files.write(self.folder.environment, json.dumps(environment(self.accelerator), indent=2) + "\n")
            self.folder.begin_metrics(self.size)


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - libraries may draw from it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _save(path: Path, state: Mapping[str, Any]) -> None:
    with files.replacing(path) as unfinished:
        torch.save(state, unfinished)
