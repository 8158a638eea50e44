"""Agents of stable-baselines3 for the lab: played step by step, with optimizers from outside, resumable to the bit.

Environments cannot be saved to the bit, and replay memories are large. What brings both back is what was played: an
environment that is reset with the same seed and given the same actions is in the same state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import stable_baselines3
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn


class Agent(OffPolicyAlgorithm):
    """What the agents share: one step at a time, of one environment."""

    _callback: BaseCallback
    _played: bytearray
    _script: Iterator[NDArray[Any]] | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is trained, each by an optimizer of its own."""
        raise NotImplementedError

    @property
    def target(self) -> nn.Module:
        """What follows a trained network."""
        raise NotImplementedError

    @property
    def latest_loss(self) -> float:
        """The loss of the value function in the last `train`."""
        raise NotImplementedError

    def use(self, optimizers: Mapping[str, Any]) -> None:
        """Has `networks` trained by these optimizers."""
        raise NotImplementedError

    def start(self, exploration: int = 1) -> None:
        """Resets the environment.

        Args:
            exploration: Steps over which a DQN's random actions become rare.
        """
        self.set_logger(Logger(None, []))
        _, self._callback = self._setup_learn(exploration, None)
        self._played = bytearray()

    def play(self) -> bool:
        """One step of the environment, into the memory; returns whether there is enough of it to learn from."""
        assert self.env is not None
        assert self.replay_buffer is not None
        self.collect_rollouts(
            self.env,
            self._callback,
            self.train_freq,  # type: ignore[arg-type]
            self.replay_buffer,
            learning_starts=self.learning_starts,
        )
        return self.num_timesteps > self.learning_starts

    def state_dict(self) -> dict[str, Any]:
        """All but the trained networks, their optimizers and the global random state."""
        return {
            "played": bytes(self._played),
            "draws": self.action_space.np_random.bit_generator.state,
            "target": self.target.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Plays what was played, in an agent that has been started and has not played yet."""
        shape = self.action_space.shape or ()
        actions = np.frombuffer(state["played"], self.action_space.dtype).reshape(-1, 1, *shape)
        self._script = iter(actions)
        for _ in actions:
            self.play()
        self._script = None
        self.action_space.np_random.bit_generator.state = state["draws"]
        self.target.load_state_dict(state["target"])  # playing moved it

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """The action for the environment, and as the memory has it."""
        if self._script is None:
            action, kept = super()._sample_action(*args, **kwargs)
        else:
            action = kept = next(self._script)
            if self.action_space.shape:
                action = self.policy.unscale_action(kept)
        self._played += kept.tobytes()
        return action, kept

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Nothing: the lab sets it, and the temperature's stays."""


class SAC(Agent, stable_baselines3.SAC):
    """Soft actor-critic (Haarnoja et al., 2018), its temperature learned by Adam."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Policy and twin value functions."""
        return {"actor": self.actor, "critic": self.critic}

    @property
    def target(self) -> nn.Module:
        """The moving average of the critic."""
        return self.critic_target

    @property
    def latest_loss(self) -> float:
        """The critic's."""
        return float(self.logger.name_to_value["train/critic_loss"])

    def use(self, optimizers: Mapping[str, Any]) -> None:
        """Has actor and critic trained by these."""
        self.actor.optimizer, self.critic.optimizer = optimizers["actor"], optimizers["critic"]

    def state_dict(self) -> dict[str, Any]:
        """With the temperature and its optimizer."""
        assert self.ent_coef_optimizer is not None
        own = {"temperature": self.log_ent_coef, "temperature_optimizer": self.ent_coef_optimizer.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes these up too."""
        assert self.ent_coef_optimizer is not None
        assert self.log_ent_coef is not None
        super().load_state_dict(state)
        self.log_ent_coef.data.copy_(state["temperature"])
        self.ent_coef_optimizer.load_state_dict(state["temperature_optimizer"])


class DQN(Agent, stable_baselines3.DQN):
    """Deep Q-network (Mnih et al., 2015)."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The value function."""
        return {"value": self.q_net}

    @property
    def target(self) -> nn.Module:
        """Its copy of a while ago."""
        return self.q_net_target

    @property
    def latest_loss(self) -> float:
        """The Huber loss."""
        return float(self.logger.name_to_value["train/loss"])

    def use(self, optimizers: Mapping[str, Any]) -> None:
        """Has the value function trained by this."""
        self.policy.optimizer = optimizers["value"]
