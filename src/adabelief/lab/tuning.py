"""The command `adabelief tune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from adabelief.lab.arguments import completing, meant, parse_epochs, parse_grid, prepare
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.console import plain_console
from adabelief.lab.endings import reported
from adabelief.lab.search import ENGINES, SAMPLERS
from adabelief.names import one_of


def tune(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A task of `adabelief tasks`.", autocompletion=completing(CATALOGUE))
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the task's models; by default its first.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Arms, with commas between; by default AdaBelief,AdamW, or all of --space."),
    ] = None,
    scale: Annotated[str, typer.Option(metavar="NAME", help="As in `adabelief train`.")] = "small",
    trials: Annotated[int, typer.Option(metavar="INTEGER", help="Of each arm.", min=1)] = 20,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A space as TOML; by default the task's own.")
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="qmc: the same scrambled Halton points for every arm. random. grid. tpe: learns from earlier trials.",
            autocompletion=completing(SAMPLERS),
        ),
    ] = "qmc",
    prune: Annotated[bool, typer.Option("--prune", help="End trials early that are behind the median.")] = False,
    seed: Annotated[int, typer.Option(metavar="INTEGER", help="Of points, weights and batches.", min=0)] = 0,
    workers: Annotated[int, typer.Option(metavar="INTEGER", help="Processes here, or tasks of Ray.", min=1)] = 1,
    storage: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="A store for several machines: postgresql://..., mysql://..., grpc://HOST:PORT, or a file in a shared "
            "folder; by default a file in --out.",
        ),
    ] = "",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The search's name in the store; by default task-model-scale.")
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="processes, or ray.", autocompletion=completing(ENGINES))
    ] = "processes",
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The task's data, where it is not embedded or downloaded.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs, and of trials.csv.")] = Path("tune"),
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="batch_size or an option of the scale, for all trials."),
    ] = None,
    epochs: Annotated[str | None, typer.Option(metavar="INTEGER", help="Instead of the scale's number.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="NAME", help="no, bf16 or fp16: of autocast.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use an accelerator.")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two checkpoints within an epoch.", min=0)
    ] = 60.0,
    example: Annotated[bool, typer.Option("--example", help="Print the space as TOML, and leave.")] = False,
) -> None:
    """Search settings: as many trials for every optimizer, judged on the validation set after the last epoch.

    Every trial is a run of `adabelief train` under --out, so that `adabelief report` shows it. A search that was
    interrupted, even killed, goes on when the same command is given again. The same command on several machines, with
    one --storage, shares the trials among them; a trial whose worker died is taken up from its checkpoint.

    For example:

    - adabelief tune digits --trials 20 --workers 2
    - adabelief tune digits --example > space.toml
    - adabelief tune digits --space space.toml --sampler tpe --prune
    - adabelief tune cifar10 --optimizer AdaBelief,AdamW,SGD --data FOLDER --storage postgresql://USER@HOST/NAME
    """
    task = meant("TASK", task, CATALOGUE)
    changes = parse_grid(change or [])
    length = None if epochs is None else parse_epochs(epochs)
    console = plain_console()
    with reported():
        from adabelief.lab.engine.machine import keep_memory
        from adabelief.lab.search.conditions import Conditions
        from adabelief.lab.search.defaults import arms
        from adabelief.lab.search.trial import search_of
        from adabelief.lab.search.tune import conduct

        names = [each.strip() for each in optimizer.split(",")] if optimizer else []
        chosen, text = arms(task, names, space)
        if example:
            typer.echo(text)
            return
        if several := [name for name, values in changes.items() if len(values) > 1]:
            raise ValueError(f"--set {several[0]} is given twice; what varies stands in --space")
        conditions = Conditions(
            task, model, scale, {key: value for key, (value,) in changes.items()}, length, precision
        )
        search = search_of(
            conditions,
            chosen,
            data=data,
            cpu=cpu,
            checkpoint_seconds=checkpoint_seconds,
            seed=seed,
            name=name,
            trials=trials,
            out=out.absolute(),
            storage=storage,
            sampler=one_of("--sampler", sampler, SAMPLERS),
            prune=prune,
        )
        engine = one_of("--engine", engine, ENGINES)
        prepare(out)
        keep_memory()
        conduct(search, workers, engine=engine, console=console)
        console.print(f"adabelief report {shlex.quote(str(out))} writes the report.", soft_wrap=True)
