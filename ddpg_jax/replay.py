"""Replay: a ring buffer on the device, written in place, and ways to draw from it.

A replay is a `Ring`, which keeps transitions and reads batches of them, and a rule by which rows are drawn: `uniform` (Lin
1992; Mnih et al. 2015) or `prioritized` (Schaul et al. 2016). What another ring does besides, such as `hindsight`, goes with
every rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax import sum_tree
from ddpg_jax.losses import n_step_return
from ddpg_jax.schedules import linear, progress
from ddpg_jax.types import Array, Hyperparams, Key, Replay, ReplayState, Transition


class Ring(NamedTuple):
    """How transitions are kept and read, as pure functions. The state is a `ReplayState` or has one inside, as `.ring`."""

    init: Callable[[], Any]
    """`() -> state`, empty."""
    add: Callable[[Any, Transition, Array], Any]
    """`(state, transition [N], valid [N] bool) -> state`."""
    read: Callable[[Key, Any, Array, Hyperparams], Transition]
    """`(key, state, index [B], hyper) -> batch [B]`, the n-step windows that begin at these rows; consumes the key."""


MakeRing = Callable[[int, int, int, int, int], Ring]
"""`(obs_dim, action_dim, capacity, num_envs, n_step) -> ring`"""


def make_ring(obs_dim: int, action_dim: int, capacity: int, num_envs: int = 1, n_step: int = 1) -> Ring:
    """The ring buffer.

    A transition is one packed row, gathered at once. Every environment writes its own lane of `C / N` rows, so that the
    successor of a row in time is the next row of its lane; an n-step window stops at the end of an episode and before the
    row that is written next, and bootstraps from where it stopped.

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        capacity: `C`, transitions in all; rounded down to a multiple of `num_envs`.
        num_envs: `N`.
        n_step: steps whose rewards are summed before the bootstrap.
    """
    length = capacity // num_envs

    def init() -> ReplayState:
        rows = jnp.zeros((length * num_envs, 2 * obs_dim + action_dim + 3))
        return ReplayState(rows, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.int32))

    def add(state: ReplayState, transition: Transition, valid: Array) -> ReplayState:
        index = jnp.where(valid, next_rows(state), length * num_envs)  # one past the end is dropped
        rows = state.rows.at[index].set(pack(transition), mode="drop")
        head = jnp.where(valid, (state.head + 1) % length, state.head)
        return ReplayState(rows, head, jnp.minimum(state.size + valid, length))

    def read(key: Key, state: ReplayState, index: Array, hyper: Hyperparams) -> Transition:
        del key
        return join(*window(state, index, obs_dim, action_dim, n_step), hyper)

    return Ring(init, add, read)


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


def interrupt(state: Any) -> Any:
    """Marks the newest row of every lane as the last of its episode: what is written next is another episode.

    For a run that goes on where its environments could not be kept.
    """
    if not isinstance(state, ReplayState):
        return replace(state, ring=interrupt(state.ring))
    return replace(state, rows=state.rows.at[newest_rows(state), -1].set(1.0))


def bare(state: Any) -> ReplayState:
    """The ring buffer inside the state of any replay."""
    return state if isinstance(state, ReplayState) else bare(state.ring)


def lanes(state: ReplayState) -> tuple[int, int]:
    """Rows of a lane, and lanes."""
    num_envs = state.head.shape[0]
    return state.rows.shape[0] // num_envs, num_envs


def next_rows(state: ReplayState) -> Array:
    """The row of each lane that is written next, `[N]`."""
    _, num_envs = lanes(state)
    return state.head * num_envs + jnp.arange(num_envs)


def newest_rows(state: ReplayState) -> Array:
    """The row of each lane that was written last, `[N]`."""
    length, num_envs = lanes(state)
    return (state.head - 1) % length * num_envs + jnp.arange(num_envs)


def age_of(state: ReplayState, index: Array) -> Array:
    """How many rows of its lane are newer than each row `[B]`."""
    length, num_envs = lanes(state)
    return (state.head[index % num_envs] - 1 - index // num_envs) % length


def later(state: ReplayState, index: Array, steps: Array | int) -> Array:
    """The rows `[B]` of the same lanes so many steps after rows `index [B]`, or before them; around the end of the ring."""
    length, num_envs = lanes(state)
    return (index // num_envs + steps) % length * num_envs + index % num_envs


def window(state: ReplayState, index: Array, obs_dim: int, action_dim: int, n_step: int) -> tuple[list[Transition], Array]:
    """The n transitions `[B]` from each row on, and whether they are newer than it, not overwritten, `[n, B]`."""
    age = age_of(state, index)
    steps = [unpack(gather(state.rows, later(state, index, k)), obs_dim, action_dim) for k in range(n_step)]
    return steps, jnp.stack([k <= age for k in range(n_step)])


def join(steps: list[Transition], stored: Array, hyper: Hyperparams) -> Transition:
    """The n transitions `[B]` of each window as one, up to the end of an episode or of what is `stored [n, B]`."""
    alive = [jnp.ones(stored.shape[1])]
    for before, there in zip(steps[:-1], stored[1:], strict=True):
        alive.append(alive[-1] * (1.0 - before.last) * there)
    reward, discount = n_step_return(jnp.stack([step.reward for step in steps]), jnp.stack(alive), hyper.gamma)
    end = steps[0]
    for step, inside in zip(steps[1:], alive[1:], strict=True):
        end = jax.tree.map(lambda new, old, keep=inside > 0: jnp.where(_align(keep, new), new, old), step, end)
    return Transition(steps[0].obs, steps[0].action, reward, discount * end.discount, end.last, end.next_obs)


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


REPLAYS = {"uniform": uniform, "prioritized": prioritized}
