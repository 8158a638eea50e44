"""The reinforcement learning tasks: runs, resumption by playing again, and whose steps the agents take."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import pytest
import torch
from accelerate import Accelerator

from adabelief import AdaBelief
from adabelief.lab.analysis.runs import load
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan as plan_runs
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.report import report
from adabelief.lab.task import Request
from adabelief.lab.tasks import task
from tests.lab.running import equal, go, goes_on, numbers, weights

SHORT = {"steps": 60, "start": 50, "episodes": 1}


def plan(name, **choices):
    return plan_runs(task(name), **{"scale": "smoke", **choices})


def request(config):
    return Request(config.model, config.seed, config.batch_size, config.options, None)


@pytest.mark.parametrize(("name", "networks"), [("rl-sac", {"actor", "critic"}), ("rl-atari", {"value"})])
def test_smoke(tmp_path, name, networks):
    configs = plan(name, names=["AdaBelief", "Adam"], changes=SHORT)
    (first, result), (second, _) = session.run(task(name), configs, tmp_path, cpu=True)
    states = [weights(RunFolder(tmp_path / config.folder)) for config in (first, second)]
    assert {key.partition(".")[0] for key in states[0]} == networks
    assert not equal(*states)
    assert result["parameters"] == sum(x.numel() for x in states[0].values())
    epochs = [line for line in numbers(RunFolder(tmp_path / first.folder)) if "train_loss" in line]
    assert [line["step"] for line in epochs] == [60, 120]
    assert all(line["train_loss"] > 0 and line["test_episodes"] == 1 for line in epochs)
    assert result["optimizer_seconds"] < result["step_seconds"]


PLATFORMS = [
    ("rl-sac", "smoke", {}, "stable_baselines3"),
    ("rl-atari", "smoke", {"exploration": 100}, "stable_baselines3"),
    ("rl-sac", "small", {"width": 16, "environment": "Hopper-v5"}, "mujoco"),
    ("rl-atari", "small", {"width": 16, "memory": 200}, "ale_py"),
]


@pytest.mark.parametrize(("name", "scale", "changes", "package"), PLATFORMS)
def test_a_run_that_stops_anywhere_ends_with_the_same_bits(tmp_path, name, scale, changes, package):
    """Before anything is learned, at the end of an epoch, in the middle of the next one."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    (config,) = plan(name, scale=scale, epochs=2, changes={**SHORT, **changes, "batch_size": 16})
    _, whole = go(tmp_path / "whole", config, task(name))
    for at in (20, 60, 95):
        goes_on(tmp_path / str(at), config, task(name), at, whole=whole)


def made_by_hand(name, config):
    """What stable-baselines3 does by itself, with the optimizer as its class."""
    import stable_baselines3  # may import TensorFlow, behind which Triton, which adabelief imports, cannot be imported

    settings = {key: value for key, value in config.settings.items() if key != "lr"}
    options = config.options
    common = {
        **{"learning_rate": config.settings["lr"], "batch_size": config.batch_size, "seed": config.seed},
        **{"buffer_size": options["memory"], "learning_starts": options["start"], "device": "cpu", "train_freq": 1},
        "policy_kwargs": {"net_arch": [64, 64], "optimizer_class": AdaBelief, "optimizer_kwargs": settings},
    }
    if name == "rl-sac":
        agent = stable_baselines3.SAC("MlpPolicy", "Pendulum-v1", **common)
        agent.learn(options["steps"])
        return {"actor": agent.actor, "critic": agent.critic}
    rest = {"exploration_fraction": 1.0, "exploration_final_eps": 0.01, "target_update_interval": 50, "n_steps": 3}
    agent = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **common, **rest)
    agent.learn(options["steps"])
    return {"value": agent.q_net}


