"""A worker: it takes trials until all are over, its own and those of workers that died."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from adabelief.lab.search.ledger import DEATHS, Alive
from adabelief.lab.search.search import Search, Trial
from adabelief.lab.search.space import Arm
from adabelief.lab.search.storage import StoreGone
from adabelief.lab.search.store import Store

POLL = 0.5
"""Seconds between two looks for what others may leave behind."""

NOBODYS_FAULT = (OSError, ImportError, MemoryError)
"""What ends a search instead of counting against an arm: no disk, no data, no store, no package."""


def work(search: Search, *, after: Callable[[], None] = lambda: None, parent: Alive | None = None) -> None:
    """Works until every trial of a search is over.

    Args:
        search: What to do.
        after: Called after every trial.
        parent: The process to end with, where another one started this one.

    Raises:
        ValueError: If the store has another search of this name.
        OSError: If the store does not answer, data cannot be read or a file cannot be written. The trial is put back.
    """
    with closing(Store(search)) as store:
        store.replenish()
        while True:
            claimed = store.claim()
            if claimed:
                _run(store, *claimed, parent)
                after()
            elif not store.running() or (parent is not None and not parent.is_alive()):
                return
            else:
                store.bury()
                time.sleep(POLL)


def _run(store: Store, arm: Arm, trial: optuna.Trial, parent: Alive | None) -> None:
    search, noted = store.search, trial.user_attrs
    if noted.get("tries", 0) >= DEATHS:
        _lose(store, trial, "failed", f"{DEATHS} workers died of it")
        return

    def report(value: float, step: int) -> None:
        if store.report(trial, value, step):
            raise optuna.TrialPruned

    note = partial(store.note, trial)
    with _threads_kept(), store.beating(trial, parent):
        try:
            values = store.suggest(arm, trial)
            settings = arm.settings(values, search.usual.get(arm.name))
            note("values", values)
            note("settings", settings)
            given = Trial(arm, noted["slot"], values, settings, search.seed, search.out, report, note)
            value = _number(search.objective(given))
        except optuna.TrialPruned:
            reported = store.reported(trial)
            store.tell(trial, TrialState.PRUNED, reported[max(reported)] if reported else None)
        except UpdateFinishedTrialError:  # somebody took this worker for dead, and the trial up
            return
        except StoreGone:
            raise
        except (KeyboardInterrupt, SystemExit, *NOBODYS_FAULT):
            store.release(trial)
            raise
        except Exception as error:
            _lose(store, trial, "failed", _reason(error))
        else:
            if math.isfinite(value):
                store.tell(trial, TrialState.COMPLETE, value)
            else:
                _lose(store, trial, "diverged", True)


def _number(value: Any) -> float:
    with suppress(TypeError, ValueError, RuntimeError):  # the last of a tensor with several elements
        if not isinstance(value, str):
            return float(value)
    raise TypeError(f"the objective returned {value!r}, which is no number")


def _reason(error: Exception) -> str:
    """A line of what an error says; the text alone of a KeyError or an assertion would say nothing."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _lose(store: Store, trial: optuna.Trial, name: str, reason: str | bool) -> None:
    """Counts a trial as a loss, which a sampler learns from too."""
    with suppress(UpdateFinishedTrialError):
        store.note(trial, name, reason)
        store.tell(trial, TrialState.COMPLETE, store.search.worst)


@contextmanager
def _threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
