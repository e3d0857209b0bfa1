"""Gymnasium's functional environments (`FuncEnv`), which are written in JAX, as an `Env`.

Gymnasium calls that interface subject to change: this file is the only one that knows it.
"""

from __future__ import annotations

from typing import Any

import jax

from ddpg_jax.envs.device import make_env
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.types import Array, Env, Key


def from_functional(func_env: Any, name: str, max_steps: int, reward_threshold: float | None = None) -> Env:
    """An `Env` of a `FuncEnv` (`gymnasium.experimental.functional`).

    Args:
        func_env: has `initial`, `transition`, `observation`, `reward`, `terminal`, and Box spaces. Its observations must be
            drawn without a key.
        name: what reports call it.
        max_steps: the time limit, which ends an episode as a TRUNCATION. A `FuncEnv` has none of its own.
        reward_threshold: mean return at which it counts as solved.

    Raises:
        ConfigError: a space is not a Box, or the actions are unbounded.
    """
    spec = spec_of(name, func_env.observation_space, func_env.action_space, max_steps, reward_threshold)

    def advance(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array]:
        transition_key, reward_key, terminal_key = jax.random.split(key, 3)
        after = func_env.transition(state, action, transition_key)
        return after, func_env.reward(state, action, after, reward_key), func_env.terminal(after, terminal_key)

    return make_env(spec, func_env.initial, advance, lambda state: func_env.observation(state, None))


def pendulum() -> Env:
    """The on-device twin of Gymnasium's `Pendulum-v1`: its dynamics and reward, truncated after 200 steps."""
    from gymnasium.envs.phys2d.pendulum import PendulumFunctional

    return from_functional(PendulumFunctional(), "Pendulum-v1", max_steps=200)
