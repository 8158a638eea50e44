"""The report: `report.md`, `report.html` (the same in one self-contained file), tables for papers, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Verdict, judge
from adabelief.lab.report import closing, experiment, generated, latex, probed, writer
from adabelief.lab.report import walks as walking
from adabelief.lab.report.chapter import Chapter
from adabelief.lab.report.tables import results_csv
from adabelief.lab.report.walks import is_walk, walk_of
from adabelief.lab.report.words import join
from adabelief.lab.tasks.toy import STEPS, Walk


def write(
    out: Path,
    runs: Sequence[Run],
    *,
    walks: Sequence[Walk] = (),
    walk_limit: int = STEPS,
    command: str,
    title: str = "",
    intro: str = "",
    damaged: Sequence[str] = (),
) -> None:
    """Writes the report into a folder.

    It consists of report.md, report.html, results.csv, table.tex and the folder `figures`; with walks, also of
    walks.csv. What an earlier report wrote into the folder is removed first; nothing else is.

    Args:
        out: The folder; it is made where there is none.
        runs: Finished runs and others; those that are unfinished are named and in no number.
        walks: Over the toy functions, finished ones.
        walk_limit: Steps after which a walk ends.
        command: What makes the report once more.
        title: The report's title; by default, what it is of.
        intro: Markdown, under the title.
        damaged: What is wrong with each run that could not be read: they are named.

    Raises:
        ValueError: If two runs are the same.
        OSError: If a file cannot be written.
    """
    verdicts = [judge(group) for group in experiments(runs)]
    made = chapters(verdicts, walks=walks, walk_limit=walk_limit, damaged=damaged, command=command)
    writer.write(out, title or title_of(verdicts, walks), intro, made)


def chapters(
    verdicts: Sequence[Verdict],
    *,
    walks: Sequence[Walk] = (),
    walk_limit: int = STEPS,
    damaged: Sequence[str] = (),
    command: str,
) -> list[Chapter]:
    """What a report is made of: each experiment, what it generated and a probe saw, the walks, how to read it all."""
    trained, walked = _sorted(verdicts, walks)
    made: list[Chapter] = []
    for verdict in trained:
        made.append(experiment.chapter(verdict, first=not made))
        if verdict.experiment.samples:
            made.append(generated.chapter(verdict))
        if any(run.probe for run in verdict.experiment.runs):
            made.append(probed.chapter(verdict.experiment))
    if walked:
        made.append(walking.chapter(walked, walk_limit))
    tables = {
        "results.csv": results_csv([verdict.experiment for verdict in verdicts]),
        "table.tex": latex.tables(verdicts),
    }
    made += closing.how_to_read(trained)
    made += closing.left_out(damaged)
    made += closing.whose([verdict.experiment for verdict in verdicts])
    made += closing.where([verdict.experiment for verdict in verdicts])
    return [*made, closing.again(command, tables)]


def title_of(verdicts: Sequence[Verdict], walks: Sequence[Walk] = ()) -> str:
    """What a report is of: who, and on what."""
    trained, walked = _sorted(verdicts, walks)
    parts = [verdict.experiment.name.partition(", ") for verdict in trained]
    names = [f"{task} ({rest})" for task, _, rest in parts]
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2} more experiments"]
    if walked:
        names.append(walking.HEADING[0].lower() + walking.HEADING[1:])
    used = {run.config.optimizer for verdict in verdicts for run in verdict.experiment.runs}
    used |= {walk.optimizer.partition(",")[0] for walk in walks}
    others = sorted(used - {"AdaBelief"})
    who = ["AdaBelief"] if "AdaBelief" in used or not used else []
    who += others if len(others) < 3 else ["its rivals" if who else f"{len(others)} optimizers"]
    return f"{join(who)}{f' on {join(names)}' if names else ''}"


def _sorted(verdicts: Sequence[Verdict], walks: Sequence[Walk]) -> tuple[list[Verdict], list[Walk]]:
    """Those that have a chapter of their own, and all walks, which share one."""
    trained = [verdict for verdict in verdicts if not all(map(is_walk, verdict.experiment.runs))]
    runs = [run for verdict in verdicts for run in verdict.experiment.runs]
    return trained, [*walks, *map(walk_of, filter(is_walk, runs))]
