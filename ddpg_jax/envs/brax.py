"""Brax's environments as an `Env`: `brax/halfcheetah`, or `brax/halfcheetah@spring` for another of its physics backends."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.envs.device import make_env
from ddpg_jax.envs.spaces import unit_spec
from ddpg_jax.types import Array, ConfigError, Env, Key

PREFIX = "brax/"
BACKENDS = ("generalized", "positional", "spring", "mjx")
MAX_STEPS = 1_000
"""The limit that brax itself puts on an episode while training; its environments have none of their own."""


def names() -> list[str]:
    """The environments, with the physics that brax takes by default (generalized); `@BACKEND` behind a name takes another."""
    from brax import envs

    return [PREFIX + name for name in envs._envs if name != "fast"]  # which only tests brax itself


def make(name: str) -> Env:
    """The environment `brax/NAME` or `brax/NAME@BACKEND`, truncated after 1,000 steps.

    It is stepped without brax's wrappers, whose auto-reset goes back to the same start every time and drops the last
    observation of an episode.

    Raises:
        KeyError: there is none of this name.
        ConfigError: a backend that is not known, or that this environment does not run on.
    """
    from brax import envs

    own, at, backend = name.removeprefix(PREFIX).partition("@")
    if own not in envs._envs:
        raise KeyError(name)
    if at and backend not in BACKENDS:
        raise ConfigError(f"env={name} is not known; it must end in @{', @'.join(BACKENDS)} or be {PREFIX}{own}")
    try:
        env = envs.get_environment(own, **({"backend": backend} if at else {}))
        state = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
        jax.eval_shape(env.step, state, jnp.zeros(env.action_size))
    except Exception as error:  # a backend that it does not have, a version of JAX that brax does not know
        raise ConfigError(f"env={name} cannot be made: {' '.join(str(error).split())}") from error
    spec = unit_spec(name, state.obs.shape, env.action_size, MAX_STEPS)

    def start(key: Key) -> Any:
        return env.reset(jax.random.key_data(key))  # brax knows keys of the old type only

    def advance(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array]:
        del key
        after = env.step(state, action)
        return after, after.reward, after.done > 0

    return make_env(spec, start, advance, lambda state: state.obs)
