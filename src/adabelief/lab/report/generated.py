"""The report's chapter on what GANs made, and its figures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Verdict
from adabelief.lab.report.chapter import Chapter, Picture
from adabelief.lab.report.style import INK, QUIET, WIDTH, files_of, label_axes, looks, styled
from adabelief.lab.report.tables import marked, table
from adabelief.lab.report.words import number, rough, stem
from adabelief.lab.task import Metric

COVERED = 7
"""The column of the table that is there only where classes were counted."""


def chapter(verdict: Verdict) -> Chapter:
    """What a GAN made, and how diverse it was."""
    experiment = verdict.experiment
    metric = experiment.metric
    rows = []
    for label, runs in experiment.valid.items():
        diversity = [run.curve("diversity") for run in runs]
        apart = [[pixels_apart(images) for images in run.curve("samples")] for run in runs]
        rows.append(
            (
                marked(experiment, label),
                ", ".join(number(epochs[-1]) for epochs in diversity),
                ", ".join(number(min(epochs)) for epochs in diversity),
                ", ".join(f"{epochs[-1]:.0f}" for epochs in apart),
                ", ".join(f"{min(epochs):.0f} (epoch {1 + epochs.index(min(epochs))})" for epochs in apart),
                ", ".join(rough(run.epochs[-1]["train_loss"]) for run in runs),
                "; ".join(_distances(run, metric) for run in runs),
                "; ".join(_covered(run) for run in runs),
                f"`{runs[0].arguments}`",
            )
        )
    header = (
        *("optimizer", "diversity after the last epoch", "lowest diversity"),
        *("pixels apart after the last epoch", "least apart", "last loss of the critic"),
        *("test distance: picked, last, worst", "classes covered: last, least", "settings"),
    )
    judged = [x for runs in experiment.valid.values() for run in runs for x in run.curve("classifier_accuracy")]
    keep = [i for i in range(len(header)) if i != COVERED or judged]
    between = next((x for runs in experiment.valid.values() for run in runs for x in run.curve("real_frechet")), None)
    name = stem(experiment)
    shown = Picture(f"{name}-samples", "Generated images over training, by optimizer", samples(experiment))
    pictures = [shown]
    real = "" if between is None else f"Real images, those for validation, are {number(between)} from the test images."
    parts = [str(shown), f"The first seed of each optimizer; the same latents everywhere. {real}".rstrip()]
    if experiment.repeated:
        box = Picture(f"{name}-boxes", f"Box plots of the test {metric.called}, by optimizer", boxes(verdict))
        pictures.append(box)
        parts += [
            str(box),
            "Boxes reach from quartile to quartile of the seeds, whiskers to the lowest and the highest; a point is a "
            "seed. One seed is its point alone.",
        ]
    parts += [
        table([header[i] for i in keep], [[row[i] for i in keep] for row in rows], left={0, len(keep) - 1}),
        "Seed by seed. Diversity is the root mean square distance between generated images, on the features of the "
        f"{metric.called}, divided by that between test images. Pixels apart is the root mean square difference "
        "between two of the images that an epoch shows, of 255 levels. Where one of them falls to 0 the generator "
        "has collapsed to one image.",
        _on_coverage(judged),
    ]
    return Chapter(f"Generated images: {experiment.name}", "\n\n".join(filter(None, parts)), pictures=pictures)


def _distances(run: Run, metric: Metric) -> str:
    """The distance to the test images at the picked epoch, at the last one and at the worst."""
    values = run.curve(f"test_{metric.name}")
    return ", ".join(number(value) for value in (run.test, run.last_test, max(values)))


def _covered(run: Run) -> str:
    """Classes that are covered after the last epoch and where they are fewest; empty where none were counted."""
    seen = run.curve("classes_covered")
    return f"{seen[-1]:.0f}, {min(seen):.0f}" if seen else ""


def _on_coverage(judged: Sequence[float]) -> str:
    if not judged:
        return ""
    return (
        "A class is covered where a small classifier, trained on the real images, takes at least a tenth of an even "
        f"share of the generated ones for it. It is right on {min(judged):.0f} % of the validation images or more."
    )


def pixels(png: str) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) of a generated image, which is kept as a PNG file in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def pixels_apart(images: Sequence[str]) -> float:
    """The root mean square difference between the pixels of two images, over all pairs of them.

    It is √(2 σ²), with the unbiased variance σ² of each pixel over the images, and its mean over the pixels.

    Args:
        images: Two or more of one size, as PNG files in base64.
    """
    return math.sqrt(2 * np.stack([pixels(image) for image in images]).var(0, ddof=1).mean())


@styled
def samples(experiment: Experiment) -> dict[str, bytes]:
    """What the first seed of each optimizer generated, from the same latents, after four of its epochs or fewer."""
    shown, cell = experiment.samples, WIDTH / 4
    epochs = sorted({round(epoch) for epoch in np.linspace(1, min(map(len, shown.values())), 4)})
    figure = Figure(figsize=(cell * len(epochs), 0.3 + 0.56 * cell * len(shown)))
    grid = figure.subplots(len(shown), len(epochs), squeeze=False)
    for panels, (label, generated) in zip(grid, shown.items(), strict=True):
        panels[0].set_ylabel(label)
        for axes, epoch in zip(panels, epochs, strict=True):
            images = [_framed(text) for text in generated[epoch - 1]]
            half = len(images) // 2
            axes.imshow(np.vstack([np.hstack(images[:half]), np.hstack(images[half : 2 * half])]))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", fontweight="normal")
    return files_of(figure)


@styled
def boxes(verdict: Verdict) -> dict[str, bytes]:
    """The test metric at the best validation epoch: quartiles, median and range over the seeds, and every seed."""
    groups, drawn = verdict.experiment.valid, looks(verdict)
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.subplots()
    values = [[run.test for run in runs] for runs in groups.values()]
    places, several = zip(*[(i, tests) for i, tests in enumerate(values, 1) if len(tests) > 1], strict=True)
    quiet = {"color": QUIET}
    axes.boxplot(
        several,
        positions=places,
        whis=(0, 100),
        widths=0.5,
        boxprops=quiet,
        whiskerprops=quiet,
        capprops=quiet,
        medianprops={"color": INK},
    )
    for i, (label, tests) in enumerate(zip(groups, values, strict=True), 1):
        look = drawn[label]
        axes.plot([i] * len(tests), tests, look.marker, color=look.colour, markersize=4, alpha=0.8)
    axes.set_xticks(range(1, 1 + len(groups)), list(groups), rotation=20)
    label_axes(axes, f"Test {verdict.experiment.measured}", None, None)
    return files_of(figure)


def _framed(png: str) -> NDArray[np.uint8]:
    """The pixels of a PNG file in base64, with a white line around them."""
    return np.pad(pixels(png), ((1, 1), (1, 1), (0, 0)), constant_values=255)
