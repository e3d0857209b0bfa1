"""Running normalization of observations and of rewards, as agents around an agent.

What has been seen so far is measured while collecting, and applied wherever something is read: when acting, when learning, in
the values, in a saved policy. The replay keeps what the environment gave. The moments travel with the parameters of the
networks that read them, and are learned by nobody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.types import Agent, Array, Hyperparams, Key, Nets, Params, TrainState, Transition

Moments: TypeAlias = dict[str, Array]
"""`count []`, `mean [...]` and `spread [...]`, the sum of squared distances from the mean; float32."""

OBS, REWARD = "norm_obs", "norm_reward"
"""Where moments stand in a tree of parameters, beside the network's own, which is `NET`."""
NET = "net"
LIMIT = 10.0
"""What is normalized is clipped to +-10: a rare outlier is no better for being exact."""
KEPT = 2.0**23
"""Values that moments are of, at most: from there on older ones are forgotten, as float32 cannot count further than 2**24."""


def start(*shape: int) -> Moments:
    """Nothing seen: mean 0 and variance 1, with next to no weight."""
    return {"count": jnp.full((), 1e-4), "mean": jnp.zeros(shape), "spread": jnp.full(shape, 1e-4)}


def measure(moments: Moments, values: Array, valid: Array) -> Moments:
    """The moments with `values [N, ...]` taken in where `valid [N]` (Chan et al. 1979: the moments of two sets joined).

    >>> import jax.numpy as jnp
    >>> values = jnp.array([[1.0], [3.0], [99.0]])
    >>> seen = measure(start(1), values, jnp.array([True, True, False]))
    >>> seen["mean"].round(2).tolist(), variance(seen).round(2).tolist()
    ([2.0], [1.0])
    """
    count = jnp.sum(valid).astype(jnp.float32)
    weight = valid.reshape(valid.shape + (1,) * (values.ndim - 1)).astype(jnp.float32)
    mean = jnp.sum(weight * values, axis=0) / jnp.maximum(count, 1.0)
    spread = jnp.sum(weight * jnp.square(values - mean[None]), axis=0)
    total, apart = moments["count"] + count, mean - moments["mean"]
    kept = jnp.minimum(1.0, KEPT / total)
    return {
        "count": total * kept,
        "mean": moments["mean"] + apart * count / total,
        "spread": (moments["spread"] + spread + jnp.square(apart) * moments["count"] * count / total) * kept,
    }


def variance(moments: Moments) -> Array:
    """Of the values themselves, `spread / count`, `[...]`."""
    return moments["spread"] / moments["count"]


def standardized(moments: Moments, obs: Array) -> Array:
    """(obs - mean) / deviation, clipped; `[..., O]`."""
    mean, scale = (jnp.broadcast_to(x, obs.shape) for x in (moments["mean"], jax.lax.rsqrt(variance(moments) + 1e-8)))
    return jnp.clip((obs - mean) * scale, -LIMIT, LIMIT)


def read(params: Params, obs: Array) -> tuple[Params, Array]:
    """A network's own parameters and the observations as it reads them, whether they are normalized or not."""
    return (params[NET], standardized(params[OBS], obs)) if OBS in params else (params, obs)


def normalize_observations(agent: Agent, obs_dim: int) -> Agent:
    """The agent, with observations less their running mean and divided by their running deviation."""

    def wrap(nets: Nets, moments: Moments) -> Nets:
        return Nets({NET: nets.actor, OBS: moments}, {NET: nets.critic, OBS: jax.tree.map(jnp.copy, moments)})

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        state = agent.init(key, hyper)
        return replace(state, params=wrap(state.params, start(obs_dim)))

    def act(actor_params: Params, obs: Array) -> Array:
        return agent.act(*read(actor_params, obs))

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return agent.q_values(*read(critic_params, obs), action)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t: Array
    ) -> tuple[TrainState, Array, dict[str, Array]]:
        moments = state.params.actor[OBS]
        obs, next_obs = standardized(moments, batch.obs), standardized(moments, batch.next_obs)
        inner, td, info = agent.update(key, _bare(state), batch._replace(obs=obs, next_obs=next_obs), weight, hyper, t)
        return replace(inner, params=wrap(inner.params, moments)), td, info

    def observe(state: TrainState, transition: Transition, valid: Array) -> TrainState:
        inner = agent.observe(_bare(state), transition, valid)
        return replace(inner, params=wrap(inner.params, measure(state.params.actor[OBS], transition.obs, valid)))

    return Agent(init, act, q_values, update, observe)


def normalized_reward(critic_params: Params, reward: Array, steps: int = 1) -> Array:
    """Rewards, or sums of so many, as a critic learns from them: divided by the running root mean square of one, and bounded,
    if they are normalized at all.

    They are not centred, which would change what is best; so their deviation, which is 0 where all rewards are the same, is no
    measure of their size. The bound is for those that nothing like was seen of, as hindsight's. One shape in and out.
    """
    if REWARD not in critic_params:
        return reward
    moments = critic_params[REWARD]
    scale = jax.lax.rsqrt(jnp.square(moments["mean"]) + variance(moments) + 1e-8)
    return jnp.clip(reward * scale, -LIMIT * steps, LIMIT * steps)


def normalize_rewards(agent: Agent, n_step: int = 1) -> Agent:
    """The agent, with a `normalized_reward` for each; those of a batch are sums of up to `n_step`."""

    def wrap(state: TrainState, moments: Moments) -> TrainState:
        return replace(state, params=Nets(state.params.actor, {NET: state.params.critic, REWARD: moments}))

    def bare(state: TrainState) -> TrainState:
        return replace(state, params=Nets(state.params.actor, state.params.critic[NET]))

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        return wrap(agent.init(key, hyper), start())

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return agent.q_values(critic_params[NET], obs, action)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t: Array
    ) -> tuple[TrainState, Array, dict[str, Array]]:
        batch = batch._replace(reward=normalized_reward(state.params.critic, batch.reward, n_step))
        inner, td, info = agent.update(key, bare(state), batch, weight, hyper, t)
        return wrap(inner, state.params.critic[REWARD]), td, info

    def observe(state: TrainState, transition: Transition, valid: Array) -> TrainState:
        inner = agent.observe(bare(state), transition, valid)
        return wrap(inner, measure(state.params.critic[REWARD], transition.reward, valid))

    return Agent(init, agent.act, q_values, update, observe)


def _bare(state: TrainState) -> TrainState:
    return replace(state, params=Nets(*(net[NET] for net in state.params)))
