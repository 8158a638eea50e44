"""The report: `report.md`, `report.html` (the same in one self-contained file), tables for papers, and figures."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from adabelief.lab import files
from adabelief.lab.analysis.experiments import PLACE, Experiment, experiments, without_folders
from adabelief.lab.analysis.runs import Run
from adabelief.lab.analysis.statistics import CONFIDENCE
from adabelief.lab.optimizers import METHODS
from adabelief.lab.report import figures, generated, html, latex, walk_figures
from adabelief.lab.report.experiment import section
from adabelief.lab.report.sentences import on_experiment
from adabelief.lab.report.tables import results_csv, walks_csv
from adabelief.lab.report.walks import HEADING, is_walk, on_walks, racing, walk_of, walks_section
from adabelief.lab.report.words import FIGURES, count, join, stem
from adabelief.lab.tasks.toy import STEPS, Walk

_MADE_HERE = re.compile(
    rf"\]\({FIGURES}/((?:[\w.=,-]+-(?:curves|test|time|samples|boxes)|trajectories|distances|race)\.(?:png|gif))\)"
)


class _Picture(NamedTuple):
    """A figure's files by suffix; the page shows the one of `shown`."""

    made: Mapping[str, bytes]
    shown: str


def write(
    out: Path,
    runs: Sequence[Run],
    *,
    walks: Sequence[Walk] = (),
    walk_limit: int = STEPS,
    command: str,
    title: str = "AdaBelief and its rivals",
    intro: str = "",
) -> None:
    """Writes the report into a folder.

    It consists of report.md, report.html, results.csv, table.tex and the folder `figures`; with walks, also of
    walks.csv. Figures that an earlier report in the folder showed are removed first; nothing else is.

    Args:
        out: The folder; it is made where there is none.
        runs: Finished runs and others; those that are unfinished are named and in no number.
        walks: Over the toy functions, finished ones.
        walk_limit: Steps after which a walk ends.
        command: What makes the report once more.
        title: The report's title.
        intro: Markdown, under the title.

    Raises:
        ValueError: If two runs are the same.
        OSError: If a file cannot be written.
    """
    grouped, walks = experiments(runs), [*walks, *map(walk_of, filter(is_walk, runs))]
    pictures = dict(_pictures(grouped, walks))
    text = markdown(grouped, walks=walks, walk_limit=walk_limit, command=command, title=title, intro=intro)
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    _forget(out)
    for name, picture in pictures.items():
        for suffix, content in picture.made.items():
            files.write(out / FIGURES / f"{name}.{suffix}", content)
    files.write(out / "results.csv", results_csv(runs))
    files.write(out / "table.tex", latex.tables(grouped))
    if walks:
        files.write(out / "walks.csv", walks_csv(walks))
    else:
        (out / "walks.csv").unlink(missing_ok=True)
    files.write(out / "report.md", text)
    files.write(out / "report.html", html.page(text, {_link(name, p): _data_uri(p) for name, p in pictures.items()}))


