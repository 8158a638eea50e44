"""The demonstration: a run of the lab on the digits, walks over the toy functions, and the report of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from adabelief.lab import tasks
from adabelief.lab.analysis.runs import load
from adabelief.lab.console import plain_console
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.progress import Line, shown
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.report import report
from adabelief.lab.tasks import toy
from adabelief.lab.tasks.toy import Walk

TASK = "digits"
SCALE = "paper"

INTRO = """\
Two small experiments. One trains the same convolutional network on real handwritten digits with AdaBelief and its \
rivals. The other walks over the six functions of two variables that the paper shows. They show what the optimizers \
do; they are too small to show which one is best for your model.

The digits are scikit-learn's 1,797 images of 8×8 pixels: 1,197 for training, 300 for validation and 300 for the test, \
with its share of every class in each part and the same for every run. The network has two convolutions with batch \
normalization, one max-pooling and one linear layer. The settings are those that the paper's authors ran on CIFAR-10, \
for networks a thousand times larger and 200 epochs. None was tuned for the digits, so this compares settings as much \
as optimizers: RAdam's rectification, for one, keeps early steps small, and in a run this short most steps are early. \
On a network this small, times measure Python more than arithmetic."""


def demo(
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    epochs: int | None = None,
    steps: int = toy.STEPS,
    command: str = "adabelief demo",
    console: Console | None = None,
) -> bool:
    """Trains on the digits and walks over the toy functions with every optimizer, and writes the report.

    The runs are in `out/runs`; those that an earlier demonstration finished are not run again. Ctrl-C ends the runs;
    the report is then written from those that have finished, and says so.

    Args:
        out: A folder; it is made where there is none.
        seeds: One training run of each optimizer for each.
        epochs: Epochs of each training run, instead of the task's own number.
        steps: Steps of each walk, at most.
        command: What the report says it was made with.
        console: Where the progress goes; no bar where this is not a terminal.

    Returns:
        Whether all that was planned has finished.
    """
    console = console or plain_console()
    task = tasks.task(TASK)
    planned = plan(task, scale=SCALE, names=["all"], seeds=seeds, epochs=epochs)
    planned_walks = [(function, optimizer) for function in FUNCTIONS.values() for optimizer in function.settings()]
    walks: list[Walk] = []
    try:
        session.run(task, planned, out / "runs", cpu=True, console=console)
        line = Line()
        with shown(line, console):
            for function, optimizer in planned_walks:
                line.title, line.share = f"{function.name}: {optimizer}", len(walks) / len(planned_walks)
                line.facts = [f"walk {len(walks) + 1}/{len(planned_walks)}"]
                walks.append(toy.walk(function, optimizer, steps=steps))
    except KeyboardInterrupt:
        pass
    folders = [out / "runs" / config.folder for config in planned]
    damaged: list[str] = []
    found = load((folder for folder in folders if (folder / "config.json").exists()), damaged.append)
    finished = sum(run.finished for run in found)
    complete = (finished, len(walks)) == (len(planned), len(planned_walks))
    incomplete = (
        f"**This report is incomplete.** It has {finished} of {len(planned)} training runs and {len(walks)} of "
        f"{len(planned_walks)} walks.\n\n"
    )
    with console.status("figures and report"):
        report.write(
            *(out, found),
            walks=walks,
            walk_limit=steps,
            command=command,
            damaged=damaged,
            title="AdaBelief and its rivals on handwritten digits and functions of two variables: a demonstration",
            intro=INTRO if complete else incomplete + INTRO,
        )
    return complete
