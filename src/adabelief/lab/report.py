"""The report: `report.md`, its figures, and `report.html`, which is the same text in one self-contained file."""

from __future__ import annotations

import base64
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from adabelief.lab import figures, files, html
from adabelief.lab.findings import join, margin, on_digits, on_toys, spread, standard_error
from adabelief.lab.optimizers import METHODS, describe
from adabelief.lab.results import Results, by_optimizer
from adabelief.lab.tasks import Examples, digits
from adabelief.lab.tasks.toy import FUNCTIONS, NEAR, PATIENCE, Walk
from adabelief.lab.train import Run, decay_epoch

FIGURES = ("accuracy.png", "curves.png", "beale.gif", "trajectories.png", "distances.png")
FILES = ("results.csv", *FIGURES, "report.md", "report.html")
PACKAGES = ("adabelief", "torch", "pytorch_optimizer", "scikit-learn", "numpy", "matplotlib")


def write(out: Path, results: Results, *, command: str, seconds: Callable[[], float]) -> None:
    """Writes the figures and the report from whatever has finished.

    Args:
        out: The folder.
        results: What has finished.
        command: What made them.
        seconds: How long it has taken by now; asked when all but the text is done.
    """
    pictures: dict[str, bytes] = {}
    if results.runs:
        pictures["accuracy.png"] = figures.accuracies(results.runs, standard_error(results.runs))
        pictures["curves.png"] = figures.curves(results.runs, decay_epoch(digits.task(), len(results.runs[0].epochs)))
    if results.walks:
        pictures["trajectories.png"] = figures.trajectories(results.walks)
        pictures["distances.png"] = figures.distances(results.walks)
    if beale := _beale(results.walks):
        pictures["beale.gif"] = figures.race(beale)
    for name, content in pictures.items():
        files.write(out / name, content)
    text = markdown(results, command=command, seconds=seconds())
    files.write(out / "report.md", text)
    files.write(out / "report.html", html.page(text, {name: _data_uri(name, pictures[name]) for name in pictures}))


def markdown(results: Results, *, command: str, seconds: float) -> str:
    """The report's text. A part of which nothing has finished is left out."""
    parts = [_opening(results, command, seconds)]
    if results.runs:
        parts += [_digits(results.runs), _departures(results.runs)]
    if results.walks:
        parts.append(_toy(results.walks, results.walk_limit))
    return "\n\n".join([*parts, _again(command)]) + "\n"


