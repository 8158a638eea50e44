"""The chapters at the end of a report: how to read its numbers, whose optimizers they are of, where it was run."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adabelief.lab.analysis.blocks import CONFIDENCE
from adabelief.lab.analysis.experiments import PLACE, Experiment, without_folders
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import Verdict
from adabelief.lab.optimizers import METHODS
from adabelief.lab.report.chapter import FIGURES, Chapter
from adabelief.lab.report.words import count, join


def how_to_read(verdicts: Sequence[Verdict]) -> list[Chapter]:
    """What ± means, and how far a difference can be trusted; nothing where nothing has finished."""
    grouped = [verdict.experiment for verdict in verdicts if verdict.experiment.valid]
    if not grouped:
        return []
    parts = [
        "Numbers are means, ± the standard deviation over the seeds where there are several: how far one seed is from "
        "another, not how well the mean is known. The test metric is that of the epoch with the best validation metric "
        "(among equals, the lowest validation loss)."
    ]
    if any(verdict.comparisons for verdict in verdicts):
        parts += _differences(verdicts)
    if any(verdict.search and verdict.search.again for verdict in verdicts):
        parts.append(
            "In a search, the seeds by which validation picked settings count again in what is compared, which "
            "flatters those that were searched."
        )
    parts.append(
        "Every optimizer steps in the form that stands beside its time: if no other was asked for, the fastest that "
        "its package has, one compiled call (fused), else torch's calls for all tensors at once (foreach). Settings "
        "are the task's own, but for those that stand with a name."
    )
    return [Chapter("How to read the numbers", "\n\n".join(parts))]


def _differences(verdicts: Sequence[Verdict]) -> list[str]:
    made = [one for verdict in verdicts for one in verdict.comparisons.values()]
    accuracies = any(verdict.experiment.metric.unit == "%" for verdict in verdicts if verdict.comparisons)
    of_test_set = (
        " For accuracies there is a part for the test set, d(1 − d)/n for a difference d on n examples: the least that "
        "it can vary by where both sides are tested on the same ones. No deviation is taken as smaller than what "
        "rounding to whole examples makes."
    )
    parts = [
        f"A difference is given with half of its {100 * CONFIDENCE:g} % confidence interval, and is bold where that "
        "does not contain 0. Runs of one seed share weights and batches, so they are compared within each seed: a "
        "randomized-block model with the seed as block, on the seeds that all share, and Dunnett's intervals, which "
        "hold together for all comparisons of a table. Where these are less than two seeds, each optimizer is compared "
        "by itself, on those that it shares with the other side or else as an independent sample (Welch; Bonferroni)."
        f"{of_test_set if accuracies else ''}"
    ]
    if any(math.isnan(one.margin) for one in made):
        parts.append(
            "One seed shows nothing of how much another would change; then no interval is given and no difference is "
            "called one."
        )
    return [*parts, "A difference that is not bold does not show that two optimizers are equal."]


def left_out(damaged: Sequence[str]) -> list[Chapter]:
    """Runs that could not be read, by what was wrong with each."""
    if not damaged:
        return []
    lines = ["These could not be read, and are in no number:", *(f"- {_without_folders(text)}" for text in damaged)]
    return [Chapter("Runs left out", "\n\n".join([lines[0], "\n".join(lines[1:])]))]


def _without_folders(message: str) -> str:
    """A message as others may see it: of a file's path, the run's own part."""
    path, space, rest = message.partition(" ")
    return f"{'/'.join(Path(path).parts[-4:])}{space}{rest}" if Path(path).is_absolute() else message


def whose(grouped: Sequence[Experiment]) -> list[Chapter]:
    """Who makes the optimizers, and where they are not those behind the paper."""
    used = {run.config.optimizer for experiment in grouped for run in experiment.runs}
    methods = {name: method for name, method in METHODS.items() if name in used}
    plain = [f"{name} ({method.library})" for name, method in methods.items() if not method.note]
    notes = [f"- **{name}** ({method.library}). {method.note}" for name, method in methods.items() if method.note]
    parts = [f"As their packages have them: {join(plain)}." if plain else "", "\n".join(notes)]
    return [Chapter("Whose optimizers these are", "\n\n".join(filter(None, parts)))] if methods else []


def where(grouped: Sequence[Experiment]) -> list[Chapter]:
    """The machines, the versions and the commands of all runs."""
    places: dict[str, list[Run]] = {}
    for run in (run for experiment in grouped for run in experiment.runs if run.environment):
        key = json.dumps({**run.environment, "command": None, "commit": None}, sort_keys=True)
        places.setdefault(key, []).append(run)
    lines = []
    for runs in places.values():
        environment = runs[0].environment
        versions = {"Python": environment["python"], **environment["packages"]}
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        commits = [*dict.fromkeys(filter(None, (run.environment.get("commit") for run in runs)))]
        commit = f", {'commit' if len(commits) == 1 else 'commits'} {join(commits)}" if commits else ""
        place = [str(environment[name]) for name in PLACE if name in ("processor", "system")]
        lines.append(
            f"- {count(len(runs), 'run')} on {', '.join(place)}: {count(environment['cores'], 'core')}, "
            f"{count(environment['threads'], 'thread')} of torch, device {environment['device']}, "
            f"{count(environment['processes'], 'process')}. {listed}{commit}. Started by"
        )
        commands = sorted({_command(run.environment) for run in runs})
        # Each in a block of its own, of the list's item: a page folds those that are long.
        lines += [f"\n    ```sh\n    {command}\n    ```\n" for command in commands]
    return [Chapter("Where it was run", "\n".join(lines))] if lines else []


def _command(environment: Mapping[str, Any]) -> str:
    program, *arguments = environment["command"]
    name = Path(program).name
    return _shared(["adabelief" if name in ("__main__.py", "-m") else name, *arguments])


def _shared(command: Sequence[str]) -> str:
    return shlex.join(map(without_folders, command))


def again(command: str, tables: Mapping[str, str]) -> Chapter:
    """How to make the report once more, with the tables of all of it."""
    command = _shared(shlex.split(command))
    text = [
        f"Made on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by",
        f"```sh\n{command}\n```",
        "A run started again on the same machine with the same versions and threads ends with the same numbers, times "
        "aside, to the last bit on a CPU. Every run has its row in `results.csv`; `table.tex` has the tables for "
        f"LaTeX; the figures are in `{FIGURES}/`, as PNG and as SVG.",
        "The paper: Zhuang et al., [AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients]"
        "(https://arxiv.org/abs/2010.07468), NeurIPS 2020.",
    ]
    return Chapter("Once more", "\n\n".join(text), files=tables)
