"""Replay: a ring buffer on the device, written in place and sampled uniformly (Lin 1992; Mnih et al. 2015)."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from ddpg_jax.losses import n_step_return
from ddpg_jax.types import Array, Hyperparams, Key, Replay, ReplayState, Transition


def uniform(obs_dim: int, action_dim: int, capacity: int, batch_size: int, num_envs: int = 1, n_step: int = 1) -> Replay:
    """Uniform sampling with replacement over what is stored.

    A transition is one packed row, gathered at once. Every environment writes its own lane of `C / N` rows, so that the
    successor of a row in time is the next row of its lane; an n-step window stops at the end of an episode and before the
    row that is written next, and bootstraps from where it stopped.

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        capacity: `C`, transitions in all; rounded down to a multiple of `num_envs`.
        batch_size: `B`.
        num_envs: `N`.
        n_step: steps whose rewards are summed before the bootstrap.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=8, batch_size=4)
    >>> x, r = jnp.ones((1, 1)), jnp.ones(1)
    >>> one = dj.Transition(obs=x, action=x, reward=r, discount=r, last=r < 0, next_obs=x)
    >>> state = replay.add(replay.init(), one, jnp.ones(1, bool))
    >>> batch, weight, index = replay.sample(jax.random.key(0), state, dj.Hyperparams(gamma=0.5))
    >>> batch.discount.tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    length = capacity // num_envs
    lanes = jnp.arange(num_envs)

    def init() -> ReplayState:
        rows = jnp.zeros((length * num_envs, 2 * obs_dim + action_dim + 3))
        return ReplayState(rows, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.int32))

    def add(state: ReplayState, transition: Transition, valid: Array) -> ReplayState:
        index = jnp.where(valid, state.head * num_envs + lanes, length * num_envs)  # one past the end is dropped
        rows = state.rows.at[index].set(pack(transition), mode="drop")
        head = jnp.where(valid, (state.head + 1) % length, state.head)
        return ReplayState(rows, head, jnp.minimum(state.size + valid, length))

    def sample(key: Key, state: ReplayState, hyper: Hyperparams) -> tuple[Transition, Array, Array]:
        ends = jnp.cumsum(state.size)
        drawn = jax.random.bits(key, (batch_size,)) % ends[-1].astype(jnp.uint32)  # a bias of size / 2**32
        drawn = drawn.astype(jnp.int32)
        lane = jnp.searchsorted(ends, drawn, side="right") if num_envs > 1 else jnp.zeros_like(drawn)
        age = ends[lane] - 1 - drawn  # 0 is the newest of its lane
        slot = (state.head[lane] - 1 - age) % length
        index = slot * num_envs + lane
        first = unpack(gather(state.rows, index), obs_dim, action_dim)
        if n_step == 1:
            batch = first._replace(discount=hyper.gamma * first.discount)
        else:
            window = [first]
            alive = [jnp.ones(batch_size)]
            for k in range(1, n_step):
                later = (slot + k) % length * num_envs + lane
                window.append(unpack(gather(state.rows, later), obs_dim, action_dim))
                alive.append(alive[-1] * (1.0 - window[-2].last) * (k <= age))
            batch = _join(window, jnp.stack(alive), hyper)
        return batch, jnp.ones(batch_size), index

    def feedback(state: ReplayState, index: Array, td: Array, hyper: Hyperparams) -> ReplayState:
        del index, td, hyper
        return state

    return Replay(init, add, sample, feedback)


def scaled(replay: Replay) -> Replay:
    """The replay with `reward_scale` on what it gives, so that it can be swept."""

    def sample(key: Key, state: ReplayState, hyper: Hyperparams) -> tuple[Transition, Array, Array]:
        batch, weight, index = replay.sample(key, state, hyper)
        return batch._replace(reward=hyper.reward_scale * batch.reward), weight, index

    return replay._replace(sample=sample)


def interrupt(state: ReplayState) -> ReplayState:
    """Marks the newest row of every lane as the last of its episode: what is written next is another episode.

    For a run that goes on where its environments could not be kept.
    """
    num_envs = state.size.shape[0]
    length = state.rows.shape[0] // num_envs
    newest = (state.head - 1) % length * num_envs + jnp.arange(num_envs)
    return replace(state, rows=state.rows.at[newest, -1].set(1.0))


def _join(window: list[Transition], alive: Array, hyper: Hyperparams) -> Transition:
    """The n transitions `[B]` of each window as one, `alive` `[n, B]` telling which belong to it."""
    reward, discount = n_step_return(jnp.stack([step.reward for step in window]), alive, hyper.gamma)
    end = window[0]
    for step, inside in zip(window[1:], alive[1:], strict=True):
        end = jax.tree.map(lambda new, old, keep=inside > 0: jnp.where(_align(keep, new), new, old), step, end)
    return Transition(window[0].obs, window[0].action, reward, discount * end.discount, end.last, end.next_obs)


def _align(mask: Array, like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def gather(rows: Array, index: Array) -> Array:
    """`rows[index]`, `[B, ...]`, for indices that are known to be there: no test and no masking of what is gathered."""
    return rows.at[index].get(mode="promise_in_bounds")


def pack(transition: Transition) -> Array:
    """`[N]` transitions as rows `[N, 2 * O + A + 3]` float32."""
    t = transition
    scalars = jnp.stack([t.reward, t.discount, t.last.astype(jnp.float32)], axis=-1)
    return jnp.concatenate([t.obs, t.action, t.next_obs, scalars], axis=-1)


def unpack(rows: Array, obs_dim: int, action_dim: int) -> Transition:
    """The inverse of `pack`: `[B, 2 * O + A + 3] -> [B]` transitions."""
    obs, action, next_obs, scalars = jnp.split(rows, [obs_dim, obs_dim + action_dim, 2 * obs_dim + action_dim], axis=-1)
    return Transition(obs, action, scalars[..., 0], scalars[..., 1], scalars[..., 2] > 0, next_obs)


REPLAYS = {"uniform": uniform}
