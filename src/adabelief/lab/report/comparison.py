"""The report of a comparison: the answer, each workload, the budgets, how to read it, and every trial as CSV."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from adabelief.lab.analysis.blocks import CONFIDENCE
from adabelief.lab.analysis.bootstrap import Interval
from adabelief.lab.compare import results as reading
from adabelief.lab.compare.conduct import hours
from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.results import Results, trials_csv
from adabelief.lab.compare.verdict import Judged, Verdict, complete, judge, values
from adabelief.lab.report import comparison_figures as figures
from adabelief.lab.report import writer
from adabelief.lab.report.answer import answer, how_sure
from adabelief.lab.report.chapter import Chapter, Picture
from adabelief.lab.report.tables import table
from adabelief.lab.report.words import count, join, number, rough, signed

TRIALS = "trials.csv"
"""Every run of the plan, in the report's folder."""


def write(plan: Plan, runs: Path, out: Path, *, command: str) -> Verdict:
    """Writes the report of what is finished of a comparison so far.

    Args:
        plan: What is compared.
        runs: The folder of the comparison.
        out: The folder of the report.
        command: What makes the report once more.

    Returns:
        What it says.

    Raises:
        ValueError: If a file of a run is damaged.
        OSError: If a file cannot be written.
    """
    found = reading.results(plan, runs)
    verdict = judge(plan, found)
    writer.write(out, plan.title, "", chapters(verdict, reading.unplanned(plan, runs, found), command))
    return verdict


def chapters(verdict: Verdict, unplanned: int, command: str) -> list[Chapter]:
    """The report, chapter by chapter.

    Args:
        verdict: What it says.
        unplanned: How many runs are in the folder that the plan does not name.
        command: What makes it once more.
    """
    return [
        _answer(verdict),
        *(_workload(verdict, each) for each in verdict.results),
        _budget(verdict, unplanned),
        _how_to_read(verdict),
        Chapter(
            "Once more",
            f"```sh\n{command}\n```\n\nEvery run of the plan has its row in `{TRIALS}`; the folders of the finals have "
            "`hits.npz`: which test examples were right.",
            files={TRIALS: trials_csv(verdict.results)},
        ),
    ]


def _answer(verdict: Verdict) -> Chapter:
    whole = [each for each in verdict.results if each.workload.name in verdict.times]
    whole = [each for each in whole if set(verdict.plan.arms) <= each.workload.arms.keys()]
    pictures = [Picture("forest", "Differences by their margins of equivalence", figures.forest(verdict))]
    parts = [how_sure(verdict), _contrasts(verdict), str(pictures[0])]
    if whole:
        pictures.append(Picture("profile", "Performance profiles of steps to target", figures.profile(verdict, whole)))
        parts += [_over_workloads(verdict), str(pictures[1])]
    return Chapter("The answer", "\n\n".join(filter(None, parts)), answer(verdict), pictures)


def _contrasts(verdict: Verdict) -> str:
    by_name = {each.workload.name: each for each in verdict.results}
    rows = [_contrast(one, by_name[one.workload]) for one in verdict.judged]
    header = (
        *("workload", "difference of", "test, last epoch", "interval", "p", "s.e. over examples"),
        *("margin", "p, not equivalent", "so"),
    )
    return table(header, rows, left={0, 1, 8})


def _contrast(one: Judged, each: Results) -> tuple[str, ...]:
    names = one.workload, f"{one.first} − {one.second}"
    margin = f"{number(each.workload.margin)}{each.metric.suffix}"
    if one.contrast is None:
        return (*names, "–", "–", "–", "–", margin, "–", one.verdict)
    difference = one.contrast.difference
    level = max(abs(difference), each.workload.margin)
    ends = [signed(difference + sign * one.contrast.margin, beside=level) for sign in (-1, 1)]
    told = f"**{one.verdict}**" if one.contrast.clear else one.verdict
    if each.workload.scale == "smoke":
        told = "smoke: not concluded"
    return (
        *(*names, f"{signed(difference, beside=level)}{each.metric.suffix}", " to ".join(ends)),
        *(_p(one.p), f"{number(one.over_examples, beside=level)}" if math.isfinite(one.over_examples) else "–"),
        *(margin, _p(one.equivalence), told),
    )