@pytest.mark.parametrize("name", ["rl-sac", "rl-atari"])
def test_steps_are_those_of_the_library_with_this_optimizer(tmp_path, name):
    """In the library one learning rate is for all optimizers: it is that of the temperature here."""
    changes = {**SHORT, "steps": 100, "lr": 3e-4} | ({"exploration": 100} if name == "rl-atari" else {})
    (config,) = plan(name, names=["AdaBelief"], epochs=1, changes=changes)
    _, folder = go(tmp_path, config, task(name))
    modules = made_by_hand(name, config)
    expected = {f"{part}.{key}": x for part, module in modules.items() for key, x in module.state_dict().items()}
    assert equal(weights(folder), expected)


def test_a_step_of_the_temperature_is_not_of_the_optimizer_s_learning_rate():
    (config,) = plan("rl-sac", changes={**SHORT, "lr": 0.0})
    workload = task("rl-sac").make(request(config))
    trainer = trainer_for(workload, config, Accelerator(cpu=True))
    before = [p.detach().clone() for p in workload.modules["actor"].parameters()]
    for batch in workload.batches(0):
        workload.step(batch, trainer)
    assert all(torch.equal(p, q) for p, q in zip(before, workload.modules["actor"].parameters(), strict=True))
    steps = SHORT["steps"] - SHORT["start"]
    assert workload._agent.log_ent_coef.item() == pytest.approx(-steps * 3e-4, rel=0.05)


@pytest.mark.parametrize(
    ("name", "scale", "package"),
    [
        ("rl-sac", "smoke", "stable_baselines3"),
        ("rl-sac", "small", "mujoco"),
        ("rl-atari", "small", "ale_py"),
        ("rl-atari", "paper", "cv2"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, name, scale, package):
    for needed in {"stable_baselines3", "mujoco", "ale_py", "cv2"} - {package}:
        monkeypatch.setitem(sys.modules, needed, sys)  # whatever else may be missing
    monkeypatch.setitem(sys.modules, package, None)
    (config,) = plan(name, scale=scale)
    with pytest.raises(ValueError, match=rf"package {package} is missing .*: pip install 'adabelief\[rl\]'"):
        task(name).make(request(config))


def test_agents_stand_beside_a_constant_and_random_actions():
    """A pole that is pushed one way only falls in 8 to 10 steps, at random it takes longer."""
    playing = pytest.importorskip("adabelief.lab.tasks.playing")
    (config,) = plan("rl-atari", changes={"episodes": 8})
    found = playing.baselines(config.options)
    assert found == playing.baselines(config.options)
    assert found["constant_action"][0] in ("0", "1")
    for part in ("validation", "test"):
        assert 8 <= found[f"{part}_constant_return"] <= 11 < found[f"{part}_random_return"] < 40
    (config,) = plan("rl-sac", changes={"episodes": 1})
    assert playing.baselines(config.options)["constant_action"][0] in ("lowest", "middle", "highest")


def test_the_report_says_what_comes_without_learning(tmp_path):
    configs = plan("rl-atari", names=["Adam"], changes=SHORT, epochs=1)
    session.run(task("rl-atari"), configs, tmp_path / "runs", cpu=True)
    report.write(tmp_path / "report", load([tmp_path / "runs"]), command="adabelief report runs")
    text = (tmp_path / "report/report.md").read_text()
    assert re.search(r"an agent whose action is always [01] returns \d+\.00, one with random actions \d+\.00", text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": "Pendulum-v99"}, r"environment='Pendulum-v99': .*--set environment"),
        ({"platform": "roblox"}, "platform='roblox': there are classic, mujoco, atari"),
    ],
)
def test_what_cannot_be_played_is_refused(changes, message):
    (config,) = plan("rl-sac", changes=changes)
    with pytest.raises(ValueError, match=message):
        task("rl-sac").make(request(config))


@pytest.mark.parametrize(
    ("choice", "message"), [({"accumulate": 2}, "--accumulate 2"), ({"precision": "bf16"}, "bf16")]
)
def test_batches_are_not_split_and_numbers_not_shortened(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        session.run(task("rl-sac"), plan("rl-sac", changes=SHORT, **choice), tmp_path, cpu=True)
