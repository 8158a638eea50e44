"""The engine: one run from its first step, or from its last checkpoint, to its result.

Whatever decides the numbers is a function of the configuration: a run that was killed at any moment and started again
ends with the numbers of an undisturbed one, to the last bit on a CPU. The learning rate is a function of the moment,
the batches are a function of seed and epoch, and the checkpoint has the rest. With several processes every one takes
its share of each batch, weighted by its size, so that a step is that of one process with the same batch.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed

from adabelief.lab import files, optimizers
from adabelief.lab.engine import checkpoint
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.machine import environment
from adabelief.lab.task import Request, Task, Workload
from adabelief.lab.trainer import Moment, Trainer

UNTIMED_STEPS = 3
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


def train(
    task: Task,
    config: Config,
    folder: RunFolder,
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
        folder.write_config(config)
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
        run = _Run(task, config, folder, accelerator, task.make(request), watch, checkpoint_seconds, board)
        return run.finish()


def trainer_for(workload: Workload, config: Config, accelerator: Accelerator) -> Trainer:
    """The trainer of a run's modules, each with an optimizer of its own as the configuration has it."""
    built = {
        name: optimizers.build(config.optimizer, module.parameters(), config.settings)
        for name, module in workload.modules.items()
    }
    return Trainer(workload.modules, built, accelerator, accumulate=config.accumulate, epochs=config.epochs)


class _Run:
    """A run in progress."""

    def __init__(
        self,
        task: Task,
        config: Config,
        folder: RunFolder,
        accelerator: Accelerator,
        workload: Workload,
        watch: Callable[[Progress], None],
        checkpoint_seconds: float,
        board: Any,
    ) -> None:
        self.task, self.config, self.folder, self.accelerator = task, config, folder, accelerator
        self.workload, self.watch, self.checkpoint_seconds, self.board = workload, watch, checkpoint_seconds, board
        self.parameters = sum(p.numel() for module in workload.modules.values() for p in module.parameters())
        self.trainer = trainer_for(workload, config, accelerator)
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
            checkpoint.save(self.folder.checkpoint, {"modules": weights})
            files.write(self.folder.result, json.dumps(result, indent=2) + "\n")
        self.accelerator.wait_for_everyone()
        return result

    def _epoch(self) -> None:
        workload, trainer = self.workload, self.trainer
        steps = workload.steps_per_epoch
        every = max(1, steps // LINES_PER_EPOCH)
        start, whole, before = time.perf_counter(), [], len(trainer.optimizer_seconds)
        for batch in islice(workload.batches(self.epoch), self.done, None):
            moment = Moment(self.epoch, self.config.epochs, self.step)
            factor, trainer.moment = self.task.schedule(moment), moment
            trainer.set_lr(factor)
            step_start = time.perf_counter()
            loss = float(workload.step(batch, trainer))
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
        measured = workload.evaluate(trainer)
        counted = slice(UNTIMED_STEPS if len(whole) > UNTIMED_STEPS else 0, None)
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
        random_states = gather_object([checkpoint.random_state()])
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
                "experiment": self.workload.state_dict(),
                "random": random_states,
            }
            checkpoint.save(self.folder.checkpoint, state)
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
            self.workload.load_state_dict(state["experiment"])
            states = state["random"]
            checkpoint.set_random_state(states[self.accelerator.process_index % len(states)])
        elif self.accelerator.num_processes > 1:
            set_seed(self.config.seed * 1_000_003 + self.accelerator.process_index)
        self.accelerator.wait_for_everyone()  # all have read what is there before one writes
        if self.accelerator.is_main_process:
            files.write(self.folder.environment, json.dumps(environment(self.accelerator), indent=2) + "\n")
            self.folder.begin_metrics(self.size)
