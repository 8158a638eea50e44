"""The commands of `adabelief`."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import adabelief
from adabelief.settings import SETTINGS, Setting

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
INTERRUPTED = 130


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
    """Compare AdaBelief with the eight rivals of its paper, in a few minutes.

    Trains a small convolutional network on real handwritten digits with each of the nine optimizers, walks over the
    paper's six functions of two variables, and writes report.html, report.md, results.csv and figures. Ctrl-C ends it
    early and keeps what has finished.
    """
    numbers = parse_seeds(seeds)
    length = parse_epochs(epochs)
    prepare(out)
    console = Console()
    command = shlex.join(["adabelief", "demo", "--out", str(out), "--seeds", seeds, "--epochs", epochs])
    try:
        from adabelief.lab import report, runs

        results = runs.demo(out, numbers, epochs=length, command=command, console=console)
    except KeyboardInterrupt:
        console.print(f"Interrupted outside of a run: {out} has results.csv at most.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if results.runs:
        console.print(_summary(report.summary(results.runs)))
    if not results.complete:
        console.print(f"Interrupted. What had finished is in {out / 'report.html'}", soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED)
    console.print(f"The report: {out / 'report.html'}", soft_wrap=True, highlight=False)


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

    table = Table("device", "implementation", "why", box=None, header_style="bold")
    if cpu.unavailable():
        table.add_row("cpu", "foreach", f"no compiled kernel: {cpu.unavailable()}")
    else:
        table.add_row("cpu", "fused", f"compiled C, {cpu.instruction_set()}, {torch.get_num_threads()} threads")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    table.add_row(accelerator.type if accelerator else "cuda", "foreach", "there is no kernel for it in this version")
    return table


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
        (out / ".writable").touch()
        (out / ".writable").unlink()
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


def _summary(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "optimizer" else "right")
    for row in rows:
        table.add_row(*row.values())
    return table
