"""The report's chapter on one experiment."""

from __future__ import annotations

import statistics

from adabelief.lab.analysis.differences import Comparison
from adabelief.lab.analysis.experiments import Experiment, what_ran
from adabelief.lab.analysis.published import published
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Verdict
from adabelief.lab.report import figures
from adabelief.lab.report.chapter import Chapter, Picture
from adabelief.lab.report.published import beside_published
from adabelief.lab.report.sentences import divergences, on_experiment, on_search, without_learning
from adabelief.lab.report.tables import marked, table
from adabelief.lab.report.times import times
from adabelief.lab.report.words import count, margin, number, rough, seeds, spread, stem


def chapter(verdict: Verdict, *, first: bool = True) -> Chapter:
    """What was run, results, figures, times, published numbers.

    Args:
        verdict: What is concluded from it.
        first: Whether no other experiment stands before it: then what ± means is said beside its table.
    """
    experiment = verdict.experiment
    parts = [_what_was_run(verdict), *_missing(experiment)]
    pictures: list[Picture] = []
    if experiment.valid:
        *test, curves, step = pictures = _pictures(verdict)
        parts += [
            _results(verdict),
            _beside_results(verdict, first=first),
            *map(str, test),
            _dots_caption(verdict) if test else "",
            str(curves),
            _curves_caption(experiment),
            times(verdict, step),
            "" if experiment.smoke else beside_published(experiment),
        ]
    return Chapter(experiment.name, "\n\n".join(filter(None, parts)), on_experiment(verdict), pictures)


def _pictures(verdict: Verdict) -> list[Picture]:
    metric, name = verdict.experiment.metric, stem(verdict.experiment)
    tested = all(run.tested for runs in verdict.experiment.valid.values() for run in runs)
    dots = f"Test {metric.called} of every run, by optimizer"
    return [
        *([Picture(f"{name}-test", dots, figures.dots(verdict))] if tested else []),
        Picture(f"{name}-curves", f"Training loss and {metric.called} by epoch", figures.curves(verdict)),
        Picture(f"{name}-time", "Time of a step, by optimizer", figures.times(verdict)),
    ]


def _missing(experiment: Experiment) -> list[str]:
    """What is in no number: runs that have not started, have not finished, or diverged."""
    begun = [run for run in experiment.runs if run.started and not run.finished]
    told = []
    if waiting := [f"{run.label}, {seeds([run])}" for run in experiment.runs if not run.started]:
        told.append(f"**Not started, and in no number below:** {'; '.join(waiting)}.")
    if unfinished := [
        f"{run.label}, {seeds([run])} ({len(run.epochs)} of {count(run.config.epochs, 'epoch')})" for run in begun
    ]:
        told.append(f"**Unfinished, and in no number below:** {'; '.join(unfinished)}.")
    if diverged := divergences(experiment):
        told.append(
            f"**Diverged, and in no mean below:** {diverged}. Means over the other seeds of these optimizers (marked "
            "†) are of a selection, and flatter them."
        )
    return told


def _what_was_run(verdict: Verdict) -> str:
    experiment = verdict.experiment
    config, task = experiment.config, experiment.task
    parameters = {run.outcome["parameters"] for run in experiment.runs if run.finished}
    network = [f"{' or '.join(f'{n:,}' for n in sorted(parameters))} parameters"] if parameters else []
    precision = {"no": "float32"}.get(config.precision, f"{config.precision} autocast")
    run = next((run for run in experiment.runs if run.epochs), None)
    sizes = {part: run.epochs[-1].get(f"{part}_examples") for part in ("validation", "test")} if run else {}
    examples = [f"{int(n):,} {part} examples" for part, n in sizes.items() if n]
    facts = [*what_ran(task, config), *network, *examples, count(config.epochs, "epoch")]
    facts += [f"batches of {config.batch_size}", precision]
    schedule = run.schedule() if run else ""
    sentences = [
        f"`{task.name}`: {task.summary}.",
        f"Here: {', '.join(filter(None, facts))}.",
        f"The learning rate {_schedule(schedule)}." if schedule else "",
        _target(experiment),
        _same_start(experiment),
        without_learning(experiment),
        _tuning(verdict),
    ]
    parts, note, asked_for = [" ".join(filter(None, sentences))], experiment.scale.note, experiment.asked_for()
    if note:
        against = "Otherwise than in the published experiment" if published(config.task) else "At this scale"
        autocast = "" if config.precision == "no" else f"; {precision}"
        parts.append(f"**{against}:** {note}{autocast}.")
    if asked_for:
        parts.append(f"**Asked for:** {'; '.join(asked_for)}.")
    return "\n\n".join(parts)


