"""What to look at when learning goes wrong: measured in the update where it is wanted, and else left out of the program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.agent.normalization import normalized_reward
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Agent, Array, Env, Hyperparams, Key, Nets, Params, TrainState

SATURATED = 0.99
"""Size from which an action counts as at its bound: tanh has lost all but 2 % of its slope there."""

REPORT = ("critic_loss", "actor_loss", "q_mean")
"""What every update reports."""
COLUMNS = ("actor_grad_norm", "saturation", "critic_grad_norm", "td_q10", "td_q50", "td_q90", "replay_age")
"""What they report besides with `diagnostics=true`: `ON`, and the replay's age (`replay.with_age`)."""


def nothing(*measured: Any) -> dict[str, Array]:
    """Measures nothing."""
    del measured
    return {}


def norm(grads: Params) -> Array:
    """Of all leaves together."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)), jnp.zeros(())))


def of_actor(grads: Params, action: Array) -> dict[str, Array]:
    """Norm of the actor's gradient, and the share of its actions `[B, A]` at their bounds."""
    return {"actor_grad_norm": norm(grads), "saturation": jnp.mean(jnp.abs(action) > SATURATED)}


def of_critic(grads: Params, td: Array) -> dict[str, Array]:
    """Norm of the critic's gradient, and quantiles of the size of the TD errors `[B]`."""
    low, middle, high = jnp.quantile(jnp.abs(td), jnp.array([0.1, 0.5, 0.9]))
    return {"critic_grad_norm": norm(grads), "td_q10": low, "td_q50": middle, "td_q90": high}


OFF = Nets(nothing, nothing)
ON = Nets(of_actor, of_critic)


def overestimation(
    env: Env, agent: Agent, train: TrainState, key: Key, hyper: Hyperparams, episodes: int = 10
) -> tuple[Array, Array, Array]:
    """What the critic says of the states that the noise-free policy visits, beside the discounted return that followed.

    As in figure 3 of Lillicrap et al. 2015. Both are in the units of the rewards that the critic learns from, which are not the
    environment's with `reward_scale` or `normalize_reward`. A return is cut off at the time limit of the episode, where the
    critic's value is not: compare only states from which `gamma ** (steps left)` is small. Consumes the key.

    Args:
        env: with a time limit, T steps.
        agent: gives `act` and `q_values`; of several critics the smallest value counts, as in the target.
        train: the networks.
        key: of the episodes.
        hyper: its `gamma` and `reward_scale`.
        episodes: K, side by side.

    Returns:
        Three `[T, K]`: the values, the returns, and the steps left to the end of the episode (0 behind it).

    Raises:
        ConfigError: the environment has no time limit.
    """
    if env.spec.max_steps is None:
        raise ConfigError(f"env={env.spec.name} has no time limit; give it one with env_kwargs max_episode_steps=N")
    start_key, step_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(start_key, episodes))

    def step(carry: Any, i: Array) -> Any:
        env_state, obs, running = carry
        action = agent.act(train.params.actor, obs)
        value = jnp.min(agent.q_values(train.params.critic, obs, action), axis=0)
        keys = jax.random.split(jax.random.fold_in(step_key, i), episodes)
        env_state, obs, transition = jax.vmap(env.step)(keys, env_state, obs, action)
        reward = normalized_reward(train.params.critic, hyper.reward_scale * transition.reward)
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
