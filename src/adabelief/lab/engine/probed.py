"""Who looks at a run's optimizers: a probe for each, whose reports go into the run's folder."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import Any

from rich.console import Console
from torch.optim import Optimizer

from adabelief import Probe
from adabelief.lab import files
from adabelief.lab.engine.run import Observer, Run

LOOKS, EVERY = 20, 100
"""Looks of a run, at least, where it has as many steps; and steps from one to the next, at most."""


class Probed(Observer, ExitStack):
    """Writes `probe.jsonl`: what a probe reports, with the module that the optimizer is of, and the run's step.

    Args:
        console: Where it is said that an optimizer has nothing to look at.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console, self._probes = console, dict[str, Probe]()
        self._looks = dict[str, int]()

    def begin(self, run: Run) -> None:
        """Takes up the file where the run is, and looks from now on."""
        path = run.folder.probe
        if path.exists():
            files.write(path, "".join(line + "\n" for line in _until(path.read_text(), run.state.step)))
        every = max(1, min(EVERY, run.workload.steps_per_epoch * run.config.epochs // LOOKS))
        for name, wrapped in run.trainer.optimizers.items():
            optimizer: Optimizer = getattr(wrapped, "optimizer", wrapped)  # of accelerate's
            try:
                probe = Probe(optimizer, every, named_parameters=run.trainer.modules[name].named_parameters())
            except TypeError:
                self._console.print(
                    f"--probe: {run.config.optimizer} is not looked at, as are AdaBelief, Adam and AdamW: it has no "
                    "denominator with an eps, or another one.",
                    soft_wrap=True,
                )
                continue
            probe.steps = max((int(state.get("step", 0)) for state in optimizer.state.values()), default=0)
            self._probes[name], self._looks[name] = self.enter_context(probe), 0

    def after_step(self, run: Run) -> None:
        """Writes what was seen in it."""
        for name, probe in self._probes.items():
            if probe.looks > self._looks[name]:
                self._looks[name] = probe.looks
                line: dict[str, Any] = {"run_step": run.state.step, "module": name, **probe.report()}
                with run.folder.probe.open("a") as file:
                    file.write(json.dumps(line) + "\n")

    def after_epoch(self, run: Run) -> None:
        """Says it where the task does not step through torch's optimizers (Keras's, say): there is nothing to see."""
        for name in [name for name, probe in self._probes.items() if not probe.steps]:
            self._console.print(f"--probe: nothing was seen of {name}: no optimizer of torch steps it.", soft_wrap=True)
            del self._probes[name]


def _until(text: str, step: int) -> list[str]:
    """The whole lines up to a step of the run: what came later, the run is about to do again."""
    lines = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that was cut off
            if json.loads(line)["run_step"] <= step:
                lines.append(line)
    return lines
