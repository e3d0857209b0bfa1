"""Measures quantities that help to find out why learning fails. Those that are off are left out of the compiled update."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.agent.normalization import normalized_reward
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Agent, Array, Env, Hyperparams, Key, Nets, Params, TrainState

SATURATED = 0.99
"""Absolute value above which an action counts as saturated; the slope of tanh there is 2 % of its maximum."""

REPORT = ("critic_loss", "actor_loss", "q_mean")
"""Names of the scalars that every update reports."""
COLUMNS = ("actor_grad_norm", "saturation", "critic_grad_norm", "td_q10", "td_q50", "td_q90", "replay_age")
"""Names of the scalars that are also reported with `diagnostics=true`: those of `ON`, and `replay_age` from `with_age`."""


def measure_nothing(*measured: Any) -> dict[str, Array]:
    """Returns no measurements."""
    del measured
    return {}


def global_norm(grads: Params) -> Array:
    """Returns the Euclidean norm of all leaves together, `[]`."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)), jnp.zeros(())))


def measure_actor(grads: Params, action: Array) -> dict[str, Array]:
    """Returns the norm of the actor's gradient, and the share of the components of its actions `[B, A]` that are saturated."""
    return {"actor_grad_norm": global_norm(grads), "saturation": jnp.mean(jnp.abs(action) > SATURATED)}


def measure_critic(grads: Params, td: Array) -> dict[str, Array]:
    """Returns the norm of the critic's gradient, and quantiles of the absolute TD errors `[B]`."""
    low, middle, high = jnp.quantile(jnp.abs(td), jnp.array([0.1, 0.5, 0.9]))
    return {"critic_grad_norm": global_norm(grads), "td_q10": low, "td_q50": middle, "td_q90": high}


OFF = Nets(measure_nothing, measure_nothing)
ON = Nets(measure_actor, measure_critic)


def overestimation(
    env: Env, agent: Agent, train: TrainState, key: Key, hyper: Hyperparams, episodes: int = 10
) -> tuple[Array, Array, Array]:
    """Compares the critic's values along episodes of the noise-free policy with the discounted returns that followed.

    This is figure 3 of Lillicrap et al. 2015. Both are in the units of the rewards that the critic learns from; with
    `reward_scale` or `normalize_reward`, these are not the units of the environment. A return ends at the time limit of the
    episode, but the critic's value does not: compare only states at which `gamma ** (steps left)` is small. Consumes the key.

    Args:
        env: an environment with a time limit of T steps.
        agent: its `act` and `q_values` are used; with several critics the smallest value counts, as in the target.
        train: the networks.
        key: the key of the episodes.
        hyper: its `gamma` and `reward_scale` are used.
        episodes: K, the number of episodes, which run side by side.

    Returns:
        Three arrays `[T, K]`: the values, the returns, and the steps left until the episode ends (0 after its end).

    Raises:
        ConfigError: the environment has no time limit.
    """
    if env.spec.max_steps is None:
        raise ConfigError(f"env={env.spec.name} has no time limit; set one with env_kwargs max_episode_steps=N")
    start_key, step_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(start_key, episodes))

    def step(carry: Any, i: Array) -> Any:
        env_state, obs, running = carry
        action = agent.act(train.params.actor, obs)
        value = jnp.min(agent.q_values(train.params.critic, obs, action), axis=0)
        keys = jax.random.split(jax.random.fold_in(step_key, i), episodes)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, action)
        reward = normalized_reward(train.params.critic, hyper.reward_scale * transition.reward, hyper.reward_scale)
        return (env_state, obs, running & ~transition.last), (value, reward, running)

    start = (env_state, obs, jnp.ones(episodes, bool))
    _, (values, rewards, running) = jax.lax.scan(step, start, jnp.arange(env.spec.max_steps))

    def back(carry: tuple[Array, Array], now: tuple[Array, Array]) -> Any:
        following, left = carry
        reward, alive = now
        total = jnp.where(alive, reward + hyper.gamma * following, 0.0)
        left = jnp.where(alive, left + 1, 0)
        return (total, left), (total, left)

    end = (jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    _, (returns, left) = jax.lax.scan(back, end, (rewards, running), reverse=True)
    return values, returns, left
