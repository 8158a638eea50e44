"""What an agent's run consists of: it learns while it plays. This needs stable-baselines3 and gymnasium."""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack
from torch import Tensor

from adabelief.lab.models.agents import Agent
from adabelief.lab.task import Request, Workload, refuse_parts
from adabelief.lab.trainer import Trainer

SEEDS = {"validation": 1_000_000, "test": 2_000_000}
"""Seeds of the episodes that are played in evaluations."""

FRAMES = 4
"""Frames of an Atari game that the agent sees at a time."""


class Playing(Workload):
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

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """The mean return of the episodes, undiscounted and unclipped, and their number; and what `baselines` says."""
        measured = baselines(self._options)
        for part in SEEDS:
            measured[f"{part}_return"] = mean_return(self._agent, self._options, part)
            measured[f"{part}_episodes"] = self._options["episodes"]
        return measured

    def state_dict(self) -> dict[str, Any]:
        """What brings the agent, its memory and the environment back."""
        return self._agent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plays all that was played, without learning."""
        self._agent.load_state_dict(state)


class Constant:
    """An agent that always does the same."""

    def __init__(self, action: Any) -> None:
        self._action = action

    def predict(self, observation: Any, state: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Its action, for each environment."""
        return np.stack([self._action] * len(observation)), state


class Random:
    """An agent that draws its actions from all that there are."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space = space
        space.seed(0)

    def predict(self, observation: Any, state: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """An action for each environment."""
        return np.stack([self._space.sample() for _ in observation]), state


def mean_return(agent: Any, options: Mapping[str, Any], part: str) -> float:
    """The mean return of an agent over the episodes of a part, as every evaluation plays them."""
    game = environment(options, SEEDS[part])
    returns, _ = evaluate_policy(agent, game, options["episodes"], return_episode_rewards=True, warn=False)
    game.close()
    return statistics.fmean(returns)  # type: ignore[arg-type]


def baselines(options: Mapping[str, Any]) -> dict[str, Any]:
    """What comes of no learning, in the same episodes: the best constant action, and random ones.

    Of a box of actions the lowest, the middle and the highest are tried. Validation picks the constant, whose name is
    the only element of `constant_action`. All runs of a process share what was played.
    """
    return {**_baselines(options["platform"], options["environment"], options["episodes"])}


@cache
def _baselines(platform: str, name: str, episodes: int) -> Mapping[str, Any]:
    options = {"platform": platform, "environment": name, "episodes": episodes}
    game = environment(options, 0)
    named, drawn = dict(_constants(game)), Random(game.action_space)
    game.close()
    on_validation = {name: mean_return(Constant(action), options, "validation") for name, action in named.items()}
    best = max(on_validation, key=lambda name: on_validation[name])
    return {
        "constant_action": [best],
        "validation_constant_return": on_validation[best],
        "test_constant_return": mean_return(Constant(named[best]), options, "test"),
        **{f"{part}_random_return": mean_return(drawn, options, part) for part in SEEDS},
    }


def _constants(game: VecEnv) -> Iterator[tuple[str, Any]]:
    """The actions to do always, with their names."""
    space = game.action_space
    if isinstance(space, spaces.Discrete):
        (inner,) = game.get_attr("unwrapped")
        names = inner.get_action_meanings() if hasattr(inner, "get_action_meanings") else map(str, range(int(space.n)))
        yield from zip(names, np.arange(space.n), strict=True)
    elif isinstance(space, spaces.Box):
        yield from (("lowest", space.low), ("middle", (space.low + space.high) / 2), ("highest", space.high))


class _Timed:
    """An optimizer that tells how long its steps take."""

    def __init__(self, optimizer: Any, seconds: list[float]) -> None:
        self.zero_grad, self._step, self._seconds = optimizer.zero_grad, optimizer.step, seconds

    def step(self) -> None:
        start = time.perf_counter()
        self._step()
        self._seconds.append(time.perf_counter() - start)


def environment(options: Mapping[str, Any], seed: int) -> VecEnv:
    """One environment, wrapped as DQN's experiments do where it is an Atari game.

    Raises:
        ValueError: If there is no such environment.
    """
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
