"""Several workers: processes of one machine, of Ray, and machines that share a store."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("optuna", reason="there is no optuna here: pip install 'adabelief[tune]'")

from optuna.trial import TrialState

from adabelief.lab import tune
from adabelief.lab.analysis.runs import load
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.workers import process_context
from adabelief.lab.search.conditions import Conditions
from adabelief.lab.search.search import FINISHED, Search
from adabelief.lab.search.space import space
from adabelief.lab.search.storage import StoreGone
from adabelief.lab.search.store import Store
from adabelief.lab.search.trial import search_of
from adabelief.lab.search.tune import conduct
from adabelief.lab.search.work import work
from adabelief.lab.search.workers import PRELOAD
from tests.lab.running import equal, numbers, weights
from tests.lab.search import servers
from tests.lab.search.objectives import Gone, Killed, Orphaned, distance, endless, refusing

pytestmark = pytest.mark.xdist_group("workers")  # they share the process that has imported everything

ARM = {"AdamW": {"lr": {"low": 1e-4, "high": 1e-1}}}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, color_system=None)


def digits(out: Path) -> Search:
    conditions = Conditions("digits", scale="smoke")
    tables = {"common": {"lr": {"low": 1e-3, "high": 1e-1}}, "AdaBelief": {"floor": 1e-4}, "SGD": {}}
    return search_of(conditions, space(tables), cpu=True, trials=2, out=out.absolute())


def test_three_workers_of_which_one_is_killed_find_what_one_finds(console):
    alone = conduct(digits(Path("alone")), console=console)
    shared = digits(Path("shared"))
    shared = replace(shared, objective=Killed(shared.objective, Path("killed").absolute(), slot=1))
    found = conduct(shared, 3, console=console)
    assert Path("killed").exists()
    for arm, outcomes in alone.items():
        assert [(x.slot, x.value) for x in found[arm]] == [(x.slot, x.value) for x in outcomes]
    assert sorted(x.tries for outcomes in found.values() for x in outcomes) == [0, 0, 0, 1]
    raw = [trial for study in Store(shared).studies.values() for trial in study.trials]
    done = [trial for trial in raw if trial.state == TrialState.COMPLETE]
    assert sorted((trial.user_attrs["slot"]) for trial in done) == [0, 0, 1, 1]
    assert len(raw) == 5
    (resumed,) = (x for outcomes in found.values() for x in outcomes if x.tries)
    folder, whole = RunFolder(shared.out / resumed.folder), RunFolder(Path("alone") / resumed.folder)
    assert folder.metrics.read_bytes().startswith(Path("killed").read_bytes())  # it went on from its checkpoint
    assert numbers(folder) == numbers(whole)
    assert equal(weights(folder), weights(whole))
    assert len(load([shared.out])) == 4
    assert console.file.getvalue().count("finished") == 8


def test_a_search_whose_process_was_killed_goes_on_at_once(console):
    process = process_context(PRELOAD).Process(target=tune, args=(endless, ARM), kwargs={"trials": 2, "out": "out"})
    process.start()
    while not Path("out/begun").exists():
        assert process.is_alive()
        process.join(timeout=0.05)
    process.kill()
    process.join()
    found = tune(distance, ARM, trials=2, out="out", console=console)["AdamW"]
    assert sorted((x.slot, x.state, x.tries) for x in found) == [(0, FINISHED, 1), (1, FINISHED, 0)]


def test_a_worker_ends_with_the_process_that_it_works_for():
    one = Search(name="one", space=space(ARM), objective=endless, direction="minimize", trials=1, out=Path.cwd())
    process = process_context(PRELOAD).Process(target=work, args=(one,), kwargs={"parent": Orphaned()})
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 1
    assert Path("begun").exists()


def test_what_a_worker_refuses_is_raised_here(console):
    with pytest.raises(OSError, match="no such data"):
        tune(refusing, ARM, trials=2, out="out", workers=2, console=console)


@pytest.mark.parametrize("server", [servers.postgres, servers.proxy])
def test_a_store_that_machines_share_and_that_goes_away(server, console):
    with server() as (url, process):
        found = tune(distance, ARM, trials=2, out="one", storage=url, console=console)
        again = tune(refusing, ARM, trials=2, out="another", storage=url, console=console)
        assert found == again
        more = Search(
            name="more", space=space(ARM), objective=Gone(process.pid), direction="minimize", trials=2, out=Path.cwd()
        )
        with pytest.raises(StoreGone, match=rf"storage='{url[:8]}.* does not answer \(.*\); see that it is there"):
            conduct(replace(more, storage=url), console=console)


def test_ray(console):
    ray = pytest.importorskip("ray", reason="there is no Ray here: pip install ray")

    def objective(trial):  # not of a module: Ray's processes know nothing of where the tests are
        return abs(trial.settings["lr"] - 0.01)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = tune(objective, ARM, trials=3, out="out", workers=2, engine="ray", console=console)["AdamW"]
    finally:
        ray.shutdown()
    assert [(x.slot, x.value) for x in found] == [
        (x.slot, x.value) for x in tune(distance, ARM, trials=3, out="alone", console=console)["AdamW"]
    ]