def _target(experiment: Experiment) -> str:
    metric, target = experiment.metric, experiment.scale.target
    return "" if target is None else f"The target is a {metric.called} of {target:g}{metric.suffix}."


def _schedule(words: str) -> str:
    return f"is {words}" if words == "constant" else f"was {words}" if words.startswith("divided") else words


def _same_start(experiment: Experiment) -> str:
    shown = seeds(experiment.runs)
    sees = "learns from what its own agent plays" if experiment.plays else "sees the same batches"
    return (
        f"{shown[0].upper()}{shown[1:]}; with the same seed, every optimizer starts from the same weights and {sees}. "
        "The epoch is picked on the validation set; the test set chooses nothing."
    )


def _tuning(verdict: Verdict) -> str:
    if searched := on_search(verdict):
        return searched[0]
    return "No settings were tuned here: they are the task's own, published or not."


def _results(verdict: Verdict) -> str:
    experiment, ours = verdict.experiment, verdict.reference
    metric = experiment.measured
    rows: list[tuple[str, ...]] = []
    for label, runs in experiment.groups.items():
        valid = experiment.valid.get(label, ())
        rows.append(
            (
                marked(experiment, label),
                spread([run.test for run in valid]) if valid else "–",
                _difference(verdict.comparisons.get(label), same=label == ours),
                ", ".join(_seed(run) for run in runs),
                spread([run.last_test for run in valid]) if valid else "–",
                _difference(verdict.last_comparisons.get(label), same=label == ours),
                spread([run.validation for run in valid]) if valid else "–",
                ", ".join(str(run.outcome["best_epoch"]) if run.valid else "–" for run in runs),
                rough(statistics.fmean(run.epochs[-1]["train_loss"] for run in valid)) if valid else "–",
                f"`{runs[0].arguments}`",
            )
        )
    header = (
        *("optimizer", f"test {metric}", f"minus {ours}'s", "seed by seed", f"test {metric}, last epoch"),
        *(
            f"minus {ours}'s, last",
            f"validation {metric}",
            "best epoch",
            f"last {experiment.task.training_loss}",
            "settings",
        ),
    )
    keep = [i for i in range(len(header)) if i not in (2, 5) or verdict.comparisons]
    rows = [tuple(row[i] for i in keep) for row in rows]
    return table([header[i] for i in keep], rows, left={0, len(keep) - 1})


def _beside_results(verdict: Verdict, *, first: bool) -> str:
    sentences = []
    if first and verdict.experiment.repeated:
        sentences.append("± is the standard deviation over the seeds; beside a difference, its margin.")
    if verdict.comparisons and not verdict.search:
        sentences.append("Settings are untuned: this compares them as much as the optimizers.")
    return " ".join(sentences)


def _difference(comparison: Comparison | None, *, same: bool) -> str:
    if comparison is None:
        return "0" if same else "–"
    return f"**{margin(comparison)}**" if comparison.clear else margin(comparison)


def _seed(run: Run) -> str:
    if not run.started:
        return "not started"
    if not run.finished:
        return "unfinished"
    return "diverged" if run.diverged else number(run.test) if run.tested else "not tested"


def _dots_caption(verdict: Verdict) -> str:
    experiment = verdict.experiment
    metric, n = experiment.metric, next(iter(experiment.valid.values()))[0].test_examples
    size = f" {n:,} test examples: one of them counts {100 / n:.2g} %." if n and metric.unit == "%" else ""
    said = f" Whiskers: {whiskers}." if (whiskers := figures.whiskers(verdict)) else ""
    return f"Test {metric.called} at the epoch with the best validation {metric.called}.{size}{said}"


def _curves_caption(experiment: Experiment) -> str:
    drops = len(experiment.runs[0].drops())
    sentences = [
        f"The {experiment.task.training_loss} is the mean over an epoch's steps, the rest is measured after it.",
        "An axis of the rest shows the second half of a run; what lies off it is said below it.",
    ]
    if experiment.repeated:
        sentences.insert(0, "Lines are means over the seeds, bands reach from the lowest seed to the highest.")
    if drops:
        sentences.append(f"The dotted {'line is' if drops == 1 else 'lines are'} where the learning rate drops.")
    return " ".join(sentences)
