"""The command `adabelief compare`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from adabelief.lab.arguments import prepare
from adabelief.lab.console import plain_console
from adabelief.lab.endings import reported

REPORT = "report"
"""The folder of the report, in that of the comparison."""


def compare(
    plan: Annotated[
        Path | None, typer.Argument(metavar="PLAN.toml", help="What to compare; --example prints one.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs and the report.")] = Path("compare"),
    workers: Annotated[int, typer.Option(metavar="INTEGER", help="Processes on this machine.", min=1)] = 1,
    storage: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="A store for machines without a folder in common: postgresql://..., mysql://..., grpc://HOST:PORT, or "
            "a file.",
        ),
    ] = "",
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The comparison's name in the store; by default the plan's title."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; report what is finished.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use an accelerator.")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two checkpoints within an epoch.", min=0)
    ] = 60.0,
    example: Annotated[bool, typer.Option("--example", help="Print a plan with comments, and leave.")] = False,
) -> None:
    """Compare optimizers fairly: the same search for each, then fresh seeds for what it picked.

    Every arm gets the same points of the same budget; validation picks one setting of each; that is run on fresh seeds
    which all arms share, and the test set is read once. The report says where an arm helps, where not, and how sure
    that is; trials.csv beside it has every run.

    A comparison that was stopped, even killed, goes on when the same command is given again; several of them, on
    machines that share the folder, do it together. With one --storage machines need no folder in common: each lays the
    runs of the others into its own --out, and writes the same report.

    For example:

    - adabelief compare --example > plan.toml
    - adabelief compare plan.toml --out compare --workers 2
    - adabelief compare plan.toml --storage postgresql://USER@HOST/NAME
    - adabelief compare plan.toml --out compare --report
    """
    console = plain_console()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with reported():
        from adabelief.lab.compare.plan import example as text
        from adabelief.lab.compare.plan import read

        if example:
            typer.echo(text(), nl=False)
            return
        if plan is None:
            raise typer.BadParameter("name a plan; `adabelief compare --example` prints one", param_hint="PLAN.toml")
        from adabelief.lab.compare.trials import searches

        asked = read(plan)
        for workload in asked.workloads:
            searches(asked, workload)  # refuses what a task or an optimizer does not take
        prepare(out)
        from adabelief.lab.compare.conduct import conduct, gather
        from adabelief.lab.compare.running import Place
        from adabelief.lab.report import comparison
        from adabelief.lab.report.answer import answer

        command = shlex.join(["adabelief", "compare", plan.name, "--out", out.name, "--report"])
        place = Place(out, cpu, checkpoint_seconds, storage, name or asked.title)
        try:
            if not report:
                conduct(asked, place, workers=workers, console=console)
            elif storage:
                gather(asked, place)
        finally:  # stopped or not, what is finished is reported
            verdict = comparison.write(asked, out, out / REPORT, command=command)
        for sentence in answer(verdict):
            console.print(sentence, soft_wrap=True)
        console.print(f"The report: {out / REPORT / 'report.html'}", soft_wrap=True)
