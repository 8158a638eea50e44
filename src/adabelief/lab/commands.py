"""The commands of `adabelief`."""

from __future__ import annotations

import ast
import errno
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import adabelief
from adabelief.settings import SETTINGS, Setting

app = typer.Typer(
    rich_markup_mode="markdown", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
INTERRUPTED, FAILED = 130, 1
PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False}


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
    out: Annotated[Path, typer.Option(help="Folder for the report; it is made where there is none.")] = Path("demo"),
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between; each is a run of every optimizer.")] = "0,1,2",
    epochs: Annotated[str, typer.Option(help="Epochs of each training run.")] = "20",
) -> None:
    """Compare AdaBelief with the rivals of its paper, in a few minutes.

    Trains a small convolutional network on real handwritten digits with each of the optimizers, walks over the paper's
    six functions of two variables, and writes report.html, report.md, results.csv and figures. Ctrl-C ends it early and
    keeps what has finished.
    """
    numbers = parse_seeds(seeds)
    length = parse_epochs(epochs)
    prepare(out)
    console = Console()
    command = shlex.join(["adabelief", "demo", "--out", str(out), "--seeds", seeds, "--epochs", epochs])
    with reported(console):
        from adabelief.lab.demo import demo

        complete = demo(out, numbers, epochs=length, command=command, console=console)
        if not complete:
            console.print(
                f"Not all of it has finished. What has is in {out / 'report.html'}; the same command goes on.",
                **PLAIN,
            )
            raise typer.Exit(INTERRUPTED)
        console.print(f"The report: {out / 'report.html'}", **PLAIN)


@app.command()
def tasks() -> None:
    """List the tasks of `adabelief train`, with their models and scales."""
    from adabelief.lab.tasks import FILES, task

    console = Console()
    for found in map(task, FILES):
        scales = found.scales(found.models[0] if found.models else "")
        console.print(f"[bold]{found.name}[/bold]  {found.summary}", **PLAIN)
        if found.models:
            console.print(f"    --model      {', '.join(found.models)}", **PLAIN)
        for name, scale in scales.items():
            size = f"{scale.epochs} epochs, batches of {scale.batch_size}"
            console.print(f"    --scale      {name}: {size}{'; ' * bool(scale.note)}{scale.note}", **PLAIN)
        console.print(f"    --optimizer  {', '.join(found.settings((found.models or ('',))[0]))}", **PLAIN)
        if found.data:
            console.print(f"    --data       {found.data}", **PLAIN)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task of `adabelief tasks`.")],
    model: Annotated[str | None, typer.Option(help="One of the task's models; by default its first.")] = None,
    optimizer: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "AdaBelief",
    scale: Annotated[str, typer.Option(help="smoke: does it run? small: minutes on two cores. paper.")] = "small",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between; each is a run of every optimizer.")] = "0",
    data: Annotated[Path | None, typer.Option(help="The task's data, where it is not embedded or downloaded.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; each gets one of its own in it.")] = Path("runs"),
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="name=value: batch_size, an option of the scale, or an optimizer's argument. A name that is given "
            "several times is tried with each of its values.",
        ),
    ] = None,
    epochs: Annotated[str | None, typer.Option(help="Instead of the scale's number.")] = None,
    precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16: of autocast.")] = None,
    accumulate: Annotated[int, typer.Option(help="Parts into which each process splits its share of a batch.")] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use an accelerator.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")] = False,
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
    choices: dict[str, Any] = dict(
        model=model,
        scale=scale,
        names=[name.strip() for name in optimizer.split(",")],
        seeds=parse_seeds(seeds),
        epochs=None if epochs is None else parse_epochs(epochs),
        precision=precision,
        accumulate=accumulate,
    )
    grid: dict[str, list[Any]] = {}
    for name, value in map(parse_change, change or []):
        grid.setdefault(name, []).append(value)
    console = Console()
    with reported(console):
        from adabelief.lab import runs, session
        from adabelief.lab.tasks import task as find

        wanted = find(task)
        points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        configs = [config for changes in points for config in runs.plan(wanted, changes=changes, **choices)]
        prepare(out)
        session.keep_memory()
        done = session.run(
            *(wanted, configs, out),
            data=data,
            cpu=cpu,
            tensorboard=tensorboard,
            checkpoint_seconds=checkpoint_seconds,
            console=console,
        )
        if done:
            console.print(session.summary(wanted, done))
            console.print(f"adabelief report {shlex.quote(str(out))} writes the report.", **PLAIN)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; it is made where there is none.")] = Path("report"),
) -> None:
    """Write report.html, report.md, results.csv, table.tex and figures from finished runs."""
    prepare(out)
    console = Console()
    command = shlex.join(["adabelief", "report", *map(str, runs), "--out", str(out)])
    with reported(console):
        from adabelief.lab import report as reports
        from adabelief.lab import results

        reports.write(out, results.load(runs), command=command)
        console.print(f"The report: {out / 'report.html'}", **PLAIN)


