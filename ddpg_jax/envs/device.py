"""An `Env` from three plain functions: action units, the time limit and resets are added here, once for all adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.envs.spaces import to_native
from ddpg_jax.types import Array, ConfigError, Env, EnvSpec, Key, Transition


def make_env(
    spec: EnvSpec,
    start: Callable[[Key], Any],
    advance: Callable[[Key, Any, Array], tuple[Any, Array, Array | bool]],
    observe: Callable[[Any], Array],
) -> Env:
    """An environment written in JAX.

    Args:
        spec: its shapes, bounds and time limit. At the limit an episode is TRUNCATED, which bootstraps.
        start: `(key) -> state`, the start of an episode; any pytree of arrays.
        advance: `(key, state, action) -> (state, reward [], terminated [])`, with the action in the environment's own shape
            and units.
        observe: `(state) -> obs`, in the environment's own shape.

    Raises:
        ConfigError: the spec has no time limit.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> spec = dj.EnvSpec("Walk", (1,), (1,), action_low=(-2.0,), action_high=(2.0,), max_steps=10)
    >>> def advance(key, x, action):
    ...     return x + action, -jnp.sum(x**2), jnp.abs(x[0]) > 5
    >>> env = dj.envs.make_env(spec, lambda key: jax.random.normal(key, (1,)), advance, lambda x: x)
    >>> dj.train(env, steps=1_000, warmup_steps=500).returns.shape
    (1,)
    """
    if spec.max_steps is None:
        raise ConfigError(f"env={spec.name} has max_steps=None; on the device an environment needs a time limit")
    max_steps = spec.max_steps
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)

    def flat(state: Any) -> Array:
        return jnp.asarray(observe(state), jnp.float32).reshape(spec.obs_dim)

    def reset(key: Key) -> tuple[Any, Array]:
        state = start(key)
        return (state, jnp.zeros((), jnp.int32)), flat(state)

    def step(key: Key, env_state: Any, obs: Array, action: Array) -> tuple[Any, Array, Transition]:
        reset_key, step_key = jax.random.split(key)
        state, elapsed = env_state
        native = to_native(action, low, high).reshape(spec.action_shape)
        state, reward, terminated = advance(step_key, state, native)
        terminated = jnp.asarray(terminated, bool)
        last = terminated | (elapsed + 1 >= max_steps)
        next_obs = flat(state)
        transition = Transition(obs, action, jnp.asarray(reward, jnp.float32), 1.0 - terminated, last, next_obs)

        def choose(fresh: Array, running: Array) -> Array:
            return jnp.where(last, fresh, running)

        env_state, obs = jax.tree.map(choose, reset(reset_key), ((state, elapsed + 1), next_obs))
        return env_state, obs, transition

    return Env(spec, reset, step)
