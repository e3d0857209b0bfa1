"""Hindsight experience replay: relabels transitions with goals that were achieved later (Andrychowicz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.replay.ring import (
    MakeRing,
    Ring,
    gather,
    join_window,
    lane_shape,
    make_ring,
    newest_rows,
    next_rows,
    read_window,
    row_age,
    shift_rows,
    unpack,
)
from ddpg_jax.types import Array, Goal, Hyperparams, Key, ReplayState, Transition

Strategy: TypeAlias = Callable[[Key, Array, Array], Array]
"""`(key, before [B], after [B]) -> offset [B]` from -before to after: the goal is what was achieved that many steps later.
`before` and `after` count the steps of the episode that are stored on either side."""


def future(key: Key, before: Array, after: Array) -> Array:
    """Chooses any step of the episode from this one on. Consumes the key."""
    del before
    return jax.random.randint(key, after.shape, 0, after + 1)


def final(key: Key, before: Array, after: Array) -> Array:
    """Chooses the last step of the episode."""
    del key, before
    return after


def episode(key: Key, before: Array, after: Array) -> Array:
    """Chooses any step of the episode. Consumes the key."""
    return jax.random.randint(key, after.shape, -before, after + 1)


STRATEGIES: dict[str, Strategy] = {"future": future, "final": final, "episode": episode}


@flax.struct.dataclass
class HindsightState:
    """Holds a ring and the position of each row in its episode.

    Episodes are numbered within each lane, modulo its number of rows: no two episodes that are still stored have the same
    number, whatever their lengths.
    """

    ring: ReplayState
    episode: Array
    """`[C]` int32, the number of the episode of each row."""
    step: Array
    """`[C]` int32, the number of steps of its episode before each row."""
    steps: Array
    """`[C]` int32, the number of steps recorded so far for episode e of lane n, at index `e * N + n`."""
    seen: Any = ()
    """`[3]` rewards of steps: the best and the second best with which an episode terminated, and the best with which one went
    on; unless `Goal.tells_ends`."""


def hindsight(goal: Goal, strategy: Strategy = future) -> MakeRing:
    """Makes a ring that relabels transitions with another goal, with probability k / (k + 1), and recomputes their rewards.

    k is `Hyperparams.hindsight_k`, the ratio of relabelled to original transitions. Goals are drawn when a batch is read, from
    the steps of the episode that are stored at that time: the last step of a running episode is its newest, and the first step
    of a partly overwritten episode is its oldest that remains. All steps of an n-step window get the same goal, and the window
    ends where the episode would have terminated with it. A step that terminated for a reason other than its goal, such as a
    fall, still terminates. If the environment does not say whether reaching a goal terminates, this is inferred from the steps
    that did terminate, even if rewards grow towards the goal and episodes end near it.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> goal = dj.envs.make_device("point-reach").spec.goal
    >>> ring = hindsight(goal, final)(6, 2, 8)
    >>> there = jnp.array([[0.2, 0.2, 0.2, 0.2, 0.9, 0.9]])
    >>> one = dj.Transition(there, there[:, :2], -jnp.ones(1), jnp.ones(1), jnp.zeros(1, bool), there)
    >>> state = ring.add(ring.init(), one, jnp.ones(1, bool))
    >>> batch = ring.read(jax.random.key(0), state, jnp.array([0]), dj.Hyperparams(hindsight_k=1e9))
    >>> batch.obs.tolist(), batch.reward.item()  # doctest: +ELLIPSIS
    ([[0.2..., 0.2..., 0.2..., 0.2..., 0.2..., 0.2...]], 0.0)
    """

    def make(obs_dim: int, action_dim: int, capacity: int, *, num_envs: int = 1, n_step: int = 1) -> Ring:
        inner = make_ring(obs_dim, action_dim, capacity, num_envs=num_envs, n_step=n_step)

        def init() -> HindsightState:
            ring = inner.init()
            count = ring.rows.shape[0]
            episode, step, steps = (jnp.full(count, start, jnp.int32) for start in (0, -1, 0))
            return HindsightState(ring, episode, step, steps, () if goal.tells_ends else jnp.full(3, -jnp.inf))

        def add(state: HindsightState, transition: Transition, valid: Array) -> HindsightState:
            ring = inner.add(state.ring, transition, valid)
            length, _ = lane_shape(ring)
            newest, row = newest_rows(state.ring), next_rows(state.ring)
            ended = gather(ring.rows, newest)[:, -1] > 0  # read from the updated rows, or else XLA copies them
            number = (gather(state.episode, newest) + ended) % length
            step = jnp.where(ended, 0, gather(state.step, newest) + 1)

            def write(array: Array, index: Array, value: Array) -> Array:
                return array.at[jnp.where(valid, index, length * num_envs)].set(value, mode="drop")

            slot = number * num_envs + jnp.arange(num_envs)
            return HindsightState(
                ring,
                write(state.episode, row, number),
                write(state.step, row, step),
                write(state.steps, slot, step + 1),
                () if goal.tells_ends else best_rewards(state.seen, transition, valid),
            )

        def read(key: Key, state: HindsightState, index: Array, hyper: Hyperparams) -> Transition:
            goal_key, chance_key = jax.random.split(key)
            source = shift_rows(state.ring, index, strategy(goal_key, *stored_steps(state, index)))
            desired = achieved_goal(unpack(gather(state.ring.rows, source), obs_dim, action_dim).next_obs, goal)
            chosen = jax.random.uniform(chance_key, index.shape) < hyper.hindsight_k / (hyper.hindsight_k + 1.0)
            steps, stored = read_window(state.ring, index, obs_dim=obs_dim, action_dim=action_dim, n_step=n_step)
            above = None if goal.tells_ends else ends_above(state.seen)
            return join_window(relabel(steps, chosen, desired, goal=goal, above=above), stored, hyper)

        return Ring(init, add, read)

    return make


def stored_steps(state: HindsightState, index: Array) -> tuple[Array, Array]:
    """Counts the steps of their episodes that are stored before and after rows `index [B]`; `[B]` each."""
    _, num_envs = lane_shape(state.ring)
    lane, step = index % num_envs, gather(state.step, index)
    older = state.ring.size[lane] - 1 - row_age(state.ring, index)
    steps = gather(state.steps, gather(state.episode, index) * num_envs + lane)
    return jnp.minimum(step, older), steps - 1 - step


def achieved_goal(obs: Array, goal: Goal) -> Array:
    """Returns the achieved goal `[..., G]` of observations `[..., O]`."""
    return obs[..., -2 * goal.dim : -goal.dim]


def best_rewards(seen: Array, transition: Transition, valid: Array) -> Array:
    """Updates `HindsightState.seen`, `[3]`, with N steps."""
    ended, going_on = (
        jnp.where(valid & which, transition.reward, -jnp.inf) for which in (transition.discount == 0, transition.discount > 0)
    )
    first, second = jax.lax.top_k(jnp.concatenate([seen[:2], ended]), 2)[0]
    return jnp.stack([first, second, jnp.maximum(seen[2], going_on.max())])


def ends_above(seen: Array) -> Array:
    """Returns the reward above which a step terminates: the best reward with which an episode went on.

    It is infinite until two better rewards have ended episodes, and where reaching a goal was seen not to terminate. A single
    fall may be the best step so far, but hardly two in succession.
    """
    return jnp.where(seen[1] > seen[2], seen[2], jnp.inf)


def relabel(
    steps: list[Transition], chosen: Array, desired: Array, *, goal: Goal, above: Array | None = None
) -> list[Transition]:
    """Gives n transitions `[B]` the desired goal `desired [B, G]` where `chosen [B]`, and the rewards and ends that follow.

    Args:
        steps: consecutive transitions.
        chosen: which to relabel.
        desired: the new goals.
        goal: of the environment.
        above: the reward above which a step terminates, or None if the environment says so; see `Goal.tells_ends`.
    """

    def replace_goal(obs: Array) -> Array:
        return jnp.where(chosen[:, None], jnp.concatenate([obs[:, : -goal.dim], desired], axis=-1), obs)

    reached = jnp.stack([achieved_goal(step.next_obs, goal) for step in steps])
    own = jnp.stack([step.obs[:, -goal.dim :] for step in steps])  # at an end, next_obs may already hold another goal
    pairs = jnp.stack([reached, reached]), jnp.stack([jnp.broadcast_to(desired, own.shape), own])
    (rewards, _), (discounts, own_discounts) = goal.outcome(*pairs)
    if above is not None:
        own_rewards = jnp.stack([step.reward for step in steps])  # those computed again differ by rounding
        discounts, own_discounts = (jnp.where(given > above, 0.0, 1.0) for given in (rewards, own_rewards))
    # A step that terminated although it did not reach its own goal, as in a fall, terminates whatever the goal is. All others
    # terminate if they reach the new goal.
    fallen = (jnp.stack([step.discount for step in steps]) == 0) & (own_discounts > 0)
    discounts = jnp.where(fallen, 0.0, discounts)
    return [
        Transition(
            replace_goal(step.obs),
            step.action,
            jnp.where(chosen, reward, step.reward),
            jnp.where(chosen, discount, step.discount),
            step.last | (chosen & (discount == 0)),
            replace_goal(step.next_obs),
        )
        for step, reward, discount in zip(steps, rewards, discounts, strict=True)
    ]
