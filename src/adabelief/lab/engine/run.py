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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed

from adabelief.lab import files, optimizers
from adabelief.lab.engine import checkpoint
from adabelief.lab.engine.blame import changes_blamed
from adabelief.lab.engine.config import Config
from adabelief.lab.engine.fingerprint import Data
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.machine import environment
from adabelief.lab.task import Request, Task, Workload, schedule_of
from adabelief.lab.trainer import HELD_OUT, Moment, Trainer

UNTIMED_STEPS = 3
"""Steps at the start of every part of a run whose times are not counted."""

LINES_PER_EPOCH = 50
"""Steps of an epoch that have a line in the metrics, at most."""


@dataclass
class State:
    """Where a run is: with modules, optimizers and random states, all that the rest of it depends on.

    Attributes:
        epoch: Epochs that are finished.
        step: Steps of all epochs.
        done: Steps of this epoch.
        size: Bytes of the metrics that a checkpoint knows of.
        losses: The loss of every step of this epoch.
        seconds: The time of this epoch until the last checkpoint.
        history: What was measured after each epoch.
    """

    epoch: int = 0
    step: int = 0
    done: int = 0
    size: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        """Whether the last epoch's training loss was infinite or no number."""
        return bool(self.history) and not math.isfinite(self.history[-1]["train_loss"])


class Observer:
    """Who watches a run. In runs of several processes there is one in each."""

    def begin(self, run: Run) -> None:
        """Called before the first step, or before the first after a checkpoint."""

    def after_step(self, run: Run) -> None:
        """Called after every step of an optimizer."""

    def after_epoch(self, run: Run) -> None:
        """Called after every epoch, measured and recorded."""

    def stop(self, run: Run) -> bool:
        """Whether the run is to end after this epoch, unfinished; one of the main process is asked for all."""
        return False


def train(
    task: Task,
    config: Config,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    data: Path | None = None,
    observers: Sequence[Observer] = (),
) -> dict[str, Any] | None:
    """Runs what is left of a run and returns its result; of a finished run, that which it has.

    There is a checkpoint after every epoch; an observer may make more of them.

    Args:
        task: The task that the configuration names.
        config: What to run.
        folder: Where; the caller keeps other processes out of it.
        accelerator: The devices and processes.
        data: Where the task's data is, if it needs any.
        observers: Who watches.

    Returns:
        None if an observer ended it.

    Raises:
        OtherData: If the folder has a run on other data.
        ValueError: If it has a run of another configuration or a damaged file, or the task refuses its options or data.
        OSError: If the data cannot be read or a file cannot be written.
    """
    result = folder.read_result() if accelerator.is_main_process else None
    (result,) = broadcast_object_list([result])
    if accelerator.is_main_process:
        folder.write_config(config, Data.of(data))
    if result is not None:
        return dict(result)
    scale = task.scales(config.model).get(config.scale)
    threads = (scale and scale.threads) or task.threads
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if threads and accelerator.device.type == "cpu":
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        set_seed(config.seed)
        stack.enter_context(changes_blamed(config, lambda: not folder.checkpoint.exists()))
        workload = task.make(Request(config.model, config.seed, config.batch_size, config.options, data))
        return Run(task, config, folder, accelerator, workload, observers).finish()


def trainer_for(workload: Workload, config: Config, accelerator: Accelerator) -> Trainer:
    """The trainer of a run's modules, each with an optimizer of its own as the configuration has it."""
    built = {
        name: optimizers.build(config.optimizer, optimizers.params_of(config.optimizer, module), config.settings)
        for name, module in workload.modules.items()
    }
    clipping = {name: config.options.get(name, 0.0) for name in ("max_norm", "clip_value")}
    return Trainer(workload.modules, built, accelerator, accumulate=config.accumulate, epochs=config.epochs, **clipping)


