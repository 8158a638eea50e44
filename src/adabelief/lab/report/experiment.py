"""The report's section on one experiment."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.published import published
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Comparison, comparisons, reference, target
from adabelief.lab.report.generated import generated_images
from adabelief.lab.report.published import beside_published
from adabelief.lab.report.sentences import divergences
from adabelief.lab.report.tables import marked, table
from adabelief.lab.report.words import FIGURES, count, join, margin, number, rough, spread, stem


def section(experiment: Experiment) -> str:
    """A section of Markdown on an experiment: what was run, results, figures, times, published numbers."""
    parts = [f"## {experiment.name}", _what_was_run(experiment)]
    if unfinished := [run for run in experiment.runs if not run.finished]:
        listed = [
            f"{run.label}, seed {run.config.seed} ({len(run.epochs)} of {run.config.epochs} epochs)"
            for run in unfinished
        ]
        parts.append(f"**Unfinished, and in no number below:** {'; '.join(listed)}.")
    diverged = [text for label, runs in experiment.groups.items() if (text := divergences(label, runs))]
    if diverged:
        parts.append(
            f"**Diverged, and in no mean below:** {'; '.join(diverged)}. Means over the other seeds of these "
            "optimizers (marked †) are of a selection, and flatter them."
        )
    if experiment.valid:
        parts += [
            _results(experiment),
            f"![Test {experiment.metric.called} of every run, by optimizer]({FIGURES}/{stem(experiment)}-test.png)",
            _dots_caption(experiment),
            f"![Training loss and {experiment.metric.called} by epoch]({FIGURES}/{stem(experiment)}-curves.png)",
            _curves_caption(experiment),
            generated_images(experiment),
            _times(experiment),
            f"![Time of a step, by optimizer]({FIGURES}/{stem(experiment)}-time.png)",
            "Medians over the steps of an epoch, then over epochs and seeds, without the first steps of each run.",
            beside_published(experiment),
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
        divided = [f"by {factor:g} after epoch {epoch}" for epoch, factor in drops]
        sentences.append(f"The learning rate was divided {join(divided)}.")
    seeds = sorted({run.config.seed for run in experiment.runs})
    sentences.append(
        f"{'Seeds' if len(seeds) > 1 else 'Seed'} {join(list(map(str, seeds)))}; with the same seed, every optimizer "
        "starts from the same weights and sees the same batches. The epoch is picked on the validation set; the test "
        "set chooses nothing."
    )
    parts, note, asked_for = [" ".join(sentences)], experiment.scale.note, experiment.asked_for()
    if note:
        against = "Otherwise than in the published experiment" if published(config.task) else "At this scale"
        parts.append(f"**{against}:** {note}.")
    if asked_for:
        parts.append(f"**Asked for:** {'; '.join(asked_for)}.")
    return "\n\n".join(parts)


def _results(experiment: Experiment) -> str:
    compared, ours = comparisons(experiment), reference(experiment)
    metric = experiment.measured
    rows: list[tuple[str, ...]] = []
    for label, runs in experiment.groups.items():
        valid = experiment.valid.get(label, ())
        rows.append(
            (
                marked(experiment, label),
                spread([run.test for run in valid]) if valid else "–",
                _difference(compared.get(label), same=label == ours),
                ", ".join(_seed(run) for run in runs),
                spread([run.last_test for run in valid]) if valid else "–",
                spread([run.validation for run in valid]) if valid else "–",
                ", ".join(str(run.outcome["best_epoch"]) if run.valid else "–" for run in runs),
                rough(statistics.fmean(run.epochs[-1]["train_loss"] for run in valid)) if valid else "–",
                f"`{runs[0].arguments}`",
            )
        )
    header = (
        *("optimizer", f"test {metric}", f"minus {ours}'s", "seed by seed", f"test {metric}, last epoch"),
        *(f"validation {metric}", "best epoch", "last training loss", "settings"),
    )
    keep = [i for i in range(len(header)) if i != 2 or compared]
    rows = [tuple(row[i] for i in keep) for row in rows]
    return table([header[i] for i in keep], rows, left={0, len(keep) - 1})


def _difference(comparison: Comparison | None, *, same: bool) -> str:
    if comparison is None:
        return "0" if same else "–"
    return f"**{margin(comparison)}**" if comparison.clear else margin(comparison)


def _seed(run: Run) -> str:
    if not run.finished:
        return "unfinished"
    return "diverged" if run.diverged else number(run.test)


def _dots_caption(experiment: Experiment) -> str:
    n = next(iter(experiment.valid.values()))[0].test_examples
    size = f" {n:,} test examples: one of them counts {100 / n:.2g} %." if n and experiment.metric.unit == "%" else ""
    return f"Test {experiment.metric.called} at the epoch with the best validation {experiment.metric.called}.{size}"


def _curves_caption(experiment: Experiment) -> str:
    drops = " The dotted line is where the learning rate drops." if experiment.runs[0].drops() else ""
    return (
        "Lines are means over the seeds, bands reach from the lowest seed to the highest. The training loss is the "
        f"mean over an epoch's steps, the rest is measured after it.{drops}"
    )


def _times(experiment: Experiment) -> str:
    aim = target(experiment)
    rows = []
    for label, runs in experiment.valid.items():
        to_target = []
        if aim:
            epochs = [str(hit[0]) if hit else "never" for hit in aim.reached[label]]
            seconds = [hit[1] for hit in aim.reached[label] if hit]
            missed = len(runs) - len(seconds)
            mean = f"{statistics.fmean(seconds):.1f}" if seconds else "–"
            to_target = [", ".join(epochs), mean if not missed else f"{mean} ({len(seconds)} of {len(runs)} seeds)"]
        rows.append(
            (
                marked(experiment, label),
                *to_target,
                _milliseconds(runs, "optimizer_seconds"),
                _milliseconds(runs, "step_seconds"),
                f"{statistics.fmean(run.outcome['run_seconds'] for run in runs):.1f}",
                f"`{runs[0].arguments}`",
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


def _milliseconds(runs: Sequence[Run], key: str) -> str:
    return f"{1e3 * statistics.median(run.outcome[key] for run in runs):.2f}"
