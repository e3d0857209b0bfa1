"""Plays whole episodes of a policy without noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Env, Episodes, Key, Params


def rollout(
    env: Env,
    act: Callable[[Params, Array], Array],
    key: Key,
    *,
    actor_params: Params,
    episodes: int,
    owner: Array | int = 0,
    shared: bool = False,
) -> Episodes:
    """Plays whole episodes without noise. Consumes the key.

    The environment must have a time limit. If it lives outside the program, the return of an episode that did not end is NaN,
    and the error is reported to lane `owner`, in which all episodes are played if `shared`.
    """
    if env.outside is not None:
        return env.outside.rollout(act, key, actor_params, episodes=episodes, owner=jnp.int32(owner), shared=shared)
    start_key, step_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(start_key, episodes))

    def step(carry: Any) -> Any:
        i, env_state, obs, running, found = carry
        keys = jax.random.split(jax.random.fold_in(step_key, i), episodes)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, act(actor_params, obs))
        returns = found.returns + jnp.where(running, transition.reward, 0.0)
        successes = found.successes
        if env.success is not None:
            successes = jnp.where(running & transition.last, jax.vmap(env.success)(transition), successes)
        found = Episodes(returns, found.lengths + running, successes)
        return i + 1, env_state, obs, running & ~transition.last, found

    nothing = Episodes(jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32), jnp.full(episodes, jnp.nan))
    start = (0, env_state, obs, jnp.ones(episodes, bool), nothing)
    return jax.lax.while_loop(lambda carry: carry[3].any(), step, start)[-1]
