"""How a search is shown while it goes on, and what came of it: a table, a line for each trial, a CSV file."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from adabelief.lab import files
from adabelief.lab.engine.config import short
from adabelief.lab.search.search import DIVERGED, FAILED, FINISHED, LOST, OVER, PRUNED, RUNNING, Outcome, Search, ranked
from adabelief.lab.search.storage import StoreGone
from adabelief.lab.search.store import Store

TRIALS = "trials.csv"
"""All trials of a search, in its folder."""


class Watch:
    """Looks at a search from outside.

    Args:
        search: The search.
        console: Where it is shown: a table in a terminal, elsewhere a line for each trial that is over.

    Raises:
        ValueError: If the store has another search of this name.
        StoreGone: If it does not answer.
    """

    def __init__(self, search: Search, console: Console) -> None:
        self._search, self._console = search, console
        self._store = Store(search)
        self._outcomes = self._store.outcomes()
        self._told = {(one.arm, one.slot) for one in self._outcomes if one.state in OVER}
        self._start, self._before = time.monotonic(), len(self._told)

    def close(self) -> None:
        """Closes its store."""
        self._store.close()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keeps the table on the console, where it is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=1, transient=True):
            yield

    def tick(self) -> None:
        """Tells what is new, where there is no terminal."""
        if not self._console.is_terminal:
            for one in self.outcomes():
                if one.state in OVER and (one.arm, one.slot) not in self._told:
                    self._told.add((one.arm, one.slot))
                    self._console.print(f"{len(self._told)}/{len(self._outcomes)} {told(one)}", soft_wrap=True)

    def outcomes(self) -> list[Outcome]:
        """All trials; as they were last where the store does not answer now."""
        with suppress(StoreGone):
            self._outcomes = self._store.outcomes()
        return self._outcomes

    def _table(self) -> Table:
        outcomes = self.outcomes()
        over, left = sum(one.state in OVER for one in outcomes), self._left(outcomes)
        title = f"{self._search.name}: trial {over} of {len(outcomes)}"
        return table(outcomes, self._search.direction, title + (f", {left} left" if left else ""))

    def _left(self, outcomes: Sequence[Outcome]) -> str:
        done = sum(one.state in OVER for one in outcomes)
        if done == self._before:
            return ""
        rate = (time.monotonic() - self._start) / (done - self._before)
        return str(timedelta(seconds=round(rate * (len(outcomes) - done))))


def told(one: Outcome) -> str:
    """A trial in a line."""
    what = f"{one.value:.6g}" if one.value is not None else one.reason
    settings = ", ".join(f"{name}={short(value)}" for name, value in one.values.items())
    return f"{one.arm}, trial {one.slot + 1} ({settings}): {' '.join(filter(None, (one.state, what)))}"


def table(outcomes: Sequence[Outcome], direction: str, title: str) -> Table:
    """A row for each arm: how far it is, its best trial, and its losses."""
    listed = Table(title=title, title_justify="left", title_style="", box=None, header_style="bold")
    listed.add_column("arm", no_wrap=True)
    listed.add_column("trials", justify="right")
    special = [state for state in (RUNNING, *LOST, PRUNED) if any(one.state == state for one in outcomes)]
    for name in (*special, "best"):
        listed.add_column(name, justify="right")
    listed.add_column("with", overflow="fold")
    for arm, found in by_arm(outcomes).items():
        states = Counter(one.state for one in found)
        best = next((one for one in ranked(found, direction) if one.state == FINISHED), None)
        listed.add_row(
            arm,
            f"{sum(states[state] for state in OVER)}/{len(found)}",
            *(str(states[state] or "") for state in special),
            *((f"{best.value:.6g}", _values(best.values)) if best else ("", "")),
        )
    return listed


def messages(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What has to be said of arms whose trials were lost: one message for each."""
    for arm, found in by_arm(outcomes).items():
        states = Counter(one.state for one in found if one.state in OVER)
        lost = " and ".join(f"{states[state]} {state}" for state in LOST if states[state])
        if not lost:
            continue
        reasons = Counter(one.reason for one in found if one.state == FAILED)
        why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
        if states[FINISHED] or states[PRUNED]:
            yield f"{arm}: {lost} of {states.total()} trials{why}; they count as losses."
        else:
            remedy = "mend the objective or its space, and begin in another folder"
            if states[DIVERGED]:
                remedy = "give its table in the space smaller learning rates, and begin in another folder"
            yield f"{arm}: no trial came to a number, {lost} of {states.total()}{why}; {remedy}."


def write(search: Search, outcomes: Sequence[Outcome]) -> None:
    """Writes every trial to a CSV file in the search's folder."""
    names = list(dict.fromkeys(name for one in outcomes for name in one.values))
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["arm", "trial", "state", "value", *names, "settings", "seconds", "tries", "reason", "folder"])
    for one in outcomes:
        value = "" if one.value is None else repr(one.value)
        values = [_cell(one.values.get(name, "")) for name in names]
        more = [json.dumps(one.settings), f"{one.seconds:.3f}", one.tries, one.reason, one.folder]
        rows.writerow([one.arm, one.slot + 1, one.state, value, *values, *more])
    files.write(search.out / TRIALS, text.getvalue())


def by_arm(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The trials of each arm."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.arm, []).append(one)
    return found


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in values.items())


def _cell(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
