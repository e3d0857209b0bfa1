"""Gymnasium environments for tests, and a way to step them through compiled calls, one vector step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box

import ddpg_jax as dj
from ddpg_jax.envs.host import host_env

Row = tuple[Any, ...]
"""`(obs, action, reward, terminated, last, next_obs)` of one step."""


class Counter(gymnasium.Env[np.ndarray, np.ndarray]):
    """Its observation is (lane, episode, step), so that every transition can be told; it keeps a diary of what happened.

    Episodes last 3, 1 and 4 steps in turn and are terminated, truncated, or both at once, in turn.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, lane: int = 0):
        self.lane, self.episode, self.clock = lane, -1, 0
        self.diary: list[Row] = []

    def observe(self) -> np.ndarray:
        return np.array([self.lane, self.episode, self.clock], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.clock = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.clock = self.observe(), self.clock + 1
        ended = self.clock == (3, 1, 4)[self.episode % 3]
        terminated, truncated = ended and self.episode % 3 != 1, ended and self.episode % 3 != 0
        reward = float(action[0]) + self.clock
        self.diary.append((before, action.copy(), reward, terminated, ended, self.observe()))
        return self.observe(), reward, terminated, truncated, {}


class Faulty(Counter):
    """Does something wrong at the third step, or at the second reset."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = super().reset(seed=seed)
        if self.episode > 0 and self.fault == "reset raises":
            raise ValueError("the doors are shut")
        return (obs * np.nan if self.episode > 0 and self.fault == "reset gives NaN" else obs), info

    def step(self, action: np.ndarray) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.clock == 3:
            if self.fault == "raises":
                raise ValueError("the motor is on fire")
            if self.fault == "Ctrl-C":
                raise KeyboardInterrupt
            reward = {"NaN reward": np.nan, "infinite reward": np.inf, "huge reward": 1e40}.get(self.fault, reward)
            obs = {"NaN observation": obs * np.nan, "other shape": obs[:2]}.get(self.fault, obs)
            reward = {"two rewards": np.zeros(2), "no reward": None}.get(self.fault, reward)
            if self.fault == "old step":
                return obs, reward, terminated, info
        return obs, reward, terminated, truncated, info


class Told(NamedTuple):
    """What a vector step gave, `[N, ...]`."""

    reward: np.ndarray
    terminated: np.ndarray
    last: np.ndarray
    next_obs: np.ndarray
    obs: np.ndarray


class Vector:
    """N environments behind compiled calls. What goes wrong is raised here."""

    def __init__(self, make: Callable[[], Any], lanes: int = 1):
        self.env: dj.Env = host_env(make, "Test")
        assert self.env.outside is not None
        self.outside = self.env.outside
        self.outside.prepare(lanes)
        self.lanes, self.spec, self.state, self.obs = lanes, self.env.spec, (), jnp.zeros(())
        self._reset = jax.jit(jax.vmap(self.env.reset))
        self._step = jax.jit(jax.vmap(self.env.step))

    def reset(self, seed: int = 0) -> np.ndarray:
        """Closes what was open, and opens anew; `[N, O]`."""
        self.state, self.obs = self._reset(jax.random.split(jax.random.key(seed), self.lanes))
        self._check()
        return np.asarray(self.obs)

    def step(self, action: Any) -> Told:
        """One step with actions `[N, A]` in [-1, 1]."""
        keys = jax.random.split(jax.random.key(0), self.lanes)
        action = jnp.asarray(action, jnp.float32)
        self.state, self.obs, t = jax.tree.map(np.asarray, self._step(keys, self.state, self.obs, action))
        self._check()
        np.testing.assert_array_equal(t.action, action)
        return Told(t.reward, t.discount == 0, t.last, t.next_obs, self.obs)

    def play(self, steps: int, seed: int) -> list[Told]:
        """Random actions."""
        actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, self.lanes, self.spec.action_dim))
        return [self.step(action) for action in actions]

    def snapshot(self) -> str | None:
        return self.outside.save(self.state)

    def restore(self, text: str) -> None:
        self.state = self.outside.load(text, np.asarray(self.obs))

    def _check(self) -> None:
        error = self.outside.failure(self.state)
        if error is not None:
            raise error
