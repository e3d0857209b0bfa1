"""Rules by which rows of a ring are drawn: `uniform` (Lin 1992; Mnih et al. 2015) and `prioritized` (Schaul et al. 2016)."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.replay import sum_tree
from ddpg_jax.replay.ring import MakeRing, age_of, bare, gather, lanes, make_ring, next_rows
from ddpg_jax.schedules import linear, progress
from ddpg_jax.types import Array, Hyperparams, Key, Replay, ReplayState, Transition


def uniform(
    obs_dim: int,
    action_dim: int,
    capacity: int,
    batch_size: int,
    num_envs: int = 1,
    n_step: int = 1,
    ring: MakeRing = make_ring,
) -> Replay:
    """Uniform sampling with replacement over what is stored.

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        capacity: `C`, transitions in all; rounded down to a multiple of `num_envs`.
        batch_size: `B`.
        num_envs: `N`.
        n_step: steps whose rewards are summed before the bootstrap.
        ring: makes what keeps them.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> replay = dj.replay.uniform(obs_dim=1, action_dim=1, capacity=8, batch_size=4)
    >>> x, r = jnp.ones((1, 1)), jnp.ones(1)
    >>> one = dj.Transition(obs=x, action=x, reward=r, discount=r, last=r < 0, next_obs=x)
    >>> state = replay.add(replay.init(), one, jnp.ones(1, bool))
    >>> batch, weight, index = replay.sample(jax.random.key(0), state, dj.Hyperparams(gamma=0.5), jnp.int32(0))
    >>> batch.discount.tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    kept = ring(obs_dim, action_dim, capacity, num_envs, n_step)

    def sample(key: Key, state: Any, hyper: Hyperparams, t: Array) -> tuple[Transition, Array, Array]:
        del t
        index = draw(key, bare(state), batch_size)
        return kept.read(jax.random.fold_in(key, 1), state, index, hyper), jnp.ones(batch_size), index

    def feedback(state: Any, index: Array, td: Array, hyper: Hyperparams) -> Any:
        del index, td, hyper
        return state

    return Replay(kept.init, kept.add, sample, feedback)


def draw(key: Key, state: ReplayState, batch_size: int) -> Array:
    """Rows `[B]` of what is stored, each as likely as another; consumes the key."""
    length, num_envs = lanes(state)
    ends = jnp.cumsum(state.size)
    drawn = jax.random.bits(key, (batch_size,)) % ends[-1].astype(jnp.uint32)  # a bias of size / 2**32
    drawn = drawn.astype(jnp.int32)
    lane = jnp.searchsorted(ends, drawn, side="right") if num_envs > 1 else jnp.zeros_like(drawn)
    age = ends[lane] - 1 - drawn  # 0 is the newest of its lane
    return (state.head[lane] - 1 - age) % length * num_envs + lane


@flax.struct.dataclass
class PrioritizedState:
    """A ring and the priorities of its rows."""

    ring: Any
    tree: sum_tree.Tree
    """Leaf `i` is row i's priority to the power of alpha, 0 where nothing is stored."""
    largest: Array
    """`[]`, the largest leaf that there has been."""


def prioritized(
    obs_dim: int,
    action_dim: int,
    capacity: int,
    batch_size: int,
    num_envs: int = 1,
    n_step: int = 1,
    ring: MakeRing = make_ring,
) -> Replay:
    """Proportional prioritization (Schaul et al. 2016, sections 3.3 and 3.4, and Algorithm 1).

    Row i is drawn with chance P(i) = p_i^alpha / sum_k p_k^alpha, where p_i = |td_i| + epsilon as it was last drawn; what is
    new has the largest p^alpha so far, 1 at first. Its loss weighs (n P(i))^-beta with n the rows that are stored, relative to
    the largest weight of the batch; beta goes from `priority_beta` to `priority_beta_final` in a straight line. Draws are
    stratified as in the paper, one from each of B equal parts of the sum, which has the same expectation as independent draws
    and less variance.

    Args: as `uniform`.

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
    kept = ring(obs_dim, action_dim, capacity, num_envs, n_step)

    def init() -> PrioritizedState:
        return PrioritizedState(kept.init(), sum_tree.zeros(capacity // num_envs * num_envs), jnp.ones(()))

    def add(state: PrioritizedState, transition: Transition, valid: Array) -> PrioritizedState:
        index = next_rows(bare(state))
        leaf = jnp.where(valid, state.largest, gather(state.tree[0], index))
        return PrioritizedState(
            kept.add(state.ring, transition, valid), sum_tree.change(state.tree, index, leaf), state.largest
        )

    def sample(key: Key, state: PrioritizedState, hyper: Hyperparams, t: Array) -> tuple[Transition, Array, Array]:
        strata = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size
        # Sorted it is already; but without the sort XLA computes the end of the search anew in everything that reads the index.
        index = jnp.sort(sum_tree.find(state.tree, strata * sum_tree.total(state.tree)))
        leaf = gather(state.tree[0], index)
        beta = linear(hyper.priority_beta, hyper.priority_beta_final, progress(t, hyper.priority_beta_updates))
        weight = (jnp.min(leaf) / leaf) ** beta  # C and the sum cancel
        return kept.read(jax.random.fold_in(key, 1), state.ring, index, hyper), weight, index

    def feedback(state: PrioritizedState, index: Array, td: Array, hyper: Hyperparams) -> PrioritizedState:
        leaf = (jnp.abs(td) + hyper.priority_epsilon) ** hyper.priority_alpha
        tree, largest = sum_tree.change(state.tree, index, leaf), jnp.maximum(state.largest, jnp.max(leaf))
        return PrioritizedState(state.ring, tree, largest)

    return Replay(init, add, sample, feedback)


def scaled(replay: Replay) -> Replay:
    """The replay with `reward_scale` on what it gives, so that it can be swept."""

    def sample(key: Key, state: Any, hyper: Hyperparams, t: Array) -> tuple[Transition, Array, Array]:
        batch, weight, index = replay.sample(key, state, hyper, t)
        return batch._replace(reward=hyper.reward_scale * batch.reward), weight, index

    return replay._replace(sample=sample)


def aged(replay: Replay) -> Replay:
    """The replay, which also measures `replay_age`: how old the rows that it gives are on average, in environment steps.

    A transition's age is how many its environment has stored since, times the number of environments: 0 for the newest. Of an
    n-step window that of its first row counts. Importance weights do not.
    """

    def measure(state: Any, index: Array) -> dict[str, Array]:
        ring = bare(state)
        _, num_envs = lanes(ring)
        return {**replay.measure(state, index), "replay_age": num_envs * jnp.mean(age_of(ring, index).astype(jnp.float32))}

    return replay._replace(measure=measure)


REPLAYS = {"uniform": uniform, "prioritized": prioritized}