def markdown(
    grouped: Sequence[Experiment],
    *,
    walks: Sequence[Walk] = (),
    walk_limit: int = STEPS,
    command: str,
    title: str = "AdaBelief and its rivals",
    intro: str = "",
) -> str:
    """The report's text. What nothing has finished of is left out."""
    trained = _trained(grouped)
    parts = [f"# {title}", intro, _in_short(trained, walks), *map(section, trained)]
    if walks:
        parts.append(walks_section(walks, walk_limit))
    if any(experiment.valid for experiment in trained):
        parts.append(_how_to_read(trained))
    parts += [_whose(grouped), _where(grouped), _again(command)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _pictures(grouped: Sequence[Experiment], walks: Sequence[Walk]) -> Iterator[tuple[str, _Picture]]:
    for experiment in _trained(grouped):
        if experiment.valid:
            yield f"{stem(experiment)}-curves", _Picture(figures.curves(experiment), "svg")
            yield f"{stem(experiment)}-test", _Picture(figures.dots(experiment), "svg")
            yield f"{stem(experiment)}-time", _Picture(figures.times(experiment), "svg")
        if experiment.samples:
            yield f"{stem(experiment)}-samples", _Picture(generated.samples(experiment), "png")
        if experiment.samples and experiment.repeated:
            yield f"{stem(experiment)}-boxes", _Picture(generated.boxes(experiment), "svg")
    if walks:
        yield "trajectories", _Picture(walk_figures.trajectories(walks), "png")
        yield "distances", _Picture(walk_figures.distances(walks), "svg")
    if racers := racing(walks):
        yield "race", _Picture(walk_figures.race(racers), "gif")


def _trained(grouped: Sequence[Experiment]) -> list[Experiment]:
    """Those that have a section of their own: finished walks share one."""
    return [experiment for experiment in grouped if not all(map(is_walk, experiment.runs))]


def _forget(out: Path) -> None:
    """Removes the figures that an earlier report here showed: an old curve must not pass for a new one."""
    earlier = (out / "report.md").read_text() if (out / "report.md").exists() else ""
    for name in _MADE_HERE.findall(earlier):
        for path in (out / FIGURES / name, *((out / FIGURES / name).with_suffix(s) for s in (".svg", ".mp4"))):
            path.unlink(missing_ok=True)


def _in_short(grouped: Sequence[Experiment], walks: Sequence[Walk]) -> str:
    found = [
        (experiment.name, html.slug(experiment.name), sentences)
        for experiment in grouped
        if (sentences := on_experiment(experiment))
    ]
    if sentences := on_walks(walks):
        found.append(("Toy functions", html.slug(HEADING), sentences))
    lines = [
        line
        for name, anchor, sentences in found
        for line in (f"- **[{name}](#{anchor})**", *(f"    - {sentence}" for sentence in sentences))
    ]
    if walks and not lines:
        return ""
    return "\n".join(["## In short", "", *(lines or ["Nothing has finished."])])


def _how_to_read(grouped: Sequence[Experiment]) -> str:
    accuracies = any(experiment.metric.unit == "%" for experiment in grouped)
    parts = [
        "Numbers are means ± standard deviations over the seeds. The test metric is that of the epoch with the best "
        "validation metric (among equals, the lowest validation loss).",
        f"A difference is given with half of its {100 * CONFIDENCE:g} % confidence interval, widened so that all "
        "comparisons of a table hold together (Bonferroni), and is bold where the interval does not contain 0. Its "
        "variance has a part for the seeds, s²/k on each side, with Student's t for few of them"
        + (
            ", and for accuracies a part for the size of the test set, p(1 − p)/n on each side. The second does not "
            "shrink with more seeds. It takes the two sides as tested on different examples; tested on the same ones, "
            "as here, they are closer than that, so the interval is rather too wide than too narrow."
            if accuracies
            else "."
        ),
        "One seed shows nothing of how much another would change; then no interval is given and no difference is "
        "called one. A difference that is not bold does not show that two optimizers are equal.",
        "Every optimizer runs as its library does by default: AdaBelief through its compiled kernel where there is "
        "one, the others as their packages do. Settings are the task's own, but for those that stand with a name.",
    ]
    return "\n\n".join(["## How to read the numbers", *parts])


def _whose(grouped: Sequence[Experiment]) -> str:
    used = {run.config.optimizer for experiment in grouped for run in experiment.runs}
    methods = {name: method for name, method in METHODS.items() if name in used}
    plain = [f"{name} ({method.library})" for name, method in methods.items() if not method.note]
    notes = [f"- **{name}** ({method.library}). {method.note}" for name, method in methods.items() if method.note]
    parts = ["## Whose optimizers these are", f"As their packages have them: {join(plain)}." if plain else ""]
    return "\n\n".join(filter(None, [*parts, "\n".join(notes)])) if methods else ""


def _where(grouped: Sequence[Experiment]) -> str:
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
            f"{count(environment['threads'], 'thread')} of torch, device "
            f"{environment['device']}, {environment['processes']} "
            f"{'process' if environment['processes'] == 1 else 'processes'}. {listed}{commit}. Started by "
            f"{join(sorted({f'`{_command(run.environment)}`' for run in runs}))}."
        )
    return "\n\n".join(["## Where it was run", "\n".join(lines)]) if lines else ""


def _command(environment: Mapping[str, Any]) -> str:
    program, *arguments = environment["command"]
    name = Path(program).name
    return _shared(["adabelief" if name in ("__main__.py", "-m") else name, *arguments])


def _shared(command: Sequence[str]) -> str:
    return shlex.join(map(without_folders, command))


def _again(command: str) -> str:
    command = _shared(shlex.split(command))
    return "\n\n".join(
        [
            "## Once more",
            f"Made on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by `{command}`. A run started again on the same "
            "machine with the same versions ends with the same numbers, times aside, to the last bit on a CPU. Every "
            "run has its row in `results.csv`; `table.tex` has the tables for LaTeX; the figures are in "
            f"`{FIGURES}/`, as PNG and as SVG.",
            "The paper: Zhuang et al., [AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients]"
            "(https://arxiv.org/abs/2010.07468), NeurIPS 2020.",
        ]
    )


def _link(name: str, picture: _Picture) -> str:
    return f"{FIGURES}/{name}.{'gif' if 'gif' in picture.made else 'png'}"


def _data_uri(picture: _Picture) -> str:
    kind = {"svg": "svg+xml"}.get(picture.shown, picture.shown)
    return f"data:image/{kind};base64,{base64.b64encode(picture.made[picture.shown]).decode()}"
