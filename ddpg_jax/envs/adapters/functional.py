"""Adapts Gymnasium's functional environments (`FuncEnv`), which are written in JAX.

Gymnasium declares that interface subject to change; only this file depends on it.
"""

from __future__ import annotations

from typing import Any

import jax

from ddpg_jax.envs.make import make_env
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.types import Array, Env, Key


def from_functional(func_env: Any, name: str, max_steps: int, *, reward_threshold: float | None = None) -> Env:
    """Makes an `Env` from a `FuncEnv` (`gymnasium.experimental.functional`).

    Args:
        func_env: an object with `initial`, `transition`, `observation`, `reward`, `terminal`, and Box spaces.
        name: the name used in reports.
        max_steps: the time limit, which ends an episode as a TRUNCATION. A `FuncEnv` has none of its own.
        reward_threshold: mean return at which the environment counts as solved.

    Raises:
        ConfigError: a space is not a Box, or the actions are unbounded.
    """
    spaces = func_env.observation_space, func_env.action_space
    spec = spec_of(name, *spaces, max_steps=max_steps, reward_threshold=reward_threshold)

    def advance(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array]:
        transition_key, reward_key, terminal_key = jax.random.split(key, 3)
        after = func_env.transition(state, action, transition_key)
        return after, func_env.reward(state, action, after, reward_key), func_env.terminal(after, terminal_key)

    def observe(state: Any) -> Array:
        return func_env.observation(state, None)

    def start_observed(key: Key) -> tuple[Any, Array]:
        start_key, observation_key = jax.random.split(key)
        state = func_env.initial(start_key)
        return state, func_env.observation(state, observation_key)

    def advance_observed(key: Key, state: tuple[Any, Array], action: Array) -> tuple[tuple[Any, Array], Array, Array]:
        step_key, observation_key = jax.random.split(key)
        after, reward, terminated = advance(step_key, state[0], action)
        return (after, func_env.observation(after, observation_key)), reward, terminated

    try:
        jax.eval_shape(lambda key: observe(func_env.initial(key)), jax.random.key(0))
    except Exception:  # observations are random: each is drawn once and stored with its state
        return make_env(spec, start_observed, advance_observed, observe=lambda state: state[1])
    return make_env(spec, func_env.initial, advance, observe=observe)


def pendulum() -> Env:
    """Makes Gymnasium's `Pendulum-v1` on the device, with its dynamics and reward, truncated after 200 steps."""
    from gymnasium.envs.phys2d.pendulum import PendulumFunctional

    return from_functional(PendulumFunctional(), "Pendulum-v1", max_steps=200)
