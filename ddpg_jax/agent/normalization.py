"""Normalizes observations and rewards by running statistics, in agents that wrap another agent.

The statistics are updated while collecting, and applied wherever a network reads its input: when acting, when learning, in the
values and in a saved policy. The replay stores what the environment returned. The moments are kept next to the parameters of
the networks that use them, and no gradient changes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.types import Agent, Array, Hyperparams, Key, Nets, Params, TrainState, Transition

Moments: TypeAlias = dict[str, Array]
"""A dict of `count []`, `mean [...]` and `spread [...]`, the sum of squared distances from the mean; float32. While they are
updated, `mean_rest` and `spread_rest` hold what rounding has left out of the two (Kahan 1965)."""

OBS, REWARD = "norm_obs", "norm_reward"
"""Names of the moments in a tree of parameters."""
NET = "net"
"""Name of the network's own parameters next to them."""
CLIP_LIMIT = 10.0
"""Bound of normalized values, which limits the effect of rare outliers."""
MAX_COUNT = 2.0**23
"""Upper bound of `count`, since float32 cannot count beyond 2**24. From there on, older values are gradually forgotten."""


def init_moments(*shape: int) -> Moments:
    """Returns the moments before any value was seen: mean 0 and variance 1, with a weight close to 0."""
    rests = {"mean_rest": jnp.zeros(shape), "spread_rest": jnp.zeros(shape)}
    return {"count": jnp.full((), 1e-4), "mean": jnp.zeros(shape), "spread": jnp.full(shape, 1e-4), **rests}


def without_rests(params: Params) -> Params:
    """Returns a network's parameters without `mean_rest` and `spread_rest` of its moments of observations, if it has any."""
    if OBS not in params:
        return params
    return {**params, OBS: {name: params[OBS][name] for name in ("count", "mean", "spread")}}


def update_moments(moments: Moments, values: Array, valid: Array) -> Moments:
    """Adds `values [N, ...]` to the moments where `valid [N]` is True, as Chan et al. 1979 join the moments of two sets.

    >>> import jax.numpy as jnp
    >>> values = jnp.array([[1.0], [3.0], [99.0]])
    >>> seen = update_moments(init_moments(1), values, jnp.array([True, True, False]))
    >>> seen["mean"].round(2).tolist(), variance(seen).round(2).tolist()
    ([2.0], [1.0])
    """
    count = jnp.sum(valid).astype(jnp.float32)
    mask = valid.reshape(valid.shape + (1,) * (values.ndim - 1))
    values, weight = jnp.where(mask, values, 0.0), mask.astype(jnp.float32)  # those that are not valid may be NaN
    mean = jnp.sum(weight * values, axis=0) / jnp.maximum(count, 1.0)
    spread = jnp.sum(weight * jnp.square(values - mean[None]), axis=0)
    total, shift = moments["count"] + count, mean - moments["mean"]
    forgotten = jnp.maximum(total - MAX_COUNT, 0.0) / total
    more = spread + jnp.square(shift) * moments["count"] * count / total
    new_mean, mean_rest = _add(moments["mean"], moments["mean_rest"], shift * count / total)
    change = more - forgotten * (moments["spread"] + more)
    new_spread, spread_rest = _add(moments["spread"], moments["spread_rest"], change)
    return {
        "count": jnp.minimum(total, MAX_COUNT),
        "mean": new_mean,
        "spread": new_spread,
        "mean_rest": mean_rest,
        "spread_rest": spread_rest,
    }


def _add(value: Array, rest: Array, change: Array) -> tuple[Array, Array]:
    """Adds a change and the rest of earlier ones to a value; returns the sum and what rounding left out of it.

    After a million values, a change is often too small to be seen in the sum, but not in the rest.
    """
    due = change + rest
    total = value + due
    return total, due - (total - value)


def variance(moments: Moments) -> Array:
    """Returns the variance of the values, `spread / count`, `[...]`."""
    return moments["spread"] / moments["count"]


def standardize(moments: Moments, obs: Array) -> Array:
    """Returns (obs - mean) / deviation, clipped to `CLIP_LIMIT`; `[..., O]`."""
    mean, scale = (jnp.broadcast_to(x, obs.shape) for x in (moments["mean"], jax.lax.rsqrt(variance(moments) + 1e-8)))
    return jnp.clip((obs - mean) * scale, -CLIP_LIMIT, CLIP_LIMIT)


