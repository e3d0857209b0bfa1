"""What the environments of Brax and of MuJoCo Playground have in common: one kind of `reset` and `step`, and large states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.envs.make import make_env, renew_at_ends
from ddpg_jax.errors import ConfigError
from ddpg_jax.flatten import make_flatten
from ddpg_jax.types import Array, Env, EnvSpec, Key


def physics_env(name: str, load: Callable[[], Any], max_steps: int, observe: Callable[[Any], Array]) -> Env:
    """An `Env` of one that is stepped without wrappers, with actions in [-1, 1].

    Args:
        name: what it is called.
        load: `() -> env` with `reset(key) -> state`, `step(state, action) -> state` and `action_size`; a state has `reward` and
            `done`.
        max_steps: the time limit.
        observe: `(state) -> obs [O]`.

    Raises:
        ConfigError: it cannot be loaded or traced.
    """
    try:
        env = load()
        action_dim: int = env.action_size
        shapes = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
        obs_shape = jax.eval_shape(observe, shapes).shape
        jax.eval_shape(env.step, shapes, jnp.zeros(action_dim))
    except Exception as error:  # physics that it does not run on, a version of JAX or MuJoCo that it does not know
        raise ConfigError(f"env={name} cannot be made: {' '.join(str(error).split())}") from error
    flatten, unflatten = make_flatten(shapes)
    spec = EnvSpec(name, obs_shape, (action_dim,), (-1.0,) * action_dim, (1.0,) * action_dim, max_steps)

    def start(key: Key) -> Any:
        return flatten(env.reset(jax.random.key_data(key)))  # keys of the old type: the new one is not known everywhere

    def advance(key: Key, vectors: Any, action: Array) -> tuple[Any, Array, Array]:
        del key
        state = env.step(unflatten(vectors), action)
        return flatten(state), state.reward, state.done > 0

    return make_env(spec, start, advance, lambda vectors: observe(unflatten(vectors)), renew_at_ends)
