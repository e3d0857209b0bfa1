"""Samples from demonstrations: a fixed store of transitions beside the replay. The store is only read, never written.

The store is the state of a ring that is full, with one lane, in which the episodes follow one another. Hence windows of n steps
and hindsight work in it as they do in a replay. It is an argument of the compiled program that all members share, so that
neither members nor checkpoints hold copies of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.replay.hindsight import HindsightState
from ddpg_jax.replay.ring import ring_state, unpack
from ddpg_jax.types import Array, Goal, Hyperparams, Key, Replay, ReplayState, Transition


class Mixed(NamedTuple):
    """Holds where the rows of a mixed batch come from."""

    row: Array
    """`[B]`, the rows of the replay that were drawn, also where a demonstration took their place."""
    demonstration: Array
    """`[B]` bool, True where the batch has a demonstration."""


def make_store(transitions: Transition, goal: Goal | None = None) -> Any:
    """Makes the state of a full ring from transitions `[D]` in order of time, as NumPy arrays.

    Args:
        transitions: of whole episodes, one after the other; `last` marks the end of each.
        goal: of the environment, for hindsight; None without it.

    >>> x = np.ones((2, 1), np.float32)
    >>> one = Transition(x, x, x[:, 0], x[:, 0], np.array([False, True]), x)
    >>> make_store(one).size.tolist()
    [2]
    """
    transitions = transitions._replace(last=np.append(transitions.last[:-1], True))
    t, count = transitions, len(transitions.last)
    scalars = np.stack([t.reward, t.discount, t.last], axis=-1)
    rows = np.concatenate([t.obs, t.action, t.next_obs, scalars], axis=-1).astype(np.float32)
    begin: Any = np.zeros(1, np.int32)
    ring = ReplayState(rows, begin, begin + count)  # pyright: ignore[reportArgumentType]
    if goal is None:
        return ring
    ends = np.flatnonzero(np.asarray(transitions.last)) + 1
    lengths = np.diff(ends, prepend=0)
    episode = np.repeat(np.arange(len(ends)), lengths).astype(np.int32)
    step = (np.arange(count) - np.repeat(ends - lengths, lengths)).astype(np.int32)
    steps = np.zeros(count, np.int32)
    steps[: len(ends)] = lengths
    return HindsightState(ring, episode, step, steps, () if goal.tells_ends else _best_rewards(transitions))  # pyright: ignore[reportArgumentType]


def _best_rewards(transitions: Transition) -> np.ndarray:
    """Returns `HindsightState.seen` after all transitions."""
    reward, over = np.asarray(transitions.reward), np.asarray(transitions.discount) == 0
    ended = np.sort(np.append(reward[over], [-np.inf, -np.inf]))
    return np.array([ended[-1], ended[-2], np.max(reward[~over], initial=-np.inf)], np.float32)


def all_transitions(store: Any, obs_dim: int, action_dim: int) -> Transition:
    """Returns all transitions of a store, `[D]`."""
    return unpack(ring_state(store).rows, obs_dim, action_dim)


def only(demonstrations: Replay, store: Any) -> Replay:
    """Makes a replay that samples nothing but demonstrations, and whose state, whatever it is, never changes.

    Args:
        demonstrations: samples from a store.
        store: from `make_store`.
    """
    store = jax.tree.map(jnp.asarray, store)

    def sample(key: Key, state: Any, hyper: Hyperparams, t_update: Array) -> tuple[Transition, Array, Array]:
        del state
        batch, weight, index = demonstrations.sample(key, store, hyper, t_update)
        return batch._replace(demonstration=jnp.ones(len(weight), bool)), weight, index

    def add(state: Any, transition: Transition, valid: Array) -> Any:
        del transition, valid
        return state

    def measure(state: Any, index: Array) -> dict[str, Array]:
        del state
        return {name: jnp.full((), jnp.nan) for name in demonstrations.measure(store, index)}

    return Replay(tuple, add, sample, lambda state, index, td, hyper: state, measure)


def mixed(replay: Replay, demonstrations: Replay, store: Any) -> Replay:
    """Mixes batches from a replay and from demonstrations, `demo_fraction` of the latter (Ball et al. 2023, section 4.1: 0.5).

    Each batch has demo_fraction * B demonstrations; if that is not a whole number, it is rounded up or down at random, so that
    the mean is right. They are drawn uniformly, with weight 1, and spread evenly over the batch: each of the strata that
    prioritized replay draws from is replaced with equal probability. What the updates report about a demonstration changes no
    priority, except that of one row if the whole batch is demonstrations. With a fraction of 0, batches are those of the
    replay.

    Args:
        replay: what is collected.
        demonstrations: samples batches of the same size from a store.
        store: from `make_store`.
    """
    store = jax.tree.map(jnp.asarray, store)

    def sample(key: Key, state: Any, hyper: Hyperparams, t_update: Array) -> tuple[Transition, Array, Any]:
        batch, weight, index = replay.sample(key, state, hyper, t_update)
        demo_key, place_key = jax.random.split(jax.random.fold_in(key, 2))
        shown, _, _ = demonstrations.sample(demo_key, store, hyper, t_update)
        chosen = spread(place_key, len(weight), hyper.demo_fraction)

        def choose(demonstration: Array, own: Array) -> Array:
            return jnp.where(chosen.reshape(-1, *(1,) * (own.ndim - 1)), demonstration, own)

        batch = jax.tree.map(choose, shown, batch)._replace(demonstration=chosen)
        return batch, jnp.where(chosen, 1.0, weight), Mixed(index, chosen)

    def feedback(state: Any, index: Any, td: Array, hyper: Hyperparams) -> Any:
        # A demonstration repeats the feedback of the nearest row of the replay before it, or else of the last one in the batch.
        places = jnp.arange(len(td))
        before = jax.lax.cummax(jnp.where(index.demonstration, -1, places))
        source = jnp.where(before < 0, before[-1], before)
        return replay.feedback(state, index.row[source], td[source], hyper)

    def measure(state: Any, index: Any) -> dict[str, Array]:
        return replay.measure(state, index.row)

    return Replay(replay.init, replay.add, sample, feedback, measure)


def spread(key: Key, size: int, share: Any) -> Array:
    """Chooses a share of `size` places, evenly spread, each with this probability (systematic sampling); `[size]` bool.

    Probabilities are exact to 1/4096. Consumes the key.

    >>> spread(jax.random.key(0), 8, 0.5).sum().item(), spread(jax.random.key(0), 8, 0.0).any().item()
    (4, False)
    """
    begin = jax.random.randint(key, (), 0, 4_096) / 4_096  # few digits, so that sums are not rounded to the next whole number
    ends = jnp.floor(begin + jnp.arange(size + 1) * jnp.asarray(share))
    return jnp.diff(ends) > 0