def _over_workloads(verdict: Verdict) -> str:
    rows = [
        (arm, f"{score:.2f}", _interval(verdict.aggregate[arm]) if arm in verdict.aggregate else "–")
        for arm, score in verdict.profile.items()
    ]
    parts = [table(("arm", "profile score", "interquartile mean"), rows, left={0})]
    if verdict.improvement:
        improved = [(f"{a} over {b}", _interval(x)) for (a, b), x in verdict.improvement.items()]
        parts.append(table(("of", "probability of improvement"), improved, left={0}))
    return "\n\n".join(parts)


def _workload(verdict: Verdict, each: Results) -> Chapter:
    name = each.workload.name
    made = [Picture(f"{name}-best-of-k", f"{name}: expected best of k trials", figures.best_of(verdict, each))]
    if any(map(math.isfinite, verdict.sensitivities[name].values())):
        made.append(Picture(f"{name}-lr", f"{name}: loss by learning rate", figures.sensitivity(verdict, each)))
    if figures.mapped(each):
        made.append(Picture(f"{name}-floor", f"{name}: validation by floor and rate", figures.heat(verdict, each)))
    captions = [
        "The mean over all choices of k of an arm's trials of the best one's validation, with 95 % bootstrap bands.",
        "Dots are trials, the line goes through the lowest loss in each eighth of the range; dotted: before training.",
        f"The colour is that of the nearest trial (dots; crosses: lost). Red: Adam's floor, {figures.ADAM_FLOOR:g}.",
    ]
    shown = {"-best-of-k": captions[0], "-lr": captions[1], "-floor": captions[2]}
    text = [_what(each), _arms(verdict, each)]
    for picture in made:
        text += [str(picture), shown[picture.name.removeprefix(name)]]
    return Chapter(name, "\n\n".join(text), (), made)


def _what(each: Results) -> str:
    config = each.search[0].trial.config
    ran = ", ".join(filter(None, (config.task, config.model, config.scale)))
    sentences = [
        f"`{ran}`: {each.workload.about.summary}. {count(config.epochs, 'epoch')}, batches of {config.batch_size}."
    ]
    if each.workload.changes:
        changed = ", ".join(f"{name}={value}" for name, value in each.workload.changes.items())
        sentences.append(f"Changed: {changed}.")
    if not each.finished:
        left = sum(not one.finished for one in (*each.search, *each.finals))
        stage = "search" if not each.searched else "finals"
        sentences.append(f"**Not over:** of the {stage}, {count(left, 'run')} are left; nothing is judged here yet.")
    return " ".join(sentences)


def _arms(verdict: Verdict, each: Results) -> str:
    times, sensitivities = verdict.times.get(each.workload.name), verdict.sensitivities[each.workload.name]
    rows = []
    for arm in each.workload.arms:
        won, final = each.winners.get(arm), each.final(arm)
        rows.append(
            (
                *(arm, _spread(values(each, arm)) if complete(each, arm) else _losses(each, arm)),
                _spread([one.validation for one in final]),
                _spread([one.picked for one in final]),
                number(won.validation) if won else "–",
                f"{sensitivities[arm]:.3g}" if math.isfinite(sensitivities[arm]) else "–",
                _steps(times.steps[arm], "{:,.0f}") if times else "–",
                _steps(times.seconds[arm], "{:,.1f}") if times and times.seconds else "–",
                f"`{_settings(won.trial.config.settings)}`" if won else _without_winner(each, arm),
            )
        )
    metric = ", ".join(filter(None, (each.metric.called, each.metric.unit)))
    header = (
        *("arm", f"test {metric}", "validation", "picked epoch", "search's best", "lr sensitivity"),
        *("steps to target", "seconds", "settings"),
    )
    goal = (
        f" The target is a validation {each.metric.called} of {number(times.goal)}{each.metric.suffix}."
        if times
        else ""
    )
    return (
        table(header, rows, left={0, 8})
        + f"\n\nOf the finals, after the last epoch but for the picked epoch; ± the standard deviation.{goal}"
    )


def _without_winner(each: Results, arm: str) -> str:
    lost = all(one.lost for one in each.search if one.trial.arm == arm)
    return "every trial was lost" if lost else "waiting for a first trial"


