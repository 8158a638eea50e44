"""The report's chapter on walks over functions of two variables, and what they say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from adabelief.lab.analysis.runs import Run
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.optimizers import describe
from adabelief.lab.report import race, walk_figures
from adabelief.lab.report.chapter import Chapter, Picture
from adabelief.lab.report.tables import table, walks_csv
from adabelief.lab.report.walk_figures import UNDAMPED
from adabelief.lab.report.words import join
from adabelief.lab.tasks.toy import NEAR, PATIENCE, Walk, recorded

HEADING = "Functions of two variables"


def chapter(walks: Sequence[Walk], limit: int) -> Chapter:
    """On all walks, which end after `limit` steps at the latest."""
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
                f"`{describe(re.split(r'[ ,]', walk.optimizer)[0], {'foreach': False, **walk.settings})}`",
            )
        )
    header = (
        *("function", "optimizer", "arrival, step", "steps taken"),
        *("farthest in its last 100 steps", "last value", "settings"),
    )
    functions = [
        (name, f"f(x, y) = {function.formula}".replace("|", "\\|"), str(function.start), str(function.optimum))
        for name, function in FUNCTIONS.items()
        if any(walk.function == name for walk in walks)
    ]
    paths = Picture("trajectories", "The paths over the contours of the functions", walk_figures.trajectories(walks))
    distances = Picture("distances", "Distance to the optimum by step", walk_figures.distances(walks))
    racers = racing(walks)
    animations = [Picture("race", "The walks over one function, animated", race.race(racers))] if racers else []
    text = "\n\n".join(
        [
            table(("name", "function", "start", "optimum"), functions, left={0, 1, 2, 3}),
            "Formulae, learning rate 0.001, betas and eps 1e-8 follow the paper's description (steep has its own "
            "betas, 0.3). The paper published films of its walks but no code, so the starts, SGD's dampening and its "
            "smaller learning rate on the last two functions, where it diverges at 0.001, follow "
            "[a published re-creation](https://github.com/seiyab/adabelief-toy-examples-pytorch). With dampening equal "
            "to the momentum, SGD follows the mean gradient, as Adam and AdaBelief do; the rows *SGD, undamped* have "
            "PyTorch's default instead, whose steps grow ten times as long at momentum 0.9.",
            *map(str, animations),
            str(paths),
            "Paths lie over each other where the optimizers take the same way; the widest is SGD's, the narrowest "
            "AdaBelief's. On the cone, whose start is on the axis, all of them go straight.",
            str(distances),
            f"A dot marks the arrival: the step from which the walk stays within {NEAR} of the optimum (dashed), for "
            f"{PATIENCE} steps at least; then the walk ends, or else after {limit:,} steps. Thin lines show it "
            "after the arrival, where on functions with a crease it may hover instead of coming to rest.",
            table(header, rows, left={0, 1, 6}),
        ]
    )
    pictures = [*animations, paths, distances]
    return Chapter(HEADING, text, on_walks(walks), pictures, {"walks.csv": walks_csv(walks)})


def racing(walks: Sequence[Walk]) -> list[Walk]:
    """The walks that are animated: over Beale's function, or the first that there is."""
    names = [walk.function for walk in walks]
    shown = "beale" if "beale" in names else next(iter(names), "")
    return [walk for walk in walks if walk.function == shown and walk.optimizer != UNDAMPED]


def walk_of(run: Run) -> Walk:
    """The walk that a run of the task `toy` recorded."""
    path = [point for line in run.epochs for point in line["path"]]
    return recorded(run.config.model, run.label, run.config.settings, path)


def is_walk(run: Run) -> bool:
    """Whether a run is a finished walk."""
    return run.config.task == "toy" and run.finished


def on_walks(walks: Sequence[Walk]) -> list[str]:
    """What the walks say, of the functions that every optimizer has finished."""
    arrivals = {(walk.function, walk.optimizer): math.inf if walk.arrival is None else walk.arrival for walk in walks}
    functions = [
        name for name, function in FUNCTIONS.items() if all((name, label) in arrivals for label in function.settings())
    ]
    if not functions:
        return []
    first = [
        name for name in functions if arrivals[name, "AdaBelief"] < min(arrivals[name, "SGD"], arrivals[name, "Adam"])
    ]
    beaten = [name for name in functions if arrivals[name, "SGD, undamped"] < arrivals[name, "AdaBelief"]]
    finding = (
        f"AdaBelief arrives at the optimum before SGD and Adam on {len(first)} of {len(functions)}"
        f"{f' ({join(first)})' if first else ''}, SGD's momentum being dampened so that a step is as long as the "
        "learning rate says."
    )
    if beaten:
        finding += (
            " PyTorch's SGD, which does not dampen unless asked to and so takes steps ten times as long at momentum "
            f"0.9, arrives before AdaBelief on {join(beaten)}: who is first depends on how learning rates are matched."
        )
    return [finding]
