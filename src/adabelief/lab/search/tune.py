"""The search, from its space to its outcomes: for a training function of one's own, or one of the lab's tasks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from adabelief.lab.console import plain_console
from adabelief.lab.search import ENGINES, SAMPLERS, watch, workers
from adabelief.lab.search.search import DIRECTIONS, Objective, Outcome, Search, ranked
from adabelief.lab.search.space import Space, Tables, read, space
from adabelief.names import one_of
from adabelief.options import K, check, check_path, is_flag


def tune(
    objective: Objective,
    space: Space | Tables | Path | str,
    *,
    direction: str = "minimize",
    trials: int = 20,
    sampler: str = "qmc",
    seed: int = 0,
    prune: bool = False,
    out: Path | str = "tune",
    storage: Path | str = "",
    name: str = "tune",
    workers: int = 1,
    engine: str = "processes",
    console: Console | None = None,
) -> dict[str, list[Outcome]]:
    """Searches the settings of a training function, with as many trials for every arm.

    What was begun goes on when the same call is made again: trials that are over are not run again.

    Args:
        objective: Trains once, with a `Trial`'s settings, and returns a number; nan is a divergence, an exception is
            a failure, and both count as losses. Several workers import it: it has to be a function of a module.
        space: The arms and what of each varies: a table of tables, or a file of TOML (see docs/lab.md).
        direction: "minimize" or "maximize".
        trials: Of each arm.
        sampler: "qmc", the same scrambled Halton points for every arm; "random", the same random ones; "grid"; "tpe",
            which learns from the trials that are over.
        seed: Of the points; `Trial.seed` too.
        prune: End trials early that are behind the median of those before, by what they `report`.
        out: The folder of the search.
        storage: A store that several machines share: the URL of a database or of optuna's gRPC proxy, or a file in a
            shared folder; by default a file in `out`.
        name: What the search is called there.
        workers: Processes on this machine, or tasks of Ray; one is this very process.
        engine: "processes" or "ray".
        console: Where progress goes.

    Returns:
        The trials of each arm that are over, the best first and losses last.

    Raises:
        ValueError: If an argument is refused, or the store has another search of this name.
        OSError: If the store does not answer, or a worker meets an error of the system.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from adabelief.lab.console import silent_console
        >>> arms = {"AdamW": {"lr": {"low": 1e-4, "high": 1.0}}, "AdaBelief": {"lr": {"low": 1e-4, "high": 1.0}}}
        >>> options = {"trials": 4, "console": silent_console()}
        >>> with TemporaryDirectory() as out:
        ...     found = tune(lambda trial: abs(trial.settings["lr"] - 0.01), arms, out=out, **options)
        >>> len(found["AdaBelief"]), found["AdaBelief"][0].settings == found["AdamW"][0].settings
        (4, True)
    """
    if not callable(objective):
        raise ValueError(f"objective must be a function of a Trial, got {objective!r}")
    if not (isinstance(name, str) and name):
        raise ValueError(f"name must be text that is not empty, got {name!r}")
    if not is_flag(prune):
        raise ValueError(f"prune must be True or False, got {prune!r}")
    return conduct(
        Search(
            name=name,
            space=_space(space),
            objective=objective,
            direction=one_of("direction", direction, DIRECTIONS),
            trials=trials,
            out=check_path("out", out).absolute(),
            storage=storage if isinstance(storage, str) else str(check_path("storage", storage)),
            sampler=one_of("sampler", sampler, SAMPLERS),
            seed=seed,
            prune=prune,
        ),
        workers,
        engine=engine,
        console=console,
    )


def conduct(
    search: Search, count: int = 1, *, engine: str = "processes", console: Console | None = None
) -> dict[str, list[Outcome]]:
    """Runs what is left of a search, shows it, and writes `trials.csv`; the arguments are those of `tune`."""
    check("trials", search.trials, *K)
    check("workers", count, *K)
    check("seed", search.seed, "a whole number, at least 0", lambda x: x >= 0 and x == int(x))
    engine = one_of("engine", engine, ENGINES)
    console = console or plain_console()
    search.out.mkdir(parents=True, exist_ok=True)
    with closing(watch.Watch(search, console)) as watching:
        try:
            with watching.shown():
                workers.run(search, count, engine=engine, tick=watching.tick)
        finally:
            outcomes = watching.outcomes()
            watch.write(search, outcomes)
        watching.tick()
    console.print(watch.table(outcomes, search.direction, f"{search.name}: the best of each arm"))
    for message in watch.messages(outcomes):
        console.print(message, soft_wrap=True)
    return {arm: ranked(found, search.direction) for arm, found in watch.by_arm(outcomes).items()}


def _space(given: Any) -> Space:
    if isinstance(given, Space):
        return given
    return read(Path(given)) if isinstance(given, (str, Path)) else space(given)