def summary(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The runs in brief, one row an optimizer, as the command prints them."""
    return [
        {
            "optimizer": name,
            "test accuracy, %": spread([100 * run.test_accuracy for run in group]),
            "best validation, %": spread([100 * run.best.validation_accuracy for run in group]),
            "step(), ms": _milliseconds([run.optimizer_seconds for run in group]),
            "whole step, ms": _milliseconds([run.step_seconds for run in group]),
        }
        for name, group in by_optimizer(runs)
    ]


def _opening(results: Results, command: str, seconds: float) -> str:
    lines = ["# AdaBelief and its rivals: a demonstration"]
    if not results.complete:
        lines.append(
            f"**This report is incomplete.** It was interrupted after {len(results.runs)} of {results.planned_runs} "
            f"training runs and {len(results.walks)} of {results.planned_walks} walks, and shows only those."
        )
    lines.append(
        "Two small experiments. One trains the same convolutional network on real handwritten digits with AdaBelief "
        "and the eight optimizers that its paper compares it with. The other walks over the six functions of two "
        "variables that the paper shows. They show what the optimizers do; they are too small to show which one is "
        "best for your model. Every run has its row in `results.csv`."
    )
    sentences = [*on_digits(results.runs), *on_toys(results.walks)]
    lines += ["## In short", "\n".join(f"- {sentence}" for sentence in sentences) or "Nothing has finished."]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines.append(
        f"Made on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by `{command}` in {seconds:.0f} seconds, on "
        f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}; torch used one thread. Python "
        f"{platform.python_version()}, {versions}."
    )
    return "\n\n".join(lines)


def _digits(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    epochs = len(runs[0].epochs)
    task = digits.task()
    rows = []
    for name, group in by_optimizer(runs):
        rows.append(
            (
                name,
                spread([100 * run.test_accuracy for run in group]),
                ", ".join(f"{100 * run.test_accuracy:.2f}" for run in group),
                spread([100 * run.last_test_accuracy for run in group]),
                spread([100 * run.best.validation_accuracy for run in group]),
                ", ".join(str(run.best_epoch) for run in group),
                f"{statistics.fmean(run.epochs[-1].train_loss for run in group):.2g}",
                _milliseconds([run.optimizer_seconds for run in group]),
                _milliseconds([run.step_seconds for run in group]),
                f"`{describe(name, group[0].settings)}`",
            )
        )
    header = (
        *("optimizer", "test accuracy, %", "seed by seed", "test accuracy after the last epoch, %"),
        *("validation accuracy, %", "best epoch", "last training loss", "`step()`, ms", "whole step, ms", "settings"),
    )
    decayed = decay_epoch(task, epochs)
    error = standard_error(runs)
    return "\n\n".join(
        [
            "## Handwritten digits",
            f"scikit-learn's {sum(map(_size, (task.train, task.validation, task.test))):,} images of 8×8 pixels, split "
            f"into {_size(task.train):,} for training, {_size(task.validation)} for validation and {_size(task.test)} "
            "for the test; every class has its share in each part, and the split is the same for every run. The "
            "network has two convolutions with batch normalization, one max-pooling and one linear layer. Every "
            f"optimizer trained it for {epochs} epochs in batches of {task.batch_size}, with the learning rate divided "
            f"by 10 after epoch {decayed}, as the paper does after three quarters of its 200 epochs. With the same "
            "seed, every optimizer starts from the same weights and sees the same batches.",
            _table(header, rows, left={0, 9}),
            f"Mean ± standard deviation over {_seeds(seeds)}. Test accuracy is that of the epoch with the highest "
            "validation accuracy (among equals, the lowest validation loss), so the test images choose nothing. Times "
            "are medians over the steps, with forward and backward pass in the whole step; on a network this small "
            "they measure Python more than arithmetic. Every optimizer runs as its library does by default: AdaBelief "
            "through its compiled kernel where there is one, the others tensor by tensor.",
            "![Test accuracy of every run, by optimizer](accuracy.png)",
            f"One image is {100 / _size(task.test):.2f} points. The standard error of one accuracy on "
            f"{_size(task.test)} images is {error:.2f} points, and more seeds do not shrink it, because all of them "
            f"are tested on the same images. Two optimizers less than {margin(runs):.1f} points apart, two standard "
            "errors of a difference, are not told apart here; and among as many pairs as nine optimizers make, one "
            "pair a little farther apart would be no surprise either.",
            "![Training loss and validation accuracy by epoch](curves.png)",
            "Lines are means over the seeds, bands reach from the lowest seed to the highest, and the dashed line is "
            "where the learning rate drops; some lines lie on top of each other.",
            "The settings are those that the paper's authors ran on CIFAR-10, for networks a thousand times larger and "
            "200 epochs; none was tuned for the digits, so this compares settings as much as optimizers. RAdam's "
            "rectification, for one, keeps early steps small, and in a run this short most steps are early.",
        ]
    )


def _departures(runs: Sequence[Run]) -> str:
    methods = {name: METHODS[name] for name, _ in by_optimizer(runs)}
    plain = [f"{name} ({method.library})" for name, method in methods.items() if not method.note]
    notes = [f"- **{name}** ({method.library}). {method.note}" for name, method in methods.items() if method.note]
    return "\n".join(
        [
            "### Whose optimizers these are",
            "",
            f"As their packages have them: {join(plain)}." if plain else "",
            "",
            *notes,
        ]
    ).rstrip()


def _toy(walks: Sequence[Walk], limit: int) -> str:
    rows = []
    for walk in walks:
        rows.append(
            (
                walk.function,
                walk.optimizer,
                "not reached" if walk.arrival is None else f"{walk.arrival:,}",
                f"{walk.steps:,}",
                f"{walk.distance[-100:].max():.2g}",
                f"{walk.value[-1]:.2g}",
                f"`{describe(walk.optimizer.partition(',')[0], walk.settings)}`",
            )
        )
    header = (
        *("function", "optimizer", "arrival, step", "steps taken"),
        *("farthest in its last 100 steps", "last value", "settings"),
    )
    functions = [
        (name, f"f(x, y) = {function.formula}".replace("|", "\\|"), str(function.start), str(function.optimum))
        for name, function in FUNCTIONS.items()
    ]
    animation = "![The walks over Beale's function, animated](beale.gif)"
    return "\n\n".join(
        [
            "## Six functions of two variables",
            _table(("name", "function", "start", "optimum"), functions, left={0, 1, 2, 3}),
            "Formulae, learning rate 0.001, betas and eps 1e-8 follow the paper's description (steep has its own "
            "betas, 0.3). The paper published films of its walks but no code, so the starts, SGD's dampening and its "
            "smaller learning rate on the last two functions, where it diverges at 0.001, follow "
            "[a published re-creation](https://github.com/seiyab/adabelief-toy-examples-pytorch). With dampening equal "
            "to the momentum, SGD follows the mean gradient, as Adam and AdaBelief do; the rows *SGD, undamped* have "
            "PyTorch's default instead, whose steps grow ten times as long at momentum 0.9.",
            *([animation] if _beale(walks) else []),
            "![The paths over the contours of the six functions](trajectories.png)",
            "Paths lie over each other where the optimizers take the same way; the widest is SGD's, the narrowest "
            "AdaBelief's. On the cone, whose start is on the axis, all of them go straight.",
            "![Distance to the optimum by step](distances.png)",
            f"A dot marks the arrival: the step from which the walk stays within {NEAR} of the optimum (dashed), for "
            f"{PATIENCE} steps at least; then the walk ends, or else after {limit:,} steps. Thin lines show it "
            "after the arrival, where on functions with a crease it may hover instead of coming to rest.",
            _table(header, rows, left={0, 1, 6}),
        ]
    )


def _beale(walks: Sequence[Walk]) -> list[Walk]:
    return [walk for walk in walks if walk.function == "beale" and walk.optimizer in figures.RACERS]


def _again(command: str) -> str:
    return "\n\n".join(
        [
            "## Once more",
            f"`{command}` repeats all of it: on the same machine with the same versions, every number but the times "
            "comes out the same. `adabelief demo --help` lists what can be changed, and `adabelief settings` the "
            "published settings of AdaBelief for other tasks.",
            "The paper: Zhuang et al., [AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients]"
            "(https://arxiv.org/abs/2010.07468), NeurIPS 2020.",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    rule = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {join([str(seed) for seed in seeds])}"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.2f}"


def _size(examples: Examples) -> int:
    return len(examples.labels)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _data_uri(name: str, content: bytes) -> str:
    return f"data:image/{Path(name).suffix[1:]};base64,{base64.b64encode(content).decode()}"
