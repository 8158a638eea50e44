"""Reinforcement learning with stable-baselines3: soft actor-critic on MuJoCo, a deep Q-network on an Atari game.

A step is one step of the environment and, once the memory has enough of them, one step of each optimizer. After every
epoch the agent plays some episodes without exploring: those of "validation" and those of "test" are seeded otherwise
than the training, alike after every epoch, for every seed and for every optimizer.
"""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor

from adabelief.lab.catalogue import about
from adabelief.lab.tasks import Experiment, Metric, Request, Scale, Settings, Task, refuse_parts
from adabelief.settings import recommended

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from adabelief.lab.agents import Agent
    from adabelief.lab.train import Trainer

SEEDS = {"validation": 1_000_000, "test": 2_000_000}
"""Of the episodes that are played in evaluations."""

TEMPERATURE_LR = 3e-4
"""Of SAC's temperature, whose optimizer is always Adam."""

FRAMES = 4
"""Of an Atari game that the agent sees at a time."""

PACKAGES: Mapping[str, tuple[str, ...]] = {"classic": (), "mujoco": ("mujoco",), "atari": ("ale_py", "cv2")}
"""What the environments of a platform need, beside stable-baselines3 and gymnasium."""


class Playing(Experiment):
    """An agent that learns while it plays.

    Args:
        request: Batch size; `steps` of an epoch and `episodes` of an evaluation among the options.
        agent: Started, but it has not played yet.
    """

    def __init__(self, request: Request, agent: Agent) -> None:
        self.modules, self.steps_per_epoch = agent.networks, request.options["steps"]
        self._agent, self._options, self._batch_size = agent, request.options, request.batch_size

    def batches(self, epoch: int) -> Iterable[int]:
        """There is no data but what is played: the steps' numbers."""
        return range(self.steps_per_epoch)

    def step(self, batch: int, trainer: Trainer) -> Tensor:
        """Plays a step and learns from the memory; returns the loss of the value function, 0 before learning starts."""
        refuse_parts(trainer)
        self._agent.use({name: _Timed(x, trainer.optimizer_seconds) for name, x in trainer.optimizers.items()})
        if not self._agent.play():
            return torch.zeros(())
        self._agent.train(1, self._batch_size)
        return torch.tensor(self._agent.latest_loss)

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """The mean return of the episodes, undiscounted and unclipped, and their number."""
        from stable_baselines3.common.evaluation import evaluate_policy

        measured: dict[str, float] = {}
        for part, seed in SEEDS.items():
            game, episodes = _environment(self._options, seed), self._options["episodes"]
            returns, _ = evaluate_policy(self._agent, game, episodes, return_episode_rewards=True, warn=False)
            game.close()
            measured |= {f"{part}_return": statistics.fmean(returns), f"{part}_episodes": episodes}  # type: ignore[arg-type]
        return measured

    def state_dict(self) -> dict[str, Any]:
        """What brings the agent, its memory and the environment back."""
        return self._agent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plays all that was played, without learning."""
        self._agent.load_state_dict(state)


class _Timed:
    """An optimizer that tells how long its steps take."""

    def __init__(self, optimizer: Any, seconds: list[float]) -> None:
        self.zero_grad, self._step, self._seconds = optimizer.zero_grad, optimizer.step, seconds

    def step(self) -> None:
        start = time.perf_counter()
        self._step()
        self._seconds.append(time.perf_counter() - start)


def _environment(options: Mapping[str, Any], seed: int) -> VecEnv:
    """One environment, wrapped as DQN's experiments do where it is an Atari game.

    Raises:
        ValueError: If there is no such environment.
    """
    import gymnasium
    from stable_baselines3.common.atari_wrappers import AtariWrapper
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    atari, name = options["platform"] == "atari", options["environment"]
    if atari:
        ale = importlib.import_module("ale_py")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # instead of a banner for each game
        gymnasium.register_envs(ale)
    elif options["platform"] == "mujoco":  # which prints its warnings, and keeps a file of them where it runs
        importlib.import_module("mujoco").set_mju_user_warning(logging.getLogger("mujoco").debug)
    try:
        game = make_vec_env(name, seed=seed, wrapper_class=AtariWrapper if atari else None)
    except gymnasium.error.Error as error:
        raise ValueError(f"environment={name!r}: {error}; --set environment to one of gymnasium's") from error
    return VecFrameStack(game, FRAMES) if atari else game


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"the package {package} is missing or does not work ({error}): pip install 'adabelief[rl]'"
            ) from error


def _make(request: Request, algorithm: str) -> Playing:
    options = request.options
    if options["platform"] not in PACKAGES:
        raise ValueError(f"platform={options['platform']!r}: there are {', '.join(PACKAGES)}")
    _require("stable_baselines3", *PACKAGES[options["platform"]])
    from adabelief.lab import agents

    game, width = _environment(options, request.seed), options["width"]
    common = {
        "buffer_size": options["memory"],
        "learning_starts": options["start"],
        "gamma": 0.99,
        "train_freq": 1,
        "seed": request.seed,
        "device": PartialState().device,
    }
    agent: Agent
    if algorithm == "sac":
        agent = agents.SAC("MlpPolicy", game, TEMPERATURE_LR, policy_kwargs={"net_arch": [width, width]}, **common)
        agent.start()
    else:
        atari = options["platform"] == "atari"
        sizes = {"net_arch": [], "features_extractor_kwargs": {"features_dim": width}}
        agent = agents.DQN(
            *("CnnPolicy" if atari else "MlpPolicy", game),
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
    """The authors' for AdaBelief and Adam; the others, which are ours, have Adam's."""
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
        "EAdam": {**adam, "eps": 1e-8},
    }


def _sac_scales(model: str) -> dict[str, Scale]:
    game = {"platform": "mujoco", "environment": model, "width": 256}
    smoke = {"platform": "classic", "environment": "Pendulum-v1", "width": 64}
    otherwise = (
        f"gymnasium's {model} for the retired v2; validation, which are episodes of other seeds, picks the epoch"
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
        "a deep Q-network (Mnih et al., 2015) with returns of 20 steps, where the authors ran Rainbow, which also has "
        "51 atoms, a dueling network, double learning, noisy layers instead of random actions, and priorities in its "
        "memory; validation, which are games of other seeds, picks the epoch"
    )
    return {
        "smoke": Scale(
            epochs=2,
            batch_size=32,
            options={
                **{**smoke, "memory": 1000, "start": 100, "steps": 300, "episodes": 2},
                **{"exploration": 200, "multi_step": 3, "target_update": 50},
            },
            note="CartPole-v1, a network of 64-64, 600 steps: it shows that everything runs",
        ),
        "small": Scale(
            epochs=4,
            batch_size=32,
            options={
                **{**game, "memory": 8000, "start": 1600, "steps": 2000, "episodes": 3},
                **{"exploration": 4000, "multi_step": 20, "target_update": 2000},
            },
            note="8,000 instead of 100,000 steps, all of them in memory, evaluations of 3 games "
            f"instead of 10; {otherwise}",
        ),
        "paper": Scale(
            epochs=10,
            batch_size=32,
            options={
                **{**game, "memory": 100_000, "start": 1600, "steps": 10_000, "episodes": 10},
                **{"exploration": 10_000, "multi_step": 20, "target_update": 2000},
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
        schedule=lambda moment: 1.0,
    ),
    "rl-atari": Task(
        **about("rl-atari"),
        metric=Metric("return"),
        scales=_atari_scales,
        settings=lambda model: atari_settings(),
        make=partial(_make, algorithm="dqn"),
        schedule=lambda moment: 1.0,
    ),
}
