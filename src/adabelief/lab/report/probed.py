"""The report's chapter on what a probe saw: how far eps ruled the optimizers, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adabelief.lab.analysis.experiments import Experiment
from adabelief.lab.analysis.runs import Run
from adabelief.lab.engine.recorded import Line
from adabelief.lab.report.chapter import Chapter, Picture
from adabelief.lab.report.style import COLOURS, DASHES, WIDTH, files_of, label_axes, styled
from adabelief.lab.report.tables import as_csv, table
from adabelief.lab.report.words import stem
from adabelief.torch.probe.show import COLUMNS, cells, curves, distribution, floor_of, whole_decades

PANELS, LAYERS = 6, 12
"""Panels of the figure, and rows of the table of layers, at most."""

Histories = Mapping[str, Sequence[Line]]


def chapter(experiment: Experiment) -> Chapter:
    """What a probe saw: a verdict for each optimizer, the distribution of its denominator, and its layers."""
    name, first = stem(experiment), histories(experiment)
    last = {label: lines[-1] for label, lines in first.items()}
    pictures = [
        Picture(f"{name}-denominator", "Distribution of the denominator with its floor, by optimizer", floors(first)),
        Picture(f"{name}-ruled", "Share of the elements that eps rules, by step", ruled(first)),
    ]
    notes = [f"- {label}: {note}" for label, line in last.items() for note in line["notes"]]
    layers = sorted(
        ((label, layer, stats) for label, line in last.items() for layer, stats in line["layers"].items()),
        key=lambda row: -(row[2]["ruled_by_eps"] or 0),
    )[:LAYERS]
    parts = [
        "\n".join(f"- **{label}**: {line['verdict']}" for label, line in last.items()),
        "An element is ruled by eps where the root of its own second moment √v is below the floor of the denominator, "
        "√(eps/(1 − beta2)) for AdaBelief and eps for Adam: there all denominators are next to the same, and the step "
        "is that of momentum SGD.",
        str(pictures[0]),
        "After the last look at the first seed. Filled: the denominator; line: what it would be without eps; dashed: "
        "the floor. What lies left of the floor is ruled by eps.",
        str(pictures[1]),
        table(("optimizer", *COLUMNS), [(label, *cells(line["all"])) for label, line in last.items()], left={0}),
        f"The layers in which eps rules most, at most {LAYERS}:",
        table(
            ("optimizer", "layer", *COLUMNS),
            [(label, f"`{layer}`", *cells(stats)) for label, layer, stats in layers],
            left={0, 1},
        ),
        "Medians of absolute values over the elements, but where a column says otherwise; eps for 90 % is the one at "
        "or below which 90 % of the elements are adaptive. Of every look, at every seed, "
        f"`{name}-probe.csv` has the numbers.",
        "\n".join(notes),
    ]
    return Chapter(
        f"Probe: {experiment.name}",
        "\n\n".join(filter(None, parts)),
        [] if experiment.smoke else [f"{label}: {line['verdict']}" for label, line in last.items()],
        pictures,
        {f"{name}-probe.csv": looks_csv(experiment.runs)},
    )


def histories(experiment: Experiment) -> dict[str, list[Line]]:
    """What was seen in the first probed seed of each optimizer, by label, and module where there are several."""
    found: dict[str, list[Line]] = {}
    for label, runs in experiment.groups.items():
        lines = next((run.probe for run in runs if run.probe), ())
        modules = list(dict.fromkeys(line["module"] for line in lines))
        for module in modules:
            key = f"{label}, {module}" if len(modules) > 1 else label
            found[key] = [line for line in lines if line["module"] == module]
    return found


@styled
def floors(seen: Histories) -> dict[str, bytes]:
    """The distribution of the denominator after the last look, in a panel for each optimizer."""
    shown = dict(list(seen.items())[:PANELS])
    figure = Figure(figsize=(WIDTH, 0.7 + 1.25 * len(shown)))
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (label, lines) in zip(panels, shown.items(), strict=True):
        distribution(axes, lines[-1]["all"], _colour(label))
        label_axes(axes, f"{label}: floor {floor_of(lines[-1]['all'])}", None, "% of elements")
    whole_decades(panels[-1])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    panels[-1].set_xlabel("denominator (log scale)")
    return files_of(figure)


@styled
def ruled(seen: Histories) -> dict[str, bytes]:
    """The share of the elements that eps rules, by step."""
    figure = Figure(figsize=(WIDTH, 2.4))
    axes = figure.subplots()
    for i, (label, lines) in enumerate(seen.items()):
        points = [
            (x["run_step"], 100 * x["all"]["ruled_by_eps"]) for x in lines if x["all"].get("ruled_by_eps") is not None
        ]
        style = "-" if label.startswith("AdaBelief") and not i else DASHES[i % len(DASHES)]
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()), color=_colour(label), linestyle=style, label=label
        )
    axes.set_ylim(-3, 103)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    label_axes(axes, "Elements ruled by eps, %", "step", None)
    return files_of(figure)


def looks_csv(runs: Sequence[Run]) -> str:
    """A row for each group and each layer of every look."""
    rows = [
        {
            "optimizer": run.label,
            "seed": run.config.seed,
            "run_step": line["run_step"],
            "module": line["module"],
            "kind": kind,
            "name": name,
            **curves(stats),
        }
        for run in runs
        for line in run.probe
        for kind in ("groups", "layers")
        for name, stats in line[kind].items()
    ]
    return as_csv(rows)


def _colour(label: str) -> str:
    """The optimizer's own, whatever else its label says."""
    return COLOURS[label.partition(" (")[0].partition(", ")[0]]
