"""Hindsight: transitions are learned from as if what was achieved later had been desired (Andrychowicz et al. 2017, "HER")."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.replay.ring import (
    MakeRing,
    Ring,
    age_of,
    gather,
    join,
    lanes,
    later,
    make_ring,
    newest_rows,
    next_rows,
    unpack,
    window,
)
from ddpg_jax.types import Array, Goal, Hyperparams, Key, ReplayState, Transition

Strategy: TypeAlias = Callable[[Key, Array, Array], Array]
"""`(key, behind [B], ahead [B]) -> offset [B]`, from -behind to ahead: how many steps later the goal is what was achieved."""


def future(key: Key, behind: Array, ahead: Array) -> Array:
    """Any step of the episode from this one on. Consumes the key."""
    del behind
    return jax.random.randint(key, ahead.shape, 0, ahead + 1)


def final(key: Key, behind: Array, ahead: Array) -> Array:
    """The last step of the episode."""
    del key, behind
    return ahead


def episode(key: Key, behind: Array, ahead: Array) -> Array:
    """Any step of the episode. Consumes the key."""
    return jax.random.randint(key, ahead.shape, -behind, ahead + 1)


STRATEGIES: dict[str, Strategy] = {"future": future, "final": final, "episode": episode}


@flax.struct.dataclass
class HindsightState:
    """A ring, and where in its episode each row is.

    Episodes are counted in each lane, from 0 again after as many as it has rows: of those that are still stored, whatever
    their lengths, no two have the same number.
    """

    ring: ReplayState
    episode: Array
    """`[C]` int32, the number of each row's episode."""
    step: Array
    """`[C]` int32, the steps of its episode before it."""
    steps: Array
    """`[C]` int32, `episode * N + lane`'s steps so far."""


def hindsight(goal: Goal, strategy: Strategy = future) -> MakeRing:
    """A ring whose transitions are, with chance k / (k + 1), read with another goal and the reward that it would have given.

    k is `Hyperparams.hindsight_k`, the number of transitions with another goal for each as it was. Goals are drawn when they
    are needed, from what of the episode is stored by then: of an episode that still runs the last step is the newest, and of
    one that is partly overwritten, the first is the oldest. In an n-step window all steps get the same goal, and it ends where
    the episode would have terminated. What terminated for another reason than its goal, a fall, still does.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> goal = dj.envs.make_device("point-reach").spec.goal
    >>> ring = hindsight(goal, final)(6, 2, 8, 1, 1)
    >>> there = jnp.array([[0.2, 0.2, 0.2, 0.2, 0.9, 0.9]])
    >>> one = dj.Transition(there, there[:, :2], -jnp.ones(1), jnp.ones(1), jnp.zeros(1, bool), there)
    >>> state = ring.add(ring.init(), one, jnp.ones(1, bool))
    >>> batch = ring.read(jax.random.key(0), state, jnp.array([0]), dj.Hyperparams(hindsight_k=1e9))
    >>> batch.obs.tolist(), batch.reward.item()  # doctest: +ELLIPSIS
    ([[0.2..., 0.2..., 0.2..., 0.2..., 0.2..., 0.2...]], 0.0)
    """

    def make(obs_dim: int, action_dim: int, capacity: int, num_envs: int = 1, n_step: int = 1) -> Ring:
        inner = make_ring(obs_dim, action_dim, capacity, num_envs, n_step)

        def init() -> HindsightState:
            ring = inner.init()
            count = ring.rows.shape[0]
            return HindsightState(ring, *(jnp.full(count, start, jnp.int32) for start in (0, -1, 0)))

        def add(state: HindsightState, transition: Transition, valid: Array) -> HindsightState:
            ring = inner.add(state.ring, transition, valid)
            length, _ = lanes(ring)
            before, row = newest_rows(state.ring), next_rows(state.ring)
            ended = gather(ring.rows, before)[:, -1] > 0  # read from what is written already, or else XLA copies the rows
            number = (gather(state.episode, before) + ended) % length
            step = jnp.where(ended, 0, gather(state.step, before) + 1)

            def write(array: Array, index: Array, value: Array) -> Array:
                return array.at[jnp.where(valid, index, length * num_envs)].set(value, mode="drop")

            slot = number * num_envs + jnp.arange(num_envs)
            return HindsightState(
                ring,
                write(state.episode, row, number),
                write(state.step, row, step),
                write(state.steps, slot, step + 1),
            )

        def read(key: Key, state: HindsightState, index: Array, hyper: Hyperparams) -> Transition:
            goal_key, chance_key = jax.random.split(key)
            behind, ahead = stretch(state, index)
            source = later(state.ring, index, strategy(goal_key, behind, ahead))
            wished = achieved(unpack(gather(state.ring.rows, source), obs_dim, action_dim).next_obs, goal)
            chosen = jax.random.uniform(chance_key, index.shape) < hyper.hindsight_k / (hyper.hindsight_k + 1.0)
            steps, stored = window(state.ring, index, obs_dim, action_dim, n_step)
            return join(relabel(steps, chosen, wished, goal), stored, hyper)

        return Ring(init, add, read)

    return make


def stretch(state: HindsightState, index: Array) -> tuple[Array, Array]:
    """How many steps of their episodes are stored before and after rows `index [B]`; `[B]` each."""
    _, num_envs = lanes(state.ring)
    lane, step = index % num_envs, gather(state.step, index)
    older = state.ring.size[lane] - 1 - age_of(state.ring, index)
    steps = gather(state.steps, gather(state.episode, index) * num_envs + lane)
    return jnp.minimum(step, older), steps - 1 - step


def achieved(obs: Array, goal: Goal) -> Array:
    """The goal that was achieved, `[..., G]`, of observations `[..., O]`."""
    return obs[..., -2 * goal.dim : -goal.dim]


def relabel(steps: list[Transition], chosen: Array, wished: Array, goal: Goal) -> list[Transition]:
    """The n transitions `[B]` with `wished [B, G]` as desired goal where `chosen [B]`, and what follows from it."""

    def desire(obs: Array) -> Array:
        return jnp.where(chosen[:, None], jnp.concatenate([obs[:, : -goal.dim], wished], axis=-1), obs)

    reached = jnp.stack([achieved(step.next_obs, goal) for step in steps])
    own = jnp.stack([step.obs[:, -goal.dim :] for step in steps])  # that of an end may be another one already
    pairs = jnp.stack([reached, reached]), jnp.stack([jnp.broadcast_to(wished, own.shape), own])
    (rewards, _), (discounts, own_discounts) = goal.outcome(*pairs)
    fallen = (jnp.stack([step.discount for step in steps]) == 0) & (own_discounts > 0)
    discounts = jnp.where(fallen, 0.0, discounts)
    return [
        Transition(
            desire(step.obs),
            step.action,
            jnp.where(chosen, reward, step.reward),
            jnp.where(chosen, discount, step.discount),
            step.last | (chosen & (discount == 0)),
            desire(step.next_obs),
        )
        for step, reward, discount in zip(steps, rewards, discounts, strict=True)
    ]
