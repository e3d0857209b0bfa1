"""Adapts physics environments for Brax and MuJoCo Playground, which have the same `reset` and `step` and large states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.envs.make import make_env, renew_at_ends
from ddpg_jax.errors import ConfigError
from ddpg_jax.flatten import make_flatten
from ddpg_jax.types import Array, Env, EnvSpec, Key


def physics_env(name: str, load: Callable[[], Any], max_steps: int, *, observe: Callable[[Any], Array]) -> Env:
    """Makes an `Env` from a physics environment that is stepped without wrappers and takes actions in [-1, 1].

    Args:
        name: the name of the environment.
        load: `() -> env` with `reset(key) -> state`, `step(state, action) -> state` and `action_size`; a state has `reward` and
            `done`.
        max_steps: the time limit.
        observe: `(state) -> obs [O]`.

    Raises:
        ConfigError: the environment cannot be loaded or traced.
    """
    try:
        env = load()
        action_dim: int = env.action_size
        shapes = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
        obs_shape = jax.eval_shape(observe, shapes).shape
        jax.eval_shape(env.step, shapes, jnp.zeros(action_dim))
    except Exception as error:  # an unsupported physics backend, or an incompatible version of JAX or MuJoCo
        raise ConfigError(f"env={name} cannot be made: {' '.join(str(error).split())}") from error
    flatten, unflatten = make_flatten(shapes)
    spec = EnvSpec(name, obs_shape, (action_dim,), (-1.0,) * action_dim, (1.0,) * action_dim, max_steps)

    def start(key: Key) -> Any:
        return flatten(env.reset(jax.random.key_data(key)))  # a raw uint32 key: not every version accepts typed keys

    def advance(key: Key, vectors: Any, action: Array) -> tuple[Any, Array, Array]:
        del key
        state = env.step(unflatten(vectors), action)
        return flatten(state), state.reward, state.done > 0

    return make_env(spec, start, advance, observe=lambda vectors: observe(unflatten(vectors)), renew=renew_at_ends)