def network_inputs(params: Params, obs: Array) -> tuple[Params, Array]:
    """Returns a network's own parameters and its input, which is standardized if its parameters contain moments."""
    return (params[NET], standardize(params[OBS], obs)) if OBS in params else (params, obs)


def normalize_observations(agent: Agent, obs_dim: int) -> Agent:
    """Wraps an agent so that its networks read observations that are standardized by their running moments."""

    def wrap(nets: Nets, moments: Moments) -> Nets:
        critic = without_rests({NET: nets.critic, OBS: jax.tree.map(jnp.copy, moments)})
        return Nets({NET: nets.actor, OBS: moments}, critic)

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        state = agent.init(key, hyper)
        return replace(state, params=wrap(state.params, init_moments(obs_dim)))

    def act(actor_params: Params, obs: Array) -> Array:
        return agent.act(*network_inputs(actor_params, obs))

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return agent.q_values(*network_inputs(critic_params, obs), action)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t_update: Array
    ) -> tuple[TrainState, Array, dict[str, Array]]:
        moments = state.params.actor[OBS]
        obs, next_obs = standardize(moments, batch.obs), standardize(moments, batch.next_obs)
        inner, td, info = agent.update(key, _unwrap(state), batch._replace(obs=obs, next_obs=next_obs), weight, hyper, t_update)
        return replace(inner, params=wrap(inner.params, moments)), td, info

    def observe(state: TrainState, transition: Transition, valid: Array) -> TrainState:
        inner = agent.observe(_unwrap(state), transition, valid)
        return replace(inner, params=wrap(inner.params, update_moments(state.params.actor[OBS], transition.obs, valid)))

    return Agent(init, act, q_values, update, observe)


def normalized_reward(critic_params: Params, reward: Array, size: float | Array = 1.0) -> Array:
    """Returns rewards `[...]` as the critic learns from them: divided by their running root mean square, and clipped.

    If the parameters contain no moments of rewards, these are returned unchanged. Rewards are not centered, because that would
    change the optimal policy; without centering, their root mean square measures their size, and their deviation, which is 0
    for constant rewards, does not. Clipping bounds rewards unlike any seen before, such as those from hindsight.

    Args:
        critic_params: the parameters of the critic.
        reward: `[...]`, rewards or sums of rewards, which may be multiplied by `reward_scale`.
        size: the number of rewards in each sum, times their factor, which scales the bound; `[]`.
    """
    if REWARD not in critic_params:
        return reward
    moments = critic_params[REWARD]
    scale = jax.lax.rsqrt(jnp.square(moments["mean"]) + variance(moments) + 1e-8)
    return jnp.clip(reward * scale, -CLIP_LIMIT * size, CLIP_LIMIT * size)


def normalize_rewards(agent: Agent, n_step: int = 1) -> Agent:
    """Wraps an agent so that it learns from `normalized_reward`.

    The rewards of a batch are sums of up to `n_step` rewards, each multiplied by `reward_scale`.
    """

    def wrap(state: TrainState, moments: Moments) -> TrainState:
        return replace(state, params=Nets(state.params.actor, {NET: state.params.critic, REWARD: moments}))

    def unwrap(state: TrainState) -> TrainState:
        return replace(state, params=Nets(state.params.actor, state.params.critic[NET]))

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        return wrap(agent.init(key, hyper), init_moments())

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return agent.q_values(critic_params[NET], obs, action)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t_update: Array
    ) -> tuple[TrainState, Array, dict[str, Array]]:
        reward = normalized_reward(state.params.critic, batch.reward, n_step * hyper.reward_scale)
        batch = batch._replace(reward=reward)
        inner, td, info = agent.update(key, unwrap(state), batch, weight, hyper, t_update)
        return wrap(inner, state.params.critic[REWARD]), td, info

    def observe(state: TrainState, transition: Transition, valid: Array) -> TrainState:
        inner = agent.observe(unwrap(state), transition, valid)
        return wrap(inner, update_moments(state.params.critic[REWARD], transition.reward, valid))

    return Agent(init, agent.act, q_values, update, observe)


def _unwrap(state: TrainState) -> TrainState:
    return replace(state, params=Nets(*(net[NET] for net in state.params)))