class Run:
    """A run in progress.

    Attributes:
        task: Its task.
        config: What was asked for.
        folder: Where it is recorded.
        accelerator: The devices and processes.
        workload: Modules, batches and objective.
        trainer: The modules and optimizers, on the devices.
        state: Where it is.
        loss: The loss of the last step.
        step_seconds: How long that took.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        folder: RunFolder,
        accelerator: Accelerator,
        workload: Workload,
        observers: Sequence[Observer] = (),
    ) -> None:
        if workload.steps_per_epoch < 1:
            raise ValueError(f"{task.name}: an epoch has no step; give it more data, or options that leave some")
        self.task, self.config, self.folder, self.accelerator = task, config, folder, accelerator
        self.workload, self.observers = workload, observers
        self.parameters = sum(p.numel() for module in workload.modules.values() for p in module.parameters())
        self.trainer = trainer_for(workload, config, accelerator)
        self.state = State()
        self.loss = self.step_seconds = math.nan
        self._lines: list[dict[str, Any]] = []
        self._since = time.perf_counter()
        self._resume()

    @property
    def over(self) -> bool:
        """Whether no epoch is left."""
        return self.state.epoch >= self.config.epochs or self.state.diverged

    @property
    def every(self) -> int:
        """Steps from one line of the metrics to the next."""
        return max(1, self.workload.steps_per_epoch // LINES_PER_EPOCH)

    def finish(self) -> dict[str, Any] | None:
        """Runs the epochs that are left, and writes the result; None if an observer ended it before."""
        for observer in self.observers:
            observer.begin(self)
        while not self.over:
            self._epoch()
            if not self.over and self._is_stopped():
                return None
        result = self._result()
        if self.accelerator.is_main_process:
            files.write(self.folder.result, json.dumps(result, indent=2) + "\n")
            checkpoint.save(self.folder.checkpoint, self._kept())  # which makes it smaller
        self.accelerator.wait_for_everyone()
        return result

    def checkpoint(self) -> None:
        """Records everything that the rest of the run depends on. All processes have to take part."""
        state, now = self.state, time.perf_counter()
        state.seconds += now - self._since
        random_states = gather_object([checkpoint.random_state()])
        if self.accelerator.is_main_process:
            state.size, self._lines = self.folder.append(self._lines), []
            rest = {
                "optimizers": {name: x.state_dict() for name, x in self.trainer.optimizers.items()},
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "experiment": self.workload.state_dict(),
                "random": random_states,
            }
            checkpoint.save(self.folder.checkpoint, {**self._kept(), **rest})
        self._since = time.perf_counter()

    def _kept(self) -> dict[str, Any]:
        """What stays in the checkpoint of a finished run."""
        weights = {name: self.trainer.bare(module).state_dict() for name, module in self.trainer.modules.items()}
        return {**asdict(self.state), "modules": weights}

    def _epoch(self) -> None:
        state, workload, trainer = self.state, self.workload, self.trainer
        self._since, times, before = time.perf_counter(), [], len(trainer.optimizer_seconds)
        schedule, steps = schedule_of(self.task, self.config.options), self.config.epochs * workload.steps_per_epoch
        trainer.moment = Moment(state.epoch, self.config.epochs, state.step, steps)
        for batch in islice(workload.batches(state.epoch), state.done, None):
            trainer.moment = trainer.moment._replace(step=state.step)
            factor = schedule(trainer.moment)
            trainer.set_lr(factor)
            start = time.perf_counter()
            self.loss = float(workload.step(batch, trainer))
            self.step_seconds = time.perf_counter() - start
            times.append(self.step_seconds)
            state.losses.append(self.loss)
            state.step, state.done = state.step + 1, state.done + 1
            if state.done % self.every == 0:
                line = {"step": state.step, "epoch": state.epoch + 1, "loss": self.loss, "lr_factor": factor}
                self._lines.append(line)
            for observer in self.observers:
                observer.after_step(self)
            if not math.isfinite(self.loss):
                break
        measured = self._evaluated()
        counted = slice(UNTIMED_STEPS if len(times) > UNTIMED_STEPS else 0, None)
        line = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": statistics.fmean(state.losses) if state.losses else math.nan,
            **measured,
            "optimizer_seconds": statistics.median(trainer.optimizer_seconds[before:][counted] or [math.nan]),
            "step_seconds": statistics.median(times[counted] or [math.nan]),
            "epoch_seconds": state.seconds + time.perf_counter() - self._since,
        }
        state.history.append(line)
        self._lines.append(line)
        state.epoch, state.done, state.losses, state.seconds = state.epoch + 1, 0, [], 0.0
        self._since = time.perf_counter()
        if self.over and self.accelerator.num_processes == 1:
            self.folder.write_hits(workload.hits, trainer.held_out)
        self.checkpoint()
        for observer in self.observers:
            observer.after_epoch(self)

    def _evaluated(self) -> dict[str, float]:
        """What was measured on the parts that are to be read; the test metric is nan where that part is not."""
        measured = self.workload.evaluate(self.trainer)
        unread = tuple(f"{part}_" for part in HELD_OUT if part not in self.trainer.held_out)
        read = {name: value for name, value in measured.items() if not name.startswith(unread)}
        return {f"test_{self.task.metric.of(self.config.options).name}": math.nan, **read}

    def _is_stopped(self) -> bool:
        stopped = any(observer.stop(self) for observer in self.observers)
        (stopped,) = broadcast_object_list([stopped])
        return bool(stopped)

    def _result(self) -> dict[str, Any]:
        metric, history = self.task.metric.of(self.config.options), self.state.history
        sign = 1.0 if metric.higher_is_better else -1.0

        def rank(line: Mapping[str, Any]) -> tuple[float, float]:
            value, loss = sign * line[f"validation_{metric.name}"], -line.get("validation_loss", 0.0)
            return (value if math.isfinite(value) else -math.inf, loss if math.isfinite(loss) else -math.inf)

        def kept(line: Mapping[str, Any]) -> float:
            value = sign * line[f"test_{metric.name}"]
            return value if math.isfinite(value) else -math.inf

        best, worst = max(history, key=rank), min(history, key=kept)
        return {
            "epochs": len(history),
            "diverged": self.state.diverged,
            "parameters": self.parameters,
            "best_epoch": best["epoch"],
            "validation": best[f"validation_{metric.name}"],
            "test": best[f"test_{metric.name}"],
            "last_test": history[-1][f"test_{metric.name}"],
            "worst_test": worst[f"test_{metric.name}"],
            "optimizer_seconds": statistics.median(line["optimizer_seconds"] for line in history),
            "step_seconds": statistics.median(line["step_seconds"] for line in history),
            "run_seconds": sum(line["epoch_seconds"] for line in history),
        }

    def _resume(self) -> None:
        path = self.folder.checkpoint
        if path.exists():
            self._take_up(checkpoint.load(path))
        elif self.accelerator.num_processes > 1:
            set_seed(self.config.seed * 1_000_003 + self.accelerator.process_index)
        self.accelerator.wait_for_everyone()  # all have read what is there before one writes
        if self.accelerator.is_main_process:
            files.write(self.folder.environment, json.dumps(environment(self.accelerator), indent=2) + "\n")
            self.folder.begin_metrics(self.state.size, self.state.step, self.state.history)

    def _take_up(self, saved: Mapping[str, Any]) -> None:
        path = self.folder.checkpoint
        try:
            self.state = State(**{x.name: saved[x.name] for x in fields(State)})
            for name, module in self.trainer.modules.items():
                self.trainer.bare(module).load_state_dict(saved["modules"][name])
            if self.over:  # all that is missing is the result
                return
            for name, optimizer in self.trainer.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][name])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(saved["scaler"])
            self.workload.load_state_dict(saved["experiment"])
            states = saved["random"]
            checkpoint.set_random_state(states[self.accelerator.process_index % len(states)])
        except KeyError as error:
            raise checkpoint.refusal(path, f"it has no {error}") from error
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = shorten(str(error), 200)  # torch lists every tensor that does not fit
            raise checkpoint.refusal(path, f"it is of another network or version ({reason})") from error
