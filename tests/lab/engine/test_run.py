"""The engine: a run that is disturbed ends as one that is not; several processes are as good as one."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan as plan_runs
from adabelief.lab.engine.folder import Busy, RunFolder
from adabelief.lab.engine.run import train
from adabelief.lab.optimizers import default_form
from adabelief.lab.tasks import task
from adabelief.lab.tasks.images import Classification
from tests.lab.running import cut, go, goes_on, numbers, weights
from tests.lab.tiny import linear, toy_images


def plan(task=None, **choices):
    return plan_runs(task or linear(), scale="smoke", **choices)


def run(path, **choices):
    """What the command does."""
    return session.run(linear(), plan(**choices), path, cpu=True)


@pytest.mark.parametrize("name", ["AdaBelief", "SGD", "Adam"])
@pytest.mark.parametrize("at", [1, 3, 5, 6, 13])
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path, name, at):
    """Whether the last checkpoint is of this step, of an earlier one, or there is none."""
    (config,) = plan(names=[name])
    _, whole = go(tmp_path / "whole", config, linear())
    goes_on(tmp_path / "parts", config, linear(), at, whole=whole, checkpoint_seconds=0.0 if at % 2 else 60.0)
    assert len([line for line in numbers(whole) if "train_loss" in line]) == 4


def test_what_was_appended_after_the_checkpoint_is_cut_off(tmp_path):
    (config,) = plan()
    _, whole = go(tmp_path / "whole", config, linear())
    cut(tmp_path / "parts", config, linear(), lambda steps, run: run.state.epoch == 2)
    folder = RunFolder(tmp_path / "parts" / config.folder)
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 3, "train_l')  # as a process that is killed leaves it
    go(tmp_path / "parts", config, linear())
    assert numbers(folder) == numbers(whole)


def test_a_finished_run_is_not_run_again(tmp_path):
    (config,) = plan()
    result, folder = go(tmp_path, config, linear())
    before = {path: path.stat().st_mtime_ns for path in (folder.metrics, folder.checkpoint, folder.result)}
    again, _ = go(tmp_path, config, linear(), watch=lambda run: pytest.fail("it steps"))
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_configuration_in_the_folder_is_refused(tmp_path):
    (config,) = plan()
    _, folder = go(tmp_path, config, linear())
    changed = config.__class__(**{**config.__dict__, "batch_size": 32})
    with folder.locked(), pytest.raises(ValueError, match=r"another batch_size \(16, now 32\).*--out"):
        train(linear(), changed, folder, Accelerator(cpu=True))
    assert json.loads(folder.config.read_text())["batch_size"] == 16


def test_result_is_that_of_the_epoch_that_validation_picked(tmp_path):
    (config,) = plan(names=["SGD"])
    result, folder = go(tmp_path, config, linear())
    epochs = [line for line in numbers(folder) if "train_loss" in line]
    best = max(epochs, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert (result["best_epoch"], result["test"]) == (best["epoch"], best["test_accuracy"])
    assert result["last_test"] == epochs[-1]["test_accuracy"]
    assert result["parameters"] == 8 * 16 + 16 + 16 * 2 + 2


def test_optimizers_of_a_seed_start_alike_and_see_the_same(tmp_path):
    seen: dict[str, list] = {}

    class Watched(Classification):
        def step(self, batch, trainer):
            first = [p.detach().clone() for p in self.modules["model"].parameters()] if not seen[name] else None
            seen[name].append((first, batch))
            return super().step(batch, trainer)

    def make(request):
        plain = toy_images(request)
        return Watched(request, plain._split, plain.modules["model"])

    for config in plan(linear(make=make), names=["AdaBelief", "SGD"]):
        name = config.optimizer
        seen[name] = []
        go(tmp_path, config, linear(make=make))
    a, b = seen.values()
    assert all(torch.equal(x, y) for x, y in zip(a[0][0], b[0][0], strict=True))
    assert all(torch.equal(x.inputs, y.inputs) for (_, x), (_, y) in zip(a, b, strict=True))


def test_learning_rate_drops_where_the_schedule_says(tmp_path):
    (config,) = plan()
    _, folder = go(tmp_path, config, linear())
    factors = [line["lr_factor"] for line in numbers(folder) if "lr_factor" in line]
    assert factors == [1.0] * 10 + [0.1] * 10


def test_a_diverged_run_ends_early_and_says_so(tmp_path):
    (config,) = plan(names=["SGD"], changes={"lr": 1e30})
    result, folder = go(tmp_path, config, linear())
    assert result["diverged"]
    assert result["epochs"] < 4
    assert all(math.isnan(float(x)) or math.isinf(float(x)) for x in [numbers(folder)[-1]["train_loss"]])
    assert folder.config.parent.parent.name == "SGD,lr=1e+30"


def test_accumulated_parts_are_one_batch(tmp_path):
    """70 images in batches of 16: the last batch has 6, which do not split evenly in 4."""
    whole, parts = (go(tmp_path / str(n), plan(changes={"dropout": 0.0}, accumulate=n)[0], linear())[1] for n in (1, 4))
    for x, y in zip(weights(whole).values(), weights(parts).values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    for a, b in zip(numbers(whole), numbers(parts), strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_a_run_belongs_to_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(Busy, match="another process"), RunFolder(tmp_path).locked():
        pass
    with RunFolder(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"names": ["Nothing"]}, "optimizer: there is no 'Nothing' here; there are AdaBelief, SGD, Adam"),
        ({"scale": "huge"}, "scale: there is no 'huge' here; there are smoke"),
        ({"model": "resnet"}, "model: there is no 'resnet' here; there are none"),
        ({"precision": "int4"}, "precision: there is no 'int4'"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"changes": {"batch_size": 0}}, "batch_size must be a whole number, at least 1 and at most 1000000, got 0"),
        ({"changes": {"momentum": 0.5}}, "AdaBelief of adabelief has no argument momentum; it has lr, betas"),
    ],
)
def test_what_cannot_be_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        plan_runs(linear(), **{"scale": "smoke", **choices})


def test_another_precision_is_another_run():
    assert plan(precision="bf16")[0].folder == Path("linear-smoke/AdaBelief,precision=bf16/seed0")


def test_plan_resolves_everything():
    configs = plan(names=["AdaBelief", "SGD"], seeds=[3, 4], changes={"lr": 0.5, "dropout": 0.25}, epochs=7)
    assert [(c.seed, c.optimizer) for c in configs] == [(3, "AdaBelief"), (3, "SGD"), (4, "AdaBelief"), (4, "SGD")]
    assert {c.settings["lr"] for c in configs} == {0.5}
    assert {c.options["dropout"] for c in configs} == {0.25}
    assert configs[0].folder == Path("linear-smoke/AdaBelief,dropout=0.25,epochs=7,lr=0.5/seed3")


COMMAND = [sys.executable, "-m", "adabelief", "train", "digits", "--scale", "smoke", "--cpu"]


def test_killed_by_the_system_and_started_again(tmp_path):
    """A real process, SIGKILL at moments that it does not choose."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--epochs", "6", "--checkpoint-seconds", "0"]
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, capture_output=True, env=environment)
    (path,) = (tmp_path / "whole").rglob("result.json")
    whole = RunFolder(path.parent)
    parts = RunFolder(tmp_path / "parts" / path.parent.relative_to(tmp_path / "whole"))
    for size in (1, 3000):  # bytes of metrics after which it is killed
        process = subprocess.Popen(
            [*command, "--out", tmp_path / "parts"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if parts.metrics.exists() and parts.metrics.stat().st_size >= size:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not parts.result.exists()
    subprocess.run([*command, "--out", tmp_path / "parts"], check=True, capture_output=True, env=environment)
    assert numbers(parts) == numbers(whole)


def test_two_commands_share_the_work(tmp_path):
    """The second steps over the run that the first is at."""
    started, go_on, said = threading.Event(), threading.Event(), []
    (config, _) = plan(names=["AdaBelief", "SGD"])

    def first():
        with RunFolder(tmp_path / config.folder).locked():
            started.set()
            go_on.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    started.wait(30)

    class Console(session.Console):
        def print(self, *objects, **options):
            said.extend(map(str, objects))

    results = session.run(linear(), plan(names=["AdaBelief", "SGD"]), tmp_path, cpu=True, console=Console())
    go_on.set()
    thread.join()
    assert [config.optimizer for config, _ in results] == ["SGD"]
    assert any("AdaBelief/seed0 is being run by another process" in text for text in said)


@pytest.mark.parametrize(
    ("accelerators", "started", "message"),
    [
        (1, {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}, "2 processes were started for 1 accelerators: .*--cpu"),
        (0, {"WORLD_SIZE": "2"}, "2 processes were started, of which 1 would be used: .*--cpu"),
    ],
)
def test_processes_that_would_be_left_out(accelerators, started, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerators > 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: accelerators)
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        session.run(linear(), plan(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would take two accelerators")
@pytest.mark.xdist_group("torchrun")
def test_two_processes_are_as_good_as_one(tmp_path, two_processes):
    """They are asked for by torchrun alone, without a word of the CPU."""
    run(tmp_path, changes={"dropout": 0.0})
    assert list((two_processes / "norm").rglob("result.json")), "batch normalization has buffers to exchange"
    one, two = (RunFolder(next(out.rglob("result.json")).parent) for out in (tmp_path, two_processes / "plain"))
    environment = json.loads(two.environment.read_text())
    assert environment["processes"] == 2
    assert environment["default_form"] == default_form(torch.device("cpu"))
    assert list(two.path.rglob("events.out.tfevents*")), "the main process has the tracker"
    for a, b in zip(numbers(one), numbers(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    for x, y in zip(weights(one).values(), weights(two).values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


FAULTS = """
import resource, sys, torch
from adabelief.lab.commands import app

app(["train", "digits", "--scale", "smoke", "--epochs", "1", "--cpu", "--out", sys.argv[1]], standalone_mode=False)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()  # until arrays of that size have their places: an aligned one may take turns between several
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_the_command_keeps_memory_for_the_next_step(tmp_path):
    """64 MiB, which glibc would have given back, do not cost a fault for each of their 16,384 pages every time."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout.split()[-1]) < 100


def test_every_run_is_told_when_it_ends(tmp_path):
    said: list[str] = []

    class Console(session.Console):
        def print(self, *objects, **options):
            said.extend(map(str, objects))

    configs = plan(names=["AdaBelief"]) + plan(names=["SGD"], changes={"lr": 1e30})
    session.run(linear(), configs, tmp_path, cpu=True, console=Console())
    for epoch in range(4):
        assert said.pop(0).startswith(f"AdaBelief, seed 0, epoch {epoch + 1}/4, run 1/2, accuracy ")
    assert said.pop(0).startswith("AdaBelief, seed 0: test accuracy ")
    assert said[-1].startswith("SGD,lr=1e+30, seed 0: diverged in epoch ")
    said.clear()
    session.run(linear(), configs, tmp_path, cpu=True, console=Console())
    assert len(said) == 2
    assert all(text.endswith("; already finished, not run again") for text in said)


def test_bf16_where_it_is_asked_for(tmp_path):
    losses = []
    for precision in ("no", "bf16"):
        ((config, _),) = run(tmp_path / precision, precision=precision, changes={"dropout": 0.0})
        folder = RunFolder(tmp_path / precision / config.folder)
        assert config.precision == precision
        assert {x.dtype for x in weights(folder).values()} == {torch.float32}
        losses.append([line["loss"] for line in numbers(folder) if "loss" in line])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert Accelerator(cpu=True).mixed_precision == "no"  # whatever the process does next is not in bf16


def test_digits_learn(tmp_path):
    (config,) = plan_runs(task("digits"), scale="smoke", names=["AdaBelief"])
    result, folder = go(tmp_path, config, task("digits"))
    assert result["test"] > 90
    assert numbers(folder)[-1]["test_examples"] == 300