@app.command()
def settings(
    task: Annotated[str | None, typer.Argument(help="A task of the table; all of them where none is given.")] = None,
) -> None:
    """Print the published settings of AdaBelief: of every task, or of one, as a line of Python."""
    console = Console()
    if task is None:
        console.print(_settings_table(list(SETTINGS.values())))
        console.print("adabelief settings TASK prints one of them as Python.", highlight=False)
        return
    if task not in SETTINGS:
        raise typer.BadParameter(
            f"there are no published settings for {task!r}; there are for {', '.join(SETTINGS)}", param_hint="TASK"
        )
    setting = SETTINGS[task]
    console.print(_settings_table([setting]))
    console.print(f"Source: {setting.source}. {setting.note}".strip(), highlight=False)
    typer.echo(python_line(setting))


@app.command()
def doctor() -> None:
    """Print versions, and which implementation serves which device, and why."""
    console = Console()
    versions = Table("package", "version", box=None, header_style="bold")
    for name in ("adabelief", "torch", "numpy", "triton", "keras", "jax"):
        try:
            versions.add_row(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            versions.add_row(name, "not installed")
    console.print(versions)
    console.print(_choices_table())


def _choices_table() -> Table:
    import torch

    from adabelief.kernels import cpu
    from adabelief.torch import fused

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    c = f"compiled C, {cpu.instruction_set()}, {torch.get_num_threads()} threads" if not cpu.unavailable() else ""
    kernels = {"cpu": ("C", c)} | ({accelerator.type: ("Triton", "Triton")} if accelerator else {})
    table = Table("device", "implementation", "why", box=None, header_style="bold")
    for device, (language, served) in kernels.items():
        if reason := fused.unserved(device):
            table.add_row(device, "foreach", f"no {language} kernel: {reason}")
        elif device not in fused.BY_DEFAULT:
            table.add_row(device, "foreach", f"fused=True takes the {language} kernel, which no GPU has run yet")
        else:
            table.add_row(device, "fused", served)
    if not accelerator:
        table.add_row("gpu", "none", "torch sees none here")
    return table


@contextmanager
def reported(console: Console) -> Iterator[None]:
    """Turns what can go wrong in a run into one message; whatever was recorded stays."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from the last checkpoint.", **PLAIN)
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        message = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            message = (
                f"the disk is full ({message}): make room and give the same command again; nothing recorded is lost"
            )
        console.print(f"Error: {message}", style="red", **PLAIN)
        raise typer.Exit(FAILED) from None


def parse_change(text: str) -> tuple[str, Any]:
    """`name=value` as a name and a Python value; what is no Python literal is a string.

    Raises:
        typer.BadParameter: If there is no name or no `=`.
    """
    name, equals, value = text.partition("=")
    if not (equals and name.strip().isidentifier()):
        raise typer.BadParameter(f"{text!r} is no name=value; write, say, lr=3e-4", param_hint="--set")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `0,1,2`.

    Raises:
        typer.BadParameter: Unless they are different whole numbers, at least 0.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(set(numbers)) < len(parts) or max(numbers) >= 2**63:
        raise typer.BadParameter(
            f"{text!r} is no list of different whole numbers, at least 0, with commas between; write, say, 0,1,2",
            param_hint="--seeds",
        )
    return tuple(numbers)


def parse_epochs(text: str) -> int:
    """A number of epochs.

    Raises:
        typer.BadParameter: Unless it is a whole number, at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is no whole number from 1 upwards; write, say, 20", param_hint="--epochs")
    return int(text)


def prepare(out: Path) -> None:
    """Makes the folder.

    Raises:
        typer.BadParameter: If that is not possible.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):  # of no lasting name: others may prepare the same folder now
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{str(out)!r} is no folder that can be written to ({error.strerror}); name another one",
            param_hint="--out",
        ) from None


def python_line(setting: Setting) -> str:
    """A setting as the line of Python that uses it."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in setting.as_arguments().items())
    return f"AdaBelief(model.parameters(), {arguments})"


def _settings_table(rows: list[Setting]) -> Table:
    headers = ("task", *(name.replace("_", "_\n") for name in rows[0].as_arguments()))
    table = Table(*headers, box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for row in rows:
        table.add_row(row.task, *(str(value) for value in row.as_arguments().values()))
    return table