def _losses(each: Results, arm: str) -> str:
    found = each.final(arm)
    if not found:
        return "lost" if each.searched and arm not in each.winners else "–"
    lost = [one for one in found if one.lost]
    seeds = join([str(one.trial.config.seed) for one in lost]) if lost else ""
    return f"lost with seed {seeds}" if lost else "–"


def _budget(verdict: Verdict, unplanned: int) -> Chapter:
    rows = []
    for each in verdict.results:
        for arm in each.workload.arms:
            search, final = [one for one in each.search if one.trial.arm == arm], each.final(arm)
            ran = [one.run for one in (*search, *final) if one.run]
            seconds = sum(float(run.outcome["run_seconds"]) for run in ran if run.finished)
            steps = sum(int(run.epochs[-1]["step"]) for run in ran if run.epochs)
            done = [sum(one.finished for one in stage) for stage in (search, final)]
            lost = [sum(one.lost for one in stage) for stage in (search, final)]
            planned = len(search), len(verdict.plan.seeds)
            counts = [f"{n} of {of}{f' ({k} lost)' if k else ''}" for n, of, k in zip(done, planned, lost, strict=True)]
            rows.append((each.workload.name, arm, *counts, f"{steps:,}", hours(seconds / 3600)))
    text = [
        "Every arm had the same points of the search; what it cost:",
        table(("workload", "arm", "search", "finals", "steps", "hours"), rows, left={0, 1}),
    ]
    if unplanned:
        text.append(
            f"**Not of this plan, and in no number here: {count(unplanned, 'run')} in the folder.** The plan was "
            "another one when they were made."
        )
    return Chapter("Budget", "\n\n".join(text))


def _how_to_read(verdict: Verdict) -> Chapter:
    how = "Dunnett's, for comparisons with one arm" if verdict.dunnett else "Bonferroni's, with Holm's p-values"
    reference = verdict.plan.reference
    paragraphs = [
        "The search judges a setting by validation after the last epoch and never reads the test set. Its winner "
        "is run anew on seeds that the search did not have; the test set is read once, after the last epoch.",
        "Differences are of arms on the same seeds, which share weights and batches: a randomized-block model "
        f"with the seed as block. Intervals are {how}; with {100 * CONFIDENCE:g} % they hold for all contrasts on "
        "all workloads together. They are of what other seeds would change, on this test set; what other test "
        "examples would change has a standard error of its own. Bold: the interval leaves 0 out. Equivalent: two "
        "one-sided tests, by Holm over all contrasts, put the difference within the margin. Not told apart says "
        "neither.",
        "A run that diverged or failed is a loss: its arm has no mean and no interval, is called a loss, and "
        "ranks last in all that counts or ranks runs; in means of scores it has the worst value of the workload.",
        "Learning-rate sensitivity (Wortsman et al. 2023): the mean over log lr of the loss, at most that before "
        "training, above the lowest one. Time to target (AlgoPerf): the median over the seeds of the first "
        f"epoch's steps at which validation reaches the median of {reference}'s best values. Profile score: the "
        "mean share of workloads that an arm solves within τ times the quickest, for τ from 1 to 4. Seconds are of "
        "this machine and what else ran on it.",
        "Interquartile mean and probability of improvement are rliable's, with 95 % stratified bootstrap intervals; "
        f"the first is of how far a final is above the mean of {reference}'s, in margins of equivalence.",
    ]
    return Chapter("How to read the numbers", "\n\n".join(paragraphs))


def _interval(found: Interval) -> str:
    return f"{number(found.estimate, beside=1)} ({number(found.low, beside=1)} to {number(found.high, beside=1)})"


def _spread(found: Sequence[float]) -> str:
    known = [x for x in found if math.isfinite(x)]
    if not known:
        return "–"
    mean = statistics.fmean(known)
    return number(mean) + (f" ± {number(statistics.stdev(known), beside=mean)}" if len(known) > 1 else "")


def _steps(found: float, form: str) -> str:
    return form.format(found) if math.isfinite(found) else "never"


def _settings(settings: object) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in dict(settings).items())  # type: ignore[call-overload]


def _p(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else rough(p)
