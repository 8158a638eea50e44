"""Reinforcement learning with stable-baselines3: soft actor-critic on MuJoCo, a deep Q-network on an Atari game.

A step is one step of the environment and, once the memory has enough of them, one step of each optimizer. After every
epoch the agent plays some episodes without exploring: those of "validation" and those of "test" are seeded otherwise
than the training, alike after every epoch, for every seed and for every optimizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from accelerate import PartialState

from adabelief.lab.catalogue import about
from adabelief.lab.schedules import constant
from adabelief.lab.task import Metric, Request, Scale, Settings, Task, Workload
from adabelief.settings import recommended

TEMPERATURE_LR = 3e-4
"""Learning rate of SAC's temperature, whose optimizer is always Adam."""

PACKAGES: Mapping[str, tuple[str, ...]] = {"classic": (), "mujoco": ("mujoco",), "atari": ("ale_py", "cv2")}
"""What the environments of a platform need, beside stable-baselines3 and gymnasium."""


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"the package {package} is missing or does not work ({error}): pip install 'adabelief[rl]'"
            ) from error


def _make(request: Request, algorithm: str) -> Workload:
    options = request.options
    if options["platform"] not in PACKAGES:
        raise ValueError(f"platform={options['platform']!r}: there are {', '.join(PACKAGES)}")
    _require("stable_baselines3", *PACKAGES[options["platform"]])
    from adabelief.lab.models import agents
    from adabelief.lab.tasks.playing import Playing, environment

    game, width = environment(options, request.seed), options["width"]
    common = {
        "buffer_size": options["memory"],
        "learning_starts": options["start"],
        "gamma": 0.99,
        "train_freq": 1,
        "seed": request.seed,
        "device": PartialState().device,
    }
    agent: agents.Agent
    if algorithm == "sac":
        agent = agents.SAC("MlpPolicy", game, TEMPERATURE_LR, policy_kwargs={"net_arch": [width, width]}, **common)
        agent.start()
    else:
        atari = options["platform"] == "atari"
        sizes = {"net_arch": [], "features_extractor_kwargs": {"features_dim": width}}
        agent = agents.DQN(
            "CnnPolicy" if atari else "MlpPolicy",
            game,
            policy_kwargs=sizes if atari else {"net_arch": [width, width]},
            n_steps=options["multi_step"],
            target_update_interval=options["target_update"],
            exploration_fraction=1.0,
            exploration_final_eps=0.01,
            max_grad_norm=10,
            **common,
        )
        agent.start(options["exploration"])
    return Playing(request, agent)


def sac_settings() -> Settings:
    """The authors' for AdaBelief and Adam; the others, which are ours, have Adam's, EAdam with AdaBelief's eps."""
    return _settings(recommended("rl-halfcheetah"), lr=1e-3, eps=1e-8)


def atari_settings() -> Settings:
    """The authors' for AdaBelief; Adam has Rainbow's own eps (Hessel et al., 2018). The others are ours."""
    return _settings(recommended("rl-rainbow"), lr=1e-4, eps=1.5e-4)


def _settings(adabelief: Mapping[str, Any], lr: float, eps: float) -> Settings:
    adam = {"lr": lr, "betas": (0.9, 0.999), "eps": eps}
    return {
        "AdaBelief": adabelief,
        "SGD": {"lr": lr},
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-2},
        "RAdam": adam,
        "RMSprop": {"lr": lr, "alpha": 0.99, "eps": eps},
        "EAdam": {**adam, "eps": adabelief["eps"]},
    }


def _sac_scales(model: str) -> dict[str, Scale]:
    game = {"platform": "mujoco", "environment": model, "width": 256}
    smoke = {"platform": "classic", "environment": "Pendulum-v1", "width": 64}
    otherwise = (
        f"gymnasium's {model} for the retired v2; stable-baselines3, whose networks begin with other weights, where "
        "the authors had PFRL; validation, which are episodes of other seeds, picks the epoch"
    )
    return {
        "smoke": Scale(
            epochs=2,
            batch_size=64,
            options={**smoke, "memory": 1000, "start": 100, "steps": 200, "episodes": 2},
            note="Pendulum-v1, networks of 64-64, 400 steps: it shows that everything runs",
        ),
        "small": Scale(
            epochs=10,
            batch_size=256,
            options={**game, "memory": 20_000, "start": 1000, "steps": 2000, "episodes": 5},
            note=f"20,000 instead of 3,000,000 steps, the first 1,000 instead of 10,000 of them at random, evaluations "
            f"of 5 episodes instead of 10; {otherwise}",
        ),
        "paper": Scale(
            epochs=60,
            batch_size=256,
            options={**game, "memory": 1_000_000, "start": 10_000, "steps": 50_000, "episodes": 10},
            note=otherwise,
        ),
    }


def _atari_scales(model: str) -> dict[str, Scale]:
    game = {"platform": "atari", "environment": f"{model}NoFrameskip-v4", "width": 256}
    smoke = {"platform": "classic", "environment": "CartPole-v1", "width": 64}
    otherwise = (
        "stable-baselines3's deep Q-network (Mnih et al., 2015) with returns of 20 steps, where the authors ran "
        "another library's Rainbow, which also has 51 atoms, a dueling network, double learning, noisy layers instead "
        "of random actions, and priorities in its memory; validation, which are games of other seeds, picks the epoch"
    )
    return {
        "smoke": Scale(
            epochs=2,
            batch_size=32,
            options={
                **smoke,
                "memory": 1000,
                "start": 100,
                "steps": 300,
                "episodes": 2,
                "exploration": 200,
                "multi_step": 3,
                "target_update": 50,
            },
            note="CartPole-v1, a network of 64-64, 600 steps: it shows that everything runs",
        ),
        "small": Scale(
            epochs=4,
            batch_size=32,
            options={
                **game,
                "memory": 8000,
                "start": 1600,
                "steps": 2000,
                "episodes": 3,
                "exploration": 4000,
                "multi_step": 20,
                "target_update": 2000,
            },
            note="8,000 instead of 100,000 steps, all of them in memory, evaluations of 3 games "
            f"instead of 10; {otherwise}",
        ),
        "paper": Scale(
            epochs=10,
            batch_size=32,
            options={
                **game,
                "memory": 100_000,
                "start": 1600,
                "steps": 10_000,
                "episodes": 10,
                "exploration": 10_000,
                "multi_step": 20,
                "target_update": 2000,
            },
            note=otherwise,
        ),
    }


TASKS = {
    "rl-sac": Task(
        **about("rl-sac"),
        metric=Metric("return"),
        scales=_sac_scales,
        settings=lambda model: sac_settings(),
        make=partial(_make, algorithm="sac"),
        schedule=constant,
    ),
    "rl-atari": Task(
        **about("rl-atari"),
        metric=Metric("return"),
        scales=_atari_scales,
        settings=lambda model: atari_settings(),
        make=partial(_make, algorithm="dqn"),
        schedule=constant,
    ),
}
