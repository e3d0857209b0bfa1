"""Wraps a single Gymnasium environment and validates what it returns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpg_jax.envs.spaces import flatten_goals, has_goals, join_goals, spec_of
from ddpg_jax.errors import ConfigError, EnvironmentFailure, one_line
from ddpg_jax.types import EnvSpec

LARGEST = float(np.finfo(np.float32).max)

NUMBERS = "biuf"
"""The kinds of NumPy's types that are real numbers or truth values."""

LEARNING = {"NormalizeObservation": "normalize_obs", "NormalizeReward": "normalize_reward"}
"""Maps wrappers that learn to the field that does the same for both training and evaluation."""

RESET, STEP = "reset", "step"
"""The two methods of an environment that are called."""
GIVES = {RESET: ("obs", "info"), STEP: ("obs", "reward", "terminated", "truncated", "info")}
"""What each of them must give."""
SUCCESS_KEYS = ("is_success", "success")
"""Names in `info` of whether an episode is a success, in Gymnasium-Robotics and others; the first that is there counts."""


class Lane:
    """Steps a Gymnasium environment, converts its observations to flat float32 vectors and validates its results.

    Observations with goals, a Dict of `observation`, `achieved_goal` and `desired_goal`, are concatenated in this order.
    """

    def __init__(self, env: Any, obs_shape: tuple[int, ...]):
        self.env = env
        self.obs = np.zeros(math.prod(obs_shape), np.float32)
        """`[O]`, the observation to act on next."""
        self.success = math.nan
        """Of the episode that has just ended, as in `Episodes`."""
        self.tried = False
        """True after a trial."""
        self._bounds = _bounds_of(env)
        self._shape = obs_shape
        self._has_goals = has_goals(env.observation_space)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode and returns its first observation, `[O]`.

        Raises:
            EnvironmentFailure: the environment raised, returned a non-finite number, or changed its shapes or bounds.
        """
        try:
            obs, _ = unpacked(self.env.reset(seed=seed), RESET)
            self._store(obs)
            if _bounds_of(self.env) != self._bounds:
                raise EnvironmentFailure(f"changed the bounds of its actions to {self.env.action_space}; it must keep them")
        except (EnvironmentFailure, KeyboardInterrupt):
            raise
        except BaseException as error:  # any error, including SystemExit
            raise EnvironmentFailure(f"raised {one_line(error)}") from error
        return self.obs

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Takes a step and returns `(reward, terminated, terminated or truncated)`; the observation is in `obs`.

        The action is in the environment's own units.

        Raises:
            EnvironmentFailure: as in `reset`.
        """
        try:
            result = unpacked(self.env.step(action), STEP)
            self._store(result[0])
            terminated = as_flag(result[2], "terminated")
            last = terminated or as_flag(result[3], "truncated")
            if last:
                self.success = success_of(result[4])
            return as_reward(result[1]), terminated, last
        except (EnvironmentFailure, KeyboardInterrupt):
            raise
        except BaseException as error:  # any error, including SystemExit
            raise EnvironmentFailure(f"raised {one_line(error)}") from error

    def _store(self, obs: Any) -> None:
        """Stores a copy of an observation, because some environments write into the array that they returned last."""
        obs = join_goals(obs) if self._has_goals else np.asarray(obs)
        if obs.shape != self._shape:
            raise EnvironmentFailure(f"gave an observation of shape {obs.shape}; its space says {self._shape}")
        if obs.dtype.kind not in NUMBERS:
            raise EnvironmentFailure(f"gave an observation of type {obs.dtype}; it must be of real numbers")
        flat = obs.astype(np.float32).ravel()
        if not np.logical_and.reduce(np.isfinite(flat)):
            raise EnvironmentFailure(f"gave {flat[~np.isfinite(flat)][0]} as observation")
        self.obs = flat

    def close(self) -> None:
        """Closes the environment and ignores any error that this raises."""
        with contextlib.suppress(Exception):
            self.env.close()


def _bounds_of(env: Any) -> bytes:
    """Returns the bounds of the actions, in a form that is quickly compared."""
    space = env.action_space
    return b"".join(np.asarray(getattr(space, name, ())).tobytes() for name in ("low", "high"))


