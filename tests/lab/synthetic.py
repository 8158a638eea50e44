"""Folders of runs as the engine leaves them, with numbers that a test chooses."""

import json
from dataclasses import replace

from adabelief.lab import tasks
from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.engine.config import Config, plan

ENVIRONMENT = {
    "python": "3.12.1",
    "packages": {"adabelief": "1.0", "torch": "2.14.1", "datasets": ""},
    "commit": "abc1234",
    "system": "Linux",
    "processor": "A processor",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
    "processes": 1,
    "command": ["/usr/bin/adabelief", "train", "digits", "--optimizer", "all"],
}


def config(optimizer="AdaBelief", seed=0, task="digits", model=None, scale="small", **changes) -> Config:
    epochs, precision = changes.pop("epochs", None), changes.pop("precision", "no")
    found = tasks.task(task)
    (made,) = plan(
        *(found,),
        model=model,
        scale=scale,
        names=[optimizer],
        seeds=[seed],
        changes=changes,
        epochs=epochs,
        precision=precision,
    )
    return made


def write(
    out,
    config,
    validation=(90.0, 92.0),
    test=(89.0, 91.0),
    *,
    best=None,
    planned=None,
    finished=True,
    diverged=False,
    examples=300,
    environment=ENVIRONMENT,
    seconds=2.0,
    optimizer_seconds=1e-3,
    tail="",
):
    """Writes a run whose epochs have these validation and test metrics; `best` counts from 1."""
    config = replace(config, epochs=planned or len(test))
    folder = out / config.folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.as_json())
    (folder / "environment.json").write_text(json.dumps(environment))
    metric = tasks.task(config.task).metric.name
    last = "nan" if diverged else None
    lines, drop = [], round(0.75 * len(test))
    for i, (valid, tested) in enumerate(zip(validation, test, strict=True)):
        lines.append({"step": i + 1, "epoch": i + 1, "loss": 1.0, "lr_factor": 1.0 if i < drop else 0.1})
        lines.append(
            {
                "epoch": i + 1,
                "step": i + 1,
                "train_loss": last if last and i + 1 == len(test) else 1 / (i + 1),
                "validation_loss": 0.5,
                f"validation_{metric}": valid,
                "validation_examples": 300,
                "test_loss": 0.5,
                f"test_{metric}": tested,
                **({"test_examples": examples} if examples else {}),
                "optimizer_seconds": optimizer_seconds,
                "step_seconds": 5e-3,
                "epoch_seconds": seconds,
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    if finished:
        best = best or 1 + validation.index(max(validation))
        result = {
            "epochs": len(test),
            "diverged": diverged,
            "parameters": 10_000,
            "best_epoch": best,
            "validation": validation[best - 1],
            "test": test[best - 1],
            "last_test": test[-1],
            "optimizer_seconds": optimizer_seconds,
            "step_seconds": 5e-3,
            "run_seconds": seconds * len(test),
        }
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def experiment(tmp_path, tests, **more):
    """An experiment with these test metrics of each optimizer, seed by seed."""
    for name, values in tests.items():
        for seed, value in enumerate(values):
            write(tmp_path, config(name, seed), (value, value), (value, value), **more)
    (found,) = experiments(load([tmp_path]))
    return found
