"""The report's section on one experiment."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from adabelief.lab import frechet
from adabelief.lab.findings import (
    Comparison,
    base,
    comparisons,
    divergences,
    join,
    number,
    pixels_apart,
    rough,
    signed,
    spread,
    target,
)
from adabelief.lab.published import (
    BEST,
    FID_BEST,
    FID_FINAL,
    HIGHER_IS_BETTER,
    LAST_EPOCH,
    SOURCES,
    Published,
    published,
)
from adabelief.lab.results import Experiment, Run, settings_text, without_folders
from adabelief.lab.tasks import Metric, Scale

FIGURES = "figures"
"""The folder of the figures, beside the report."""

DATA = ("images", "text", "corpus", "environment")
"""The options that say what a task learns from."""

_SHORT = {
    **dict.fromkeys(LAST_EPOCH, "last epoch"),
    BEST: "best, picked on test",
    FID_FINAL: "FID, last epoch",
    FID_BEST: "FID, best, picked on test",
}


def section(experiment: Experiment) -> str:
    """A section of Markdown on an experiment: what was run, results, figures, times, published numbers."""
    parts = [f"## {experiment.name}", _what_was_run(experiment)]
    if unfinished := [run for run in experiment.runs if not run.finished]:
        told = [
            f"{run.label}, seed {run.config.seed} ({len(run.epochs)} of {run.config.epochs} epochs)"
            for run in unfinished
        ]
        parts.append(f"**Unfinished, and in no number below:** {'; '.join(told)}.")
    diverged = [text for label, runs in experiment.groups.items() if (text := divergences(label, runs))]
    if diverged:
        parts.append(
            f"**Diverged, and in no mean below:** {'; '.join(diverged)}. Means over the other seeds of these "
            "optimizers (marked †) are of a selection, and flatter them."
        )
    if experiment.sound:
        parts += [
            _results(experiment),
            f"![Test {experiment.metric.called} of every run, by optimizer]({FIGURES}/{stem(experiment)}-test.png)",
            _dots_caption(experiment),
            f"![Training loss and {experiment.metric.called} by epoch]({FIGURES}/{stem(experiment)}-curves.png)",
            _curves_caption(experiment),
            _generated(experiment),
            _times(experiment),
            f"![Time of a step, by optimizer]({FIGURES}/{stem(experiment)}-time.png)",
            "Medians over the steps of an epoch, then over epochs and seeds, without the first steps of each run.",
            _published(experiment),
        ]
    return "\n\n".join(filter(None, parts))


def _what_was_run(experiment: Experiment) -> str:
    config, task = experiment.config, experiment.task
    sentences = [f"`{task.name}`: {task.summary}."]
    parameters = {run.outcome["parameters"] for run in experiment.runs if run.finished}
    network = [f"{' or '.join(f'{n:,}' for n in sorted(parameters))} parameters"] if parameters else []
    precision = {"no": "float32"}.get(config.precision, f"{config.precision} autocast")
    run = next((run for run in experiment.runs if run.epochs), None)
    sizes = {part: run.epochs[-1].get(f"{part}_examples") for part in ("validation", "test")} if run else {}
    examples = [f"{int(n):,} {part} examples" for part, n in sizes.items() if n]
    facts = [
        config.model,
        *network,
        *examples,
        count(config.epochs, "epoch"),
        f"batches of {config.batch_size}",
        precision,
    ]
    sentences.append(f"Here: {', '.join(filter(None, facts))}.")
    drops = run.drops() if run else []
    if drops:
        told = [f"by {factor:g} after epoch {epoch}" for epoch, factor in drops]
        sentences.append(f"The learning rate was divided {join(told)}.")
    seeds = sorted({run.config.seed for run in experiment.runs})
    sentences.append(
        f"{'Seeds' if len(seeds) > 1 else 'Seed'} {join(list(map(str, seeds)))}; with the same seed, every optimizer "
        "starts from the same weights and sees the same batches. The epoch is picked on the validation set; the test "
        "set chooses nothing."
    )
    parts, note, asked_for = [" ".join(sentences)], _scale(experiment).note, _asked_for(experiment)
    if note:
        against = "Otherwise than in the published experiment" if published(config.task) else "At this scale"
        parts.append(f"**{against}:** {note}.")
    if asked_for:
        parts.append(f"**Asked for:** {'; '.join(asked_for)}.")
    return "\n\n".join(parts)


def _scale(experiment: Experiment) -> Scale:
    config = experiment.config
    return experiment.task.scales(config.model).get(config.scale) or Scale(config.epochs, config.batch_size)


def _asked_for(experiment: Experiment) -> list[str]:
    """What the runs have otherwise than their scale: it was asked for."""
    config, scale = experiment.config, _scale(experiment)
    own = {"epochs": config.epochs, "batch_size": config.batch_size, **config.options}
    usual = {"epochs": scale.epochs, "batch_size": scale.batch_size, **scale.options}
    return [
        f"{name.replace('_', ' ')} {without_folders(value)} instead of this scale's {usual.get(name)}"
        for name, value in own.items()
        if value != usual.get(name)
    ]


def _results(experiment: Experiment) -> str:
    compared, reference = comparisons(experiment), base(experiment)
    metric = experiment.measured
    rows: list[tuple[str, ...]] = []
    for label, runs in experiment.groups.items():
        sound = experiment.sound.get(label, ())
        rows.append(
            (
                _name(experiment, label),
                spread([run.test for run in sound]) if sound else "–",
                _difference(compared.get(label), same=label == reference),
                ", ".join(_seed(run) for run in runs),
                spread([run.last_test for run in sound]) if sound else "–",
                spread([run.validation for run in sound]) if sound else "–",
                ", ".join(str(run.outcome["best_epoch"]) if run.sound else "–" for run in runs),
                rough(statistics.fmean(run.epochs[-1]["train_loss"] for run in sound)) if sound else "–",
                f"`{settings_text(runs[0])}`",
            )
        )
    header = (
        *("optimizer", f"test {metric}", f"minus {reference}'s", "seed by seed", f"test {metric}, last epoch"),
        *(f"validation {metric}", "best epoch", "last training loss", "settings"),
    )
    keep = [i for i in range(len(header)) if i != 2 or compared]
    rows = [tuple(row[i] for i in keep) for row in rows]
    return table([header[i] for i in keep], rows, left={0, len(keep) - 1})


def _difference(comparison: Comparison | None, *, same: bool) -> str:
    if comparison is None:
        return "0" if same else "–"
    return f"**{comparison}**" if comparison.clear else str(comparison)


def _seed(run: Run) -> str:
    if not run.finished:
        return "unfinished"
    return "diverged" if run.diverged else number(run.test)


def _dots_caption(experiment: Experiment) -> str:
    n = next(iter(experiment.sound.values()))[0].test_examples
    size = f" {n:,} test examples: one of them counts {100 / n:.2g} %." if n and experiment.metric.unit == "%" else ""
    return f"Test {experiment.metric.called} at the epoch with the best validation {experiment.metric.called}.{size}"


def _curves_caption(experiment: Experiment) -> str:
    drops = " The dotted line is where the learning rate drops." if experiment.runs[0].drops() else ""
    return (
        "Lines are means over the seeds, bands reach from the lowest seed to the highest. The training loss is the "
        f"mean over an epoch's steps, the rest is measured after it.{drops}"
    )


def _generated(experiment: Experiment) -> str:
    """What a GAN made, and how diverse it was."""
    if not experiment.samples:
        return ""
    rows = []
    for label, runs in experiment.sound.items():
        diversity = [run.curve("diversity") for run in runs]
        apart = [[pixels_apart(images) for images in run.curve("samples")] for run in runs]
        rows.append(
            (
                _name(experiment, label),
                ", ".join(number(epochs[-1]) for epochs in diversity),
                ", ".join(number(min(epochs)) for epochs in diversity),
                ", ".join(f"{epochs[-1]:.0f}" for epochs in apart),
                ", ".join(f"{min(epochs):.0f} (epoch {1 + epochs.index(min(epochs))})" for epochs in apart),
                ", ".join(rough(run.epochs[-1]["train_loss"]) for run in runs),
                f"`{settings_text(runs[0])}`",
            )
        )
    header = (
        *("optimizer", "diversity after the last epoch", "lowest diversity"),
        *("pixels apart after the last epoch", "least apart", "last loss of the critic", "settings"),
    )
    metric = experiment.metric
    between = next((x for runs in experiment.sound.values() for run in runs for x in run.curve("real_frechet")), None)
    boxes = (
        f"![Box plots of the test {metric.called}, by optimizer]({FIGURES}/{stem(experiment)}-boxes.png)",
        "Boxes reach from quartile to quartile of the seeds, whiskers to the lowest and the highest.",
    )
    real = "" if between is None else f"Real images, those for validation, are {number(between)} from the test images."
    return "\n\n".join(
        [
            f"### Generated images: {experiment.name}",
            f"![Generated images over training, by optimizer]({FIGURES}/{stem(experiment)}-samples.png)",
            f"The first seed of each optimizer; the same latents everywhere. {real}".rstrip(),
            *(boxes if experiment.repeated else ()),
            table(header, rows, left={0, len(header) - 1}),
            "Seed by seed. Diversity is the root mean square distance between generated images, on the features of the "
            f"{metric.called}, divided by that between test images. Pixels apart is the root mean square difference "
            "between two of the images that an epoch shows, of 255 levels. Where one of them falls to 0 the generator "
            "has collapsed to one image.",
        ]
    )


def _times(experiment: Experiment) -> str:
    aim = target(experiment)
    rows = []
    for label, runs in experiment.sound.items():
        to_target = []
        if aim:
            epochs = [str(hit[0]) if hit else "never" for hit in aim.reached[label]]
            seconds = [hit[1] for hit in aim.reached[label] if hit]
            missed = len(runs) - len(seconds)
            mean = f"{statistics.fmean(seconds):.1f}" if seconds else "–"
            to_target = [", ".join(epochs), mean if not missed else f"{mean} ({len(seconds)} of {len(runs)} seeds)"]
        rows.append(
            (
                _name(experiment, label),
                *to_target,
                _milliseconds(runs, "optimizer_seconds"),
                _milliseconds(runs, "step_seconds"),
                f"{statistics.fmean(run.outcome['run_seconds'] for run in runs):.1f}",
                f"`{settings_text(runs[0])}`",
            )
        )
    header = ["optimizer", "epochs to target, seed by seed", "seconds to target", "`step()`, ms", "whole step, ms"]
    header = [*(header if aim else (header[0], *header[3:])), "whole run, s", "settings"]
    text = [f"### Time: {experiment.name}", table(header, rows, left={0, len(header) - 1})]
    if aim:
        metric = experiment.metric
        text.append(
            f"The target is a validation {metric.called} of {number(aim.level)}{metric.suffix}: the best of its worst "
            "seed, for the middle one of the optimizers (of two, the worse), so that at least half of them reach it "
            "with every seed. Seconds are of training and evaluation until then."
        )
    if not experiment.same_place:
        text.append("**These runs were not all made on the same kind of machine: do not compare their times.**")
    return "\n\n".join(text)


def _published(experiment: Experiment) -> str:
    config, metric = experiment.config, experiment.metric
    rows = [row for row in published(config.task, config.model) if row.metric in HIGHER_IS_BETTER]
    rows = [row for row in rows if row.optimizer in experiment.sound]
    heading = f"### Published: {experiment.name}"
    if not rows:
        return ""
    columns = list(dict.fromkeys((row.metric, row.source) for row in rows))
    columns.sort(key=lambda column: (column[0] not in LAST_EPOCH, column[0] != BEST))
    sources = list(dict.fromkeys(source for _, source in columns))
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    other_data = _other_data(experiment)
    compared = config.scale != "smoke" and not other_data
    lines = []
    for label, runs in experiment.sound.items():
        theirs = [row for row in rows if row.optimizer == label]
        if theirs:
            cells = [
                _beside(runs, [r for r in theirs if (r.metric, r.source) == column], notes, compared=compared)
                for column in columns
            ]
            last, picked = spread([run.last_test for run in runs]), spread([run.test for run in runs])
            lines.append((_name(experiment, label), last, picked, *cells, f"`{settings_text(runs[0])}`"))
    header = [
        *("optimizer", "ours, last epoch", "ours, picked on validation"),
        *(f"{_SHORT.get(kind, 'as reported')} [{sources.index(source) + 1}]" for kind, source in columns),
        "our settings",
    ]
    listed = [
        f"{i}. {SOURCES[source].citation}{' (read off a figure, by eye)' if SOURCES[source].read_off else ''}."
        for i, source in enumerate(sources, 1)
    ]
    explained = "".join(f"\n- ({_letter(i)}) {note}" for i, note in enumerate(notes))
    scaled = [text for text in (_scale(experiment).note, *_asked_for(experiment)) if text]
    caveat = f" **What sets ours apart:** {'; '.join(scaled)}." if scaled else ""
    if other_data:
        caveat += f" **Ours is on other data** ({other_data}), so there is no difference to give."
    if not all(_comparable(row, metric) for row in rows):
        caveat += f" **Ours is no FID:** it is measured {metric.unit}, so there is no difference to give."
    return "\n\n".join(
        [
            heading,
            f"Numbers are test {experiment.measured}, and in parentheses ours minus theirs. "
            "Numbers of the last epoch stand against ours of the last epoch, all others against ours of the epoch that "
            "validation picked. A published best is picked on the test set itself, which makes it better than what a "
            f"validation set finds. ≈ is read off a figure.{caveat}",
            table(header, lines, left={0, len(header) - 1}),
            "\n".join(listed) + (f"\n{explained}" if notes else ""),
        ]
    )


def _beside(runs: Sequence[Run], theirs: Sequence[Published], notes: Sequence[str], *, compared: bool) -> str:
    cells = []
    for row in theirs:
        ours = statistics.fmean(run.last_test if row.metric in LAST_EPOCH else run.test for run in runs)
        about = "≈ " if SOURCES[row.source].read_off else ""
        shown = compared and _comparable(row, runs[0].metric)
        difference = f" ({signed(ours - row.value, beside=row.value)})" if shown else ""
        mark = f" ({_letter(notes.index(row.note))})" if row.note else ""
        cells.append(f"{about}{row.value:{'g' if about else '.2f'}}{difference}{mark}")
    return "; ".join(cells) or "–"


def _other_data(experiment: Experiment) -> str:
    """What the runs learn from where the published ones learn from something else; empty where it is the same."""
    options = experiment.config.options
    paper = experiment.task.scales(experiment.config.model).get("paper")
    return ", ".join(
        f"{options[name]}, not {paper.options[name]}"
        for name in DATA
        if paper and name in options and options[name] != paper.options[name]
    )


def _comparable(row: Published, metric: Metric) -> bool:
    """Whether a published number and ours measure the same: an FID is one on Inception's features alone."""
    return row.metric not in (FID_FINAL, FID_BEST) or metric.unit == frechet.label(frechet.INCEPTION)


def _letter(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """A Markdown table; the columns `left` are aligned to the left, the others to the right."""
    rule = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _name(experiment: Experiment, label: str) -> str:
    return f"{label} †" if any(run.diverged for run in experiment.groups[label]) else label


def count(n: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _milliseconds(runs: Sequence[Run], key: str) -> str:
    return f"{1e3 * statistics.median(run.outcome[key] for run in runs):.2f}"


def stem(experiment: Experiment) -> str:
    """What the names of an experiment's figures begin with."""
    return re.sub(r"[^\w.=-]+", "-", experiment.name)
