"""Gymnax's environments as an `Env`: `gymnax/Pendulum-v1`.

Both interfaces are known: the one that reports termination and truncation apart (gymnax 1), and the older one that merges them.
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
"""The environments of gymnax whose actions are continuous; to ask each for its space would build all of them."""


def names() -> list[str]:
    """The environments that DDPG can work with."""
    return [PREFIX + name for name in CONTINUOUS if name in _library().registered_envs]


def make(name: str) -> Env:
    """The environment `gymnax/NAME` with its default parameters, among them its time limit.

    It is stepped without gymnax's own auto-reset, which drops the last observation of an episode.

    Raises:
        KeyError: there is none of this name.
        ConfigError: its actions are discrete.
    """
    gymnax, own = _library(), name.removeprefix(PREFIX)
    if own not in gymnax.registered_envs:
        raise KeyError(name)
    env, params = gymnax.make(own)
    limit = params.max_steps_in_episode
    spec = spec_of(name, _plain(env.observation_space(params)), _plain(env.action_space(params)), limit)
    apart = hasattr(env, "is_truncated")
    endless: Any = params.replace(max_steps_in_episode=np.iinfo(np.int32).max)

    def start(key: Key) -> tuple[Any, Array]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def advance(key: Key, state: tuple[Any, Array], action: Array) -> tuple[tuple[Any, Array], Array, Array]:
        obs, after, reward, done, _ = env.step_env(key, state[0], action, params)
        terminated = done if apart else env.is_terminal(after, endless)
        return (after, obs), jnp.reshape(reward, ()), jnp.reshape(terminated, ())

    return make_env(spec, start, advance, lambda state: state[1])


def _library() -> Any:
    import gymnax

    return gymnax


def _plain(space: Any) -> Any:
    """A Box as Gymnasium has it, with a bound for each number; other spaces as they are."""
    from gymnasium.spaces import Box

    if type(space).__name__ != "Box":
        return space
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), space.shape) for bound in (space.low, space.high))
    return Box(low, high, dtype=np.dtype(space.dtype).type)
