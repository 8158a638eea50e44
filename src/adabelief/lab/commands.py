"""The commands of `adabelief`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

import adabelief
from adabelief.lab import comparing, listings, tuning
from adabelief.lab.arguments import completing, meant, named, parse_epochs, parse_grid, parse_seeds, prepare
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.console import plain_console
from adabelief.lab.endings import INTERRUPTED, reported
from adabelief.names import one_of
from adabelief.settings import SETTINGS

app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SCALES, PRECISIONS = ("smoke", "small", "paper"), ("no", "bf16", "fp16")
MODELS = {model for entry in CATALOGUE.values() for model in entry.models}

Seeds = Annotated[
    str, typer.Option(metavar="INTEGERS", help="Seeds, with commas between; each is a run of every optimizer.")
]
ReportFolder = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder for the report; it is made where there is none.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(adabelief.__version__)
        raise typer.Exit


@app.callback()
def adabelief_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """AdaBelief, the optimizer, and its lab."""


@app.command()
def demo(
    out: ReportFolder = Path("demo"),
    seeds: Seeds = "0,1,2",
    epochs: Annotated[str, typer.Option(metavar="INTEGER", help="Epochs of each training run.")] = "20",
) -> None:
    """Compare AdaBelief with the rivals of its paper, in a few minutes.

    Trains a small convolutional network on real handwritten digits with each of the optimizers, walks over the paper's
    six functions of two variables, and writes report.html, report.md, results.csv and figures. Ctrl-C ends it early and
    keeps what has finished.
    """
    numbers = parse_seeds(seeds)
    length = parse_epochs(epochs)
    prepare(out)
    console = plain_console()
    command = shlex.join(["adabelief", "demo", "--out", str(out), "--seeds", seeds, "--epochs", epochs])
    with reported():
        from adabelief.lab.demo import demo

        complete = demo(out, numbers, epochs=length, command=command, console=console)
        if not complete:
            console.print(
                f"Not all of it has finished. What has is in {out / 'report.html'}; the same command goes on.",
                soft_wrap=True,
            )
            raise typer.Exit(INTERRUPTED)
        console.print(f"The report: {out / 'report.html'}", soft_wrap=True)


@app.command()
def tasks(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="One of them, for more.", autocompletion=completing(CATALOGUE))
    ] = None,
) -> None:
    """List the tasks of `adabelief train`, or what one of them can be told: its models, data, scales and options."""
    console = plain_console()
    if task is None:
        console.print(listings.tasks())
        console.print("adabelief tasks TASK says more of one.")
        return
    name = meant("TASK", task, CATALOGUE)
    console.print(listings.entry(name, CATALOGUE[name]))
    with reported():
        from adabelief.lab import scales
        from adabelief.lab.tasks import task as find

        for table in scales.scales(find(name)):
            console.print()
            console.print(table)


@app.command()
def train(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A task of `adabelief tasks`.", autocompletion=completing(CATALOGUE))
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="One of the task's models; by default its first.", autocompletion=completing(MODELS)
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(metavar="NAMES", help="Names with commas between, or all; in any case.")
    ] = "AdaBelief",
    scale: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="smoke: does it run? small: minutes on two cores. study: for comparisons, of some tasks. paper.",
            autocompletion=completing(SCALES),
        ),
    ] = "small",
    seeds: Seeds = "0",
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The task's data, where it is not embedded or downloaded."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the runs; each gets one of its own in it.")
    ] = Path("runs"),
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="batch_size, an option of the scale, or an optimizer's argument. A name that is given "
            "several times is tried with each of its values.",
        ),
    ] = None,
    epochs: Annotated[str | None, typer.Option(metavar="INTEGER", help="Instead of the scale's number.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="no, bf16 or fp16: of autocast.", autocompletion=completing(PRECISIONS)),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Parts into which each process splits its share of a batch.", min=1)
    ] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use an accelerator.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")] = False,
    log_with: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another tracker of accelerate's: wandb, mlflow, aim, ...")
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Look at the optimizers now and then: does eps let them adapt? See probe.jsonl."),
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two checkpoints within an epoch.", min=0)
    ] = 60.0,
) -> None:
    """Train one model with one or several optimizers, under the same conditions.

    A run is a folder under --out. A run that was interrupted, even killed, goes on where its last checkpoint is when
    the same command is given again, and ends with the same numbers; one that has finished is not run again. Several
    processes share a run under `torchrun --nproc-per-node N -m adabelief train ...` or `accelerate launch`.

    For example:

    - adabelief train digits --optimizer all --seeds 0,1,2
    - adabelief train cifar10 --model vgg11 --scale smoke --data FOLDER
    - adabelief train cifar10 --model resnet34 --set lr=3e-4 --set eps=1e-12
    - adabelief train charlm --optimizer AdaBelief,AdamW --set lr=1e-3 --set lr=3e-3
    """
    numbers = parse_seeds(seeds)
    length = None if epochs is None else parse_epochs(epochs)
    grid = parse_grid(change or [])
    console = plain_console()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Keras or TensorBoard may load TensorFlow, which logs at that
    with reported():
        from adabelief.lab.engine import session
        from adabelief.lab.engine.config import plan
        from adabelief.lab.engine.machine import keep_memory
        from adabelief.lab.engine.summary import summary
        from adabelief.lab.tasks import task as find

        wanted = find(task)
        models = wanted.models or ("",)
        model = one_of("--model", model or models[0], models)
        known = (*wanted.settings(model), "all")
        scale = one_of("--scale", scale, wanted.scales(model))
        names = [one_of("--optimizer", name.strip(), known) for name in optimizer.split(",")]
        precision = precision and one_of("--precision", precision, PRECISIONS)
        with named("--set"):
            configs = plan(
                wanted,
                model=model,
                scale=scale,
                names=names,
                seeds=numbers,
                grid=grid,
                epochs=length,
                precision=precision,
                accumulate=accumulate,
            )
        prepare(out)
        keep_memory()
        done = session.run(
            *(wanted, configs, out),
            data=data,
            cpu=cpu,
            log_with=log_with or ("tensorboard" if tensorboard else None),
            checkpoint_seconds=checkpoint_seconds,
            probe=probe,
            console=console,
        )
        if done:
            console.print(summary(wanted, done))
            console.print(f"adabelief report {shlex.quote(str(out))} writes the report.", soft_wrap=True)


app.command()(tuning.tune)
app.command()(comparing.compare)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="Folders of runs.")],
    out: ReportFolder = Path("report"),
) -> None:
    """Write report.html, report.md, results.csv, table.tex and figures from finished runs."""
    prepare(out)
    console = plain_console()
    command = shlex.join(["adabelief", "report", *map(str, runs), "--out", str(out)])
    with reported():
        from adabelief.lab.analysis.runs import load
        from adabelief.lab.report.report import write

        damaged: list[str] = []
        with console.status("figures and report"):
            found = load(runs, damaged.append)
            write(out, found, damaged=damaged, command=command)
        for message in damaged:
            console.print(f"Left out: {message}", soft_wrap=True)
        console.print(f"The report: {out / 'report.html'}", soft_wrap=True)


@app.command()
def settings(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="A task of the table; all of them where none is given.",
            autocompletion=completing(SETTINGS),
        ),
    ] = None,
) -> None:
    """Print the published settings of AdaBelief: of every task, or of one, as Python for each front-end."""
    console = plain_console()
    if task is None:
        console.print(listings.settings(list(SETTINGS.values())))
        console.print("adabelief settings TASK prints one of them as Python.")
        return
    setting = SETTINGS[meant("TASK", task, SETTINGS)]
    console.print(listings.settings([setting]))
    console.print(f"Source: {setting.source}. {setting.note}".strip())
    for line in listings.python_lines(setting):
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Print what there is on this machine, and which implementation serves which device, and why."""
    from adabelief.lab import doctor as found

    console = plain_console()
    served = listings.table("device", "implementation", "why")
    for row in found.served():
        served.add_row(*row)
    for table in (listings.pairs(found.machine()), listings.pairs(found.versions()), served):
        console.print(table)
        console.print()
