"""Samples batches from a ring: `uniform` (Lin 1992; Mnih et al. 2015) or `prioritized` (Schaul et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.registry import Registry
from ddpg_jax.replay import sum_tree
from ddpg_jax.replay.ring import MakeRing, gather, lane_shape, make_ring, next_rows, ring_state, row_age
from ddpg_jax.schedules import linear, progress
from ddpg_jax.types import Array, Hyperparams, Key, Replay, ReplayState, Transition


def uniform(
    obs_dim: int,
    action_dim: int,
    capacity: int,
    *,
    batch_size: int,
    num_envs: int = 1,
    n_step: int = 1,
    ring: MakeRing = make_ring,
) -> Replay:
    """Makes a replay that samples uniformly, with replacement, from what is stored.

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        capacity: `C`, the total number of transitions; rounded down to a multiple of `num_envs`.
        batch_size: `B`.
        num_envs: `N`.
        n_step: number of rewards that are summed before the bootstrap.
        ring: makes the storage.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=8, batch_size=4)
    >>> x, r = jnp.ones((1, 1)), jnp.ones(1)
    >>> one = dj.Transition(obs=x, action=x, reward=r, discount=r, last=r < 0, next_obs=x)
    >>> state = replay.add(replay.init(), one, jnp.ones(1, bool))
    >>> batch, weight, index = replay.sample(jax.random.key(0), state, dj.Hyperparams(gamma=0.5), jnp.int32(0))
    >>> batch.discount.tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    storage = ring(obs_dim, action_dim, capacity, num_envs=num_envs, n_step=n_step)

    def sample(key: Key, state: Any, hyper: Hyperparams, t_update: Array) -> tuple[Transition, Array, Array]:
        check_sample(state, t_update)
        index = draw_rows(key, ring_state(state), batch_size)
        return storage.read(jax.random.fold_in(key, 1), state, index, hyper), jnp.ones(batch_size), index

    def feedback(state: Any, index: Array, td: Array, hyper: Hyperparams) -> Any:
        del hyper
        check_feedback(index, td)
        return state

    return Replay(storage.init, storage.add, sample, feedback)


def check_sample(state: Any, t_update: Array) -> None:
    """Asserts the shapes of the arguments of `Replay.sample`."""
    chex.assert_rank(ring_state(state).rows, 2, custom_message="Replay.sample: rows of state must be [C, 2 * O + A + 3]")
    chex.assert_rank(t_update, 0, custom_message="Replay.sample: t_update must be []")


def check_feedback(index: Array, td: Array) -> None:
    """Asserts the shapes of the arguments of `Replay.feedback`."""
    chex.assert_rank(index, 1, custom_message="Replay.feedback: index must be [B]")
    chex.assert_equal_shape([index, td], custom_message="Replay.feedback: td must be [B], as index")


def draw_rows(key: Key, state: ReplayState, batch_size: int) -> Array:
    """Draws rows `[B]` uniformly, with replacement, from those that are stored. Consumes the key."""
    length, num_envs = lane_shape(state)
    ends = jnp.cumsum(state.size)
    drawn = jax.random.bits(key, (batch_size,)) % ends[-1].astype(jnp.uint32)  # biased by size / 2**32 at most
    drawn = drawn.astype(jnp.int32)
    lane = jnp.searchsorted(ends, drawn, side="right") if num_envs > 1 else jnp.zeros_like(drawn)
    age = ends[lane] - 1 - drawn  # 0 is the newest row of its lane
    return (state.head[lane] - 1 - age) % length * num_envs + lane


@flax.struct.dataclass
class PrioritizedState:
    """Holds a ring and the priorities of its rows."""

    ring: Any
    tree: sum_tree.Tree
    """Leaf `i` is the priority of row `i` to the power of alpha, or 0 if nothing is stored there."""
    largest: Array
    """`[]`, the largest leaf so far."""