def layers_of(env: Any) -> list[Any]:
    """Lists the wrappers of an environment, from the outside in, and the environment itself."""
    from gymnasium import Wrapper

    layers = [env]
    while isinstance(layers[-1], Wrapper):
        layers.append(layers[-1].env)
    return layers


def _nested(env: Any) -> list[Any]:
    """Lists all environments that an environment consists of: its layers, and those that any of these holds."""
    import gymnasium

    found = [env]
    for one in found:  # which grows meanwhile
        found += [inner for inner in vars(one).values() if isinstance(inner, gymnasium.Env) and inner not in found]
    return found


def checked(env: Any, name: str) -> Any:
    """Returns an environment that a user's function made, after checking it.

    Raises:
        ConfigError: it is not a Gymnasium environment, has no spaces, or has a wrapper that learns.
    """
    import gymnasium

    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"env={name} makes a {type(env).__name__}; it must make a gymnasium.Env")
    for space in ("observation_space", "action_space"):
        if not isinstance(getattr(env, space, None), gymnasium.Space):
            raise ConfigError(f"env={name} has no {space}; it must be one of gymnasium.spaces")
    for layer in _nested(env):
        for learning, field in LEARNING.items():
            # With statistics that are fixed, it learns nothing.
            if isinstance(layer, getattr(gymnasium.wrappers, learning)) and layer.update_running_mean:
                raise ConfigError(
                    f"env={name} has the wrapper {type(layer).__name__}, which is not allowed, because evaluation would not "
                    f"see what training has learned; it must be replaced by {field}=true"
                )
    return env


def spec_of_env(env: Any, name: str, reward_threshold: float | None) -> EnvSpec:
    """Returns the spec of a Gymnasium environment, without its goals.

    Raises:
        ConfigError: DDPG does not support its spaces.
    """
    from gymnasium.wrappers import TimeLimit

    space = env.observation_space
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if limit is None:  # wrappers of an environment that is not registered have no spec
        limits = [layer._max_episode_steps for layer in layers_of(env) if isinstance(layer, TimeLimit)]
        limit = min(limits, default=None)
    observation_space = flatten_goals(space) if has_goals(space) else space
    return spec_of(name, observation_space, env.action_space, max_steps=limit, reward_threshold=reward_threshold)


def unpacked(result: Any, call: str) -> Any:
    """Returns what a method of an environment gave, after checking how much it is.

    Raises:
        EnvironmentFailure: it is not as much as `GIVES` says.
    """
    if not isinstance(result, tuple | list) or len(result) != len(GIVES[call]):
        found = f"{len(result)} values" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
        raise EnvironmentFailure(f"gave {found} from {call}; it must give {', '.join(GIVES[call])}")
    return result


def as_reward(reward: Any) -> float:
    """Converts a reward to a finite number in the range of float32."""
    if type(reward) is not float:
        array = np.asarray(reward)
        if array.dtype.kind not in NUMBERS:
            raise EnvironmentFailure(f"gave {reward!r} as reward; it must be a number")
        if array.size != 1:
            raise EnvironmentFailure(f"gave a reward of shape {array.shape}; it must be one number")
        reward = float(array.item())
    if not abs(reward) <= LARGEST:
        raise EnvironmentFailure(f"gave {reward} as reward")
    return reward


def as_flag(value: Any, name: str) -> bool:
    """Converts one truth value."""
    if type(value) is bool:
        return value
    array = np.asarray(value)
    if array.dtype.kind not in NUMBERS:
        raise EnvironmentFailure(f"gave {value!r} as {name}; it must be True or False")
    if array.size != 1:
        raise EnvironmentFailure(f"gave {name} of shape {array.shape}; it must be one truth value")
    return bool(array.item())


def success_of(info: Any) -> float:
    """Returns 1 or 0 if the `info` of an episode's last step tells whether it is a success, else NaN.

    >>> success_of({"is_success": np.float32(1.0)}), success_of({"success": False}), success_of({"TimeLimit.truncated": True})
    (1.0, 0.0, nan)
    """
    told = next((info[name] for name in SUCCESS_KEYS if name in info), None) if isinstance(info, Mapping) else None
    try:
        array = np.asarray(told)
    except Exception:  # what is not understood is not told
        return math.nan
    known = array.size == 1 and array.dtype.kind in NUMBERS and not np.isnan(array).any()
    return float(bool(array.item())) if known else math.nan
