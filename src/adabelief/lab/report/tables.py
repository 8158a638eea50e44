"""Tables: Markdown's, `results.csv` and `walks.csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from adabelief.lab.analysis.experiments import CONDITIONS, PLACE, Experiment, without_folders
from adabelief.lab.analysis.runs import Run
from adabelief.lab.engine.machine import PACKAGES
from adabelief.lab.tasks.toy import Walk


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """A Markdown table; the columns `left` are aligned to the left, the others to the right."""
    rule = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def marked(experiment: Experiment, label: str) -> str:
    """The label of an optimizer, with a mark where some of its runs diverged."""
    return f"{label} †" if any(run.diverged for run in experiment.groups[label]) else label


def results_csv(grouped: Sequence[Experiment]) -> str:
    """`results.csv`: a row for each run, in order of experiments.

    What a run does not have is empty: a diverged one has no metric that could be averaged.
    """
    return as_csv([_row(experiment, run) for experiment in grouped for run in experiment.runs])


def walks_csv(walks: Sequence[Walk]) -> str:
    """`walks.csv`: a row for each walk over a toy function."""
    return as_csv(
        [
            {
                "function": walk.function,
                "optimizer": walk.optimizer,
                "settings": json.dumps(walk.settings),
                "steps": walk.steps,
                "arrival_step": walk.arrival,
                "last_distance": walk.distance[-1],
                "last_value": walk.value[-1],
            }
            for walk in walks
        ]
    )


_OUTCOME = ("best_epoch", "validation", "test", "last_test", "worst_test")


def _row(experiment: Experiment, run: Run) -> dict[str, Any]:
    config, result, environment = run.config, run.result or {}, run.environment
    return {
        "experiment": experiment.name,
        "optimizer": config.optimizer,
        "settings": json.dumps(config.settings),
        "seed": config.seed,
        **{name: getattr(config, name) for name in CONDITIONS if name != "options"},
        "options": json.dumps({name: without_folders(value) for name, value in config.options.items()}),
        "started": run.started,
        "finished": run.finished,
        "diverged": run.diverged,
        "epochs_run": len(run.epochs),
        "metric": " ".join(filter(None, (run.metric.name, run.metric.unit))),
        **{name: result.get(name) if run.valid else None for name in _OUTCOME},
        "last_train_loss": run.epochs[-1]["train_loss"] if run.epochs else None,
        "validation_examples": run.epochs[-1].get("validation_examples") if run.epochs else None,
        "test_examples": run.test_examples,
        "parameters": result.get("parameters"),
        "step_form": run.form,
        "optimizer_seconds_per_step": result.get("optimizer_seconds"),
        "seconds_per_step": result.get("step_seconds"),
        "run_seconds": result.get("run_seconds"),
        "python": environment.get("python"),
        **{name: environment.get("packages", {}).get(name) for name in PACKAGES},
        "commit": environment.get("commit"),
        **{name: environment.get(name) for name in PLACE},
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same names as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