def prioritized(
    obs_dim: int,
    action_dim: int,
    capacity: int,
    *,
    batch_size: int,
    num_envs: int = 1,
    n_step: int = 1,
    ring: MakeRing = make_ring,
) -> Replay:
    """Makes a replay with proportional prioritization (Schaul et al. 2016, sections 3.3 and 3.4, and Algorithm 1).

    Row i is drawn with probability P(i) = p_i^alpha / sum_k p_k^alpha, where p_i = |td_i| + epsilon from the last time that it
    was drawn; a new row gets the largest p^alpha so far, 1 at first. Its importance weight is (n P(i))^-beta, with n the number
    of stored rows, relative to the largest weight of the batch; beta moves linearly from `priority_beta` to
    `priority_beta_final`. Draws are stratified as in the paper, one from each of B equal parts of the sum, which has the same
    expectation as independent draws and less variance.

    The arguments are those of `uniform`.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> replay, hyper = dj.replay.prioritized(obs_dim=1, action_dim=1, capacity=8, batch_size=4), dj.Hyperparams()
    >>> x, r = jnp.ones((1, 1)), jnp.ones(1)
    >>> one = dj.Transition(obs=x, action=x, reward=r, discount=r, last=r < 0, next_obs=x)
    >>> state = replay.add(replay.add(replay.init(), one, jnp.ones(1, bool)), one, jnp.ones(1, bool))
    >>> state = replay.feedback(state, jnp.array([0]), jnp.array([1e-9]), hyper)
    >>> batch, weight, index = replay.sample(jax.random.key(0), state, hyper, jnp.int32(0))
    >>> index.tolist()
    [1, 1, 1, 1]
    """
    storage = ring(obs_dim, action_dim, capacity, num_envs=num_envs, n_step=n_step)

    def init() -> PrioritizedState:
        return PrioritizedState(storage.init(), sum_tree.zeros(capacity // num_envs * num_envs), jnp.ones(()))

    def add(state: PrioritizedState, transition: Transition, valid: Array) -> PrioritizedState:
        index = next_rows(ring_state(state))
        leaf = jnp.where(valid, state.largest, gather(state.tree[0], index))
        return PrioritizedState(
            storage.add(state.ring, transition, valid), sum_tree.set_leaves(state.tree, index, leaf), state.largest
        )

    def sample(key: Key, state: PrioritizedState, hyper: Hyperparams, t_update: Array) -> tuple[Transition, Array, Array]:
        check_sample(state, t_update)
        strata = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size
        # It is sorted already, but without this sort XLA recomputes the end of the search in everything that reads the index.
        index = jnp.sort(sum_tree.find(state.tree, strata * sum_tree.total(state.tree)))
        leaf = gather(state.tree[0], index)
        beta = linear(hyper.priority_beta, hyper.priority_beta_final, progress(t_update, hyper.priority_beta_updates))
        weight = (jnp.min(leaf) / leaf) ** beta  # n and the sum cancel
        return storage.read(jax.random.fold_in(key, 1), state.ring, index, hyper), weight, index

    def feedback(state: PrioritizedState, index: Array, td: Array, hyper: Hyperparams) -> PrioritizedState:
        check_feedback(index, td)
        leaf = (jnp.abs(td) + hyper.priority_epsilon) ** hyper.priority_alpha
        tree, largest = sum_tree.set_leaves(state.tree, index, leaf), jnp.maximum(state.largest, jnp.max(leaf))
        return PrioritizedState(state.ring, tree, largest)

    return Replay(init, add, sample, feedback)


def with_reward_scale(replay: Replay) -> Replay:
    """Multiplies the rewards of sampled batches by `reward_scale`, which can therefore be swept."""

    def sample(key: Key, state: Any, hyper: Hyperparams, t_update: Array) -> tuple[Transition, Array, Array]:
        batch, weight, index = replay.sample(key, state, hyper, t_update)
        return batch._replace(reward=hyper.reward_scale * batch.reward), weight, index

    return replay._replace(sample=sample)


def with_age(replay: Replay) -> Replay:
    """Adds the measurement `replay_age`: the mean age of the sampled rows, in environment steps.

    The age of a transition is the number of transitions that its environment has stored since then, times the number of
    environments: 0 for the newest. The age of an n-step window is that of its first row. The mean ignores importance weights.
    """

    def measure(state: Any, index: Array) -> dict[str, Array]:
        ring = ring_state(state)
        _, num_envs = lane_shape(ring)
        return {**replay.measure(state, index), "replay_age": num_envs * jnp.mean(row_age(ring, index).astype(jnp.float32))}

    return replay._replace(measure=measure)


REPLAYS: Registry[Callable[..., Replay]] = Registry("dj.REPLAYS", {"uniform": uniform, "prioritized": prioritized})
"""Maps names to functions with the arguments of `uniform` that make a replay; the field `replay` can name your own entry."""
