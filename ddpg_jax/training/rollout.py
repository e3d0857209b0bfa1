"""Plays whole episodes of a policy without noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Env, Key, Params


def rollout(
    env: Env,
    act: Callable[[Params, Array], Array],
    key: Key,
    *,
    actor_params: Params,
    episodes: int,
    owner: Array | int = 0,
    shared: bool = False,
) -> tuple[Array, Array]:
    """Plays whole episodes without noise; returns their returns and lengths, `[episodes]` each. Consumes the key.

    The environment must have a time limit. If it lives outside the program, the return of an episode that did not end is NaN,
    and the error is reported to lane `owner`, in which all episodes are played if `shared`.
    """
    if env.outside is not None:
        return env.outside.rollout(act, key, actor_params, episodes=episodes, owner=jnp.int32(owner), shared=shared)
    start_key, step_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(start_key, episodes))

    def step(carry: Any) -> Any:
        i, env_state, obs, running, returns, lengths = carry
        keys = jax.random.split(jax.random.fold_in(step_key, i), episodes)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, act(actor_params, obs))
        returns = returns + jnp.where(running, transition.reward, 0.0)
        return i + 1, env_state, obs, running & ~transition.last, returns, lengths + running

    start = (0, env_state, obs, jnp.ones(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    *_, returns, lengths = jax.lax.while_loop(lambda carry: carry[3].any(), step, start)
    return returns, lengths
