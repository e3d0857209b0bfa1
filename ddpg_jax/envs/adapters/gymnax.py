"""Adapts Gymnax environments: `gymnax/Pendulum-v1`.

Both of its interfaces are supported: gymnax 1, which reports termination and truncation separately, and gymnax 0, which merges
them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.make import make_env
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.types import Array, Env, Key

PREFIX = "gymnax/"
CONTINUOUS = ("MountainCarContinuous-v0", "Pendulum-v1", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")
"""Gymnax environments with continuous actions. They are listed here because inspecting the spaces would build every one."""


def names() -> list[str]:
    """Lists the environments with continuous actions."""
    return [PREFIX + name for name in CONTINUOUS if name in _library().registered_envs]


def make(name: str) -> Env:
    """Makes the environment `gymnax/NAME` with its default parameters, including its time limit.

    It is stepped without Gymnax's own auto-reset, which drops the last observation of an episode.

    Raises:
        KeyError: there is no environment of this name.
        ConfigError: its actions are discrete.
    """
    gymnax, own = _library(), name.removeprefix(PREFIX)
    if own not in gymnax.registered_envs:
        raise KeyError(name)
    env, params = gymnax.make(own)
    limit = params.max_steps_in_episode
    spec = spec_of(
        name, _gymnasium_space(env.observation_space(params)), _gymnasium_space(env.action_space(params)), max_steps=limit
    )
    separate = hasattr(env, "is_truncated")
    endless: Any = params.replace(max_steps_in_episode=np.iinfo(np.int32).max)

    def start(key: Key) -> tuple[Any, Array]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def advance(key: Key, state: tuple[Any, Array], action: Array) -> tuple[tuple[Any, Array], Array, Array]:
        obs, after, reward, done, _ = env.step_env(key, state[0], action, params)
        terminated = done if separate else env.is_terminal(after, endless)
        return (after, obs), jnp.reshape(reward, ()), jnp.reshape(terminated, ())

    return make_env(spec, start, advance, observe=lambda state: state[1])


def _library() -> Any:
    import gymnax

    return gymnax


def _gymnasium_space(space: Any) -> Any:
    """Converts a Box to Gymnasium's, with a bound for each number, and returns other spaces unchanged."""
    from gymnasium.spaces import Box

    if type(space).__name__ != "Box":
        return space
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), space.shape) for bound in (space.low, space.high))
    return Box(low, high, dtype=np.dtype(space.dtype).type)
