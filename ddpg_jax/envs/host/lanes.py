"""One Gymnasium environment of many: what it is asked, and what is refused of its answers."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np

from ddpg_jax.envs.spaces import flatten_goals, has_goals, join_goals, spec_of
from ddpg_jax.errors import ConfigError, EnvironmentFailure, one_line
from ddpg_jax.types import EnvSpec

LARGEST = float(np.finfo(np.float32).max)


class Lane:
    """A Gymnasium environment in the units of the agent: flat float32 observations, and only what was checked.

    Observations with goals, Dict of `observation`, `achieved_goal` and `desired_goal`, are put end to end in this order.
    """

    def __init__(self, env: Any, obs_shape: tuple[int, ...]):
        self.env = env
        self.obs = np.zeros(math.prod(obs_shape), np.float32)
        """`[O]`, the observation to act on next."""
        self._shape = obs_shape
        self._has_goals = has_goals(env.observation_space)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode; `[O]`.

        Raises:
            EnvironmentFailure: the environment raised, gave a number that is not finite, or changed its shapes.
        """
        try:
            obs, _ = _several(self.env.reset(seed=seed), 2, "reset", "obs, info")
            self._note(obs)
        except (EnvironmentFailure, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever it raises, SystemExit too
            raise EnvironmentFailure(f"raised {one_line(error)}") from error
        return self.obs

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Reward, terminated, and terminated or truncated, after an action in the environment's own units; see `obs`.

        Raises:
            EnvironmentFailure: as `reset`.
        """
        try:
            told = _several(self.env.step(action), 5, "step", "obs, reward, terminated, truncated, info")
            self._note(told[0])
            return _number(told[1]), bool(told[2]), bool(told[2] or told[3])
        except (EnvironmentFailure, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever it raises, SystemExit too
            raise EnvironmentFailure(f"raised {one_line(error)}") from error

    def _note(self, obs: Any) -> None:
        """Keeps a copy of an observation, since some environments write into the one that they gave last."""
        obs = join_goals(obs) if self._has_goals else np.asarray(obs)
        if obs.shape != self._shape:
            raise EnvironmentFailure(f"gave an observation of shape {obs.shape}; its space says {self._shape}")
        flat = obs.astype(np.float32).ravel()
        if not np.logical_and.reduce(np.isfinite(flat)):
            raise EnvironmentFailure(f"gave {flat[~np.isfinite(flat)][0]} as observation")
        self.obs = flat

    def close(self) -> None:
        """Closes the environment; what it raises then is nothing that anybody waits for."""
        with contextlib.suppress(Exception):
            self.env.close()


def checked(env: Any, name: str) -> Any:
    """An environment that a user's function made.

    Raises:
        ConfigError: it is none of Gymnasium's, or has no spaces.
    """
    import gymnasium

    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"env={name} makes a {type(env).__name__}; it must make a gymnasium.Env")
    for space in ("observation_space", "action_space"):
        if not isinstance(getattr(env, space, None), gymnasium.Space):
            raise ConfigError(f"env={name} has no {space}; it must be one of gymnasium.spaces")
    return env


def spec_of_env(env: Any, name: str, reward_threshold: float | None) -> EnvSpec:
    """The spec of a Gymnasium environment, its goals apart.

    Raises:
        ConfigError: spaces that DDPG cannot work with.
    """
    space = env.observation_space
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    return spec_of(name, flatten_goals(space) if has_goals(space) else space, env.action_space, limit, reward_threshold)


def _several(told: Any, count: int, call: str, names: str) -> Any:
    if not isinstance(told, tuple | list) or len(told) != count:
        found = f"{len(told)} values" if isinstance(told, tuple | list) else f"a {type(told).__name__}"
        raise EnvironmentFailure(f"gave {found} from {call}; it must give {names}")
    return told


def _number(reward: Any) -> float:
    """A reward as the finite float32 that it must be."""
    if type(reward) is not float:
        array = np.asarray(reward)
        if array.dtype == object:
            raise EnvironmentFailure(f"gave {reward} as reward; it must be a number")
        if array.size != 1:
            raise EnvironmentFailure(f"gave a reward of shape {array.shape}; it must be one number")
        reward = float(array.item())
    if not abs(reward) <= LARGEST:
        raise EnvironmentFailure(f"gave {reward} as reward")
    return reward
