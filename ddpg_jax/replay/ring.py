"""Implements the ring buffer, which stores transitions on the device, in place, and reads n-step windows of them.

A replay combines a `Ring`, which stores transitions and reads batches of them, with a sampler, which chooses the rows:
`uniform` (Lin 1992; Mnih et al. 2015) or `prioritized` (Schaul et al. 2016). Other rings, such as `hindsight`, work with every
sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp

from ddpg_jax.errors import ConfigError
from ddpg_jax.types import STEP_FIELDS, Array, Hyperparams, Key, ReplayState, Scalar, Transition


def n_step_return(reward: Array, alive: Array, gamma: Scalar) -> tuple[Array, Array]:
    """Sums the discounted rewards of a window, and discounts the state after it (Sutton and Barto 2018, 7.1).

    Args:
        reward: `[n, ...]` rewards in order of time.
        alive: `[n, ...]` 1 for the steps that belong to the window and 0 for those after its end. The first is 1.
        gamma: discount of one step.

    Returns:
        `[...]` sum of `gamma**k * reward[k]` and `[...]` `gamma**m`, with m the number of steps in the window.

    >>> import jax.numpy as jnp, ddpg_jax as dj
    >>> [x.item() for x in dj.n_step_return(jnp.array([1.0, 1.0, 9.0]), jnp.array([1.0, 1.0, 0.0]), 0.5)]
    [1.5, 0.25]
    """
    chex.assert_equal_shape([reward, alive], custom_message="n_step_return: reward and alive must both be [n, ...]")
    chex.assert_rank(gamma, 0, custom_message="n_step_return: gamma must be []")
    total, discount = reward[0], jnp.full_like(reward[0], gamma)
    for k in range(1, reward.shape[0]):
        total = total + alive[k] * discount * reward[k]
        discount = jnp.where(alive[k] > 0, discount * gamma, discount)
    return total, discount


class Ring(NamedTuple):
    """Stores transitions and reads batches of them, as pure functions.

    The state is a `ReplayState` or contains one as its field `ring`.
    """

    init: Callable[[], Any]
    """`() -> state`, empty."""
    add: Callable[[Any, Transition, Array], Any]
    """`(state, transition [N], valid [N] bool) -> state`."""
    read: Callable[[Key, Any, Array, Hyperparams], Transition]
    """`(key, state, index [B], hyper) -> batch [B]`, the n-step windows that begin at these rows; consumes the key."""


class MakeRing(Protocol):
    """Makes a `Ring`, with the arguments that `make_ring` explains."""

    def __call__(self, obs_dim: int, action_dim: int, capacity: int, *, num_envs: int = 1, n_step: int = 1) -> Ring:
        """Makes a ring."""
        ...


def make_ring(obs_dim: int, action_dim: int, capacity: int, *, num_envs: int = 1, n_step: int = 1) -> Ring:
    """Makes the ring buffer.

    A transition is one packed row, read in a single gather. Every environment writes to its own lane of `C / N` rows, so that
    the row that follows in time is the next row of the same lane. An n-step window stops at the end of an episode and before
    the row that is written next, and bootstraps from where it stopped.

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        capacity: `C`, the total number of transitions; rounded down to a multiple of `num_envs`.
        num_envs: `N`.
        n_step: number of rewards that are summed before the bootstrap.

    Raises:
        ConfigError: there is no row for some environment.
    """
    length = capacity // num_envs
    if length < 1:
        raise ConfigError(f"capacity={capacity} is not allowed with num_envs={num_envs}; it must be at least as many")

    def init() -> ReplayState:
        rows = jnp.zeros((length * num_envs, 2 * obs_dim + action_dim + 3))
        return ReplayState(rows, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.int32))

    def add(state: ReplayState, transition: Transition, valid: Array) -> ReplayState:
        check_add(state, transition, valid, rows=length * num_envs, num_envs=num_envs, obs_dim=obs_dim, action_dim=action_dim)
        index = jnp.where(valid, next_rows(state), length * num_envs)  # one past the end is dropped
        rows = state.rows.at[index].set(pack(transition), mode="drop")
        head = jnp.where(valid, (state.head + 1) % length, state.head)
        return ReplayState(rows, head, jnp.minimum(state.size + valid, length))

    def read(key: Key, state: ReplayState, index: Array, hyper: Hyperparams) -> Transition:
        del key
        steps, stored = read_window(state, index, obs_dim=obs_dim, action_dim=action_dim, n_step=n_step)
        return join_window(steps, stored, hyper)

    return Ring(init, add, read)


def check_add(
    state: ReplayState, transition: Transition, valid: Array, *, rows: int, num_envs: int, obs_dim: int, action_dim: int
) -> None:
    """Asserts the shapes of the arguments of `Replay.add`."""
    expected = {
        "obs": ("[N, O]", (num_envs, obs_dim)),
        "action": ("[N, A]", (num_envs, action_dim)),
        "next_obs": ("[N, O]", (num_envs, obs_dim)),
    }
    for name, value in zip(STEP_FIELDS, transition, strict=False):
        dims, shape = expected.get(name, ("[N]", (num_envs,)))
        chex.assert_shape(value, shape, custom_message=f"Replay.add: transition.{name} must be {dims}")
    chex.assert_shape(valid, (num_envs,), custom_message="Replay.add: valid must be [N]")
    width = 2 * obs_dim + action_dim + 3
    chex.assert_shape(state.rows, (rows, width), custom_message="Replay.add: rows of state must be [C, 2 * O + A + 3]")


def end_open_episodes(state: Any) -> Any:
    """Marks the newest row of every lane as the last of its episode, so that the next row starts another episode.

    This is for a run that continues after its environments could not be restored.
    """

    def end(part: Any) -> Any:
        return replace(part, rows=part.rows.at[newest_rows(part), -1].set(1.0)) if _is_ring(part) else part

    return jax.tree.map(end, state, is_leaf=_is_ring)


def ring_state(state: Any) -> ReplayState:
    """Returns the ring buffer inside the state of any replay: the first of its `rings`."""
    return rings(state)[0]


def rings(state: Any) -> list[ReplayState]:
    """Returns all ring buffers in a pytree."""
    return [part for part in jax.tree.leaves(state, is_leaf=_is_ring) if _is_ring(part)]


def _is_ring(part: Any) -> bool:
    return isinstance(part, ReplayState)


def lane_shape(state: ReplayState) -> tuple[int, int]:
    """Returns the number of rows per lane and the number of lanes."""
    num_envs = state.head.shape[0]
    return state.rows.shape[0] // num_envs, num_envs


def next_rows(state: ReplayState) -> Array:
    """Returns the row of each lane that is written next, `[N]`."""
    _, num_envs = lane_shape(state)
    return state.head * num_envs + jnp.arange(num_envs)


def newest_rows(state: ReplayState) -> Array:
    """Returns the row of each lane that was written last, `[N]`."""
    length, num_envs = lane_shape(state)
    return (state.head - 1) % length * num_envs + jnp.arange(num_envs)


def row_age(state: ReplayState, index: Array) -> Array:
    """Counts the rows of the same lane that are newer than each row `index [B]`; `[B]`."""
    length, num_envs = lane_shape(state)
    return (state.head[index % num_envs] - 1 - index // num_envs) % length


def shift_rows(state: ReplayState, index: Array, steps: Array | int) -> Array:
    """Returns the rows `[B]` that follow rows `index [B]` by `steps` in their lanes, wrapping around the end."""
    length, num_envs = lane_shape(state)
    return (index // num_envs + steps) % length * num_envs + index % num_envs


def read_window(
    state: ReplayState, index: Array, *, obs_dim: int, action_dim: int, n_step: int
) -> tuple[list[Transition], Array]:
    """Reads the n transitions `[B]` from each row on.

    Also returns `[n, B]`, False for rows beyond the newest of the lane: these are empty, or older than the first of the window.
    """
    age = row_age(state, index)
    steps = [unpack(gather(state.rows, shift_rows(state, index, k)), obs_dim, action_dim) for k in range(n_step)]
    return steps, jnp.stack([k <= age for k in range(n_step)])


def join_window(steps: list[Transition], stored: Array, hyper: Hyperparams) -> Transition:
    """Joins the n transitions `[B]` of each window into one, up to the end of its episode or of what is `stored [n, B]`."""
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
    """Returns `rows[index]`, `[B, ...]`, for indices known to be in bounds, which saves the check and the masking."""
    return rows.at[index].get(mode="promise_in_bounds")


def pack(transition: Transition) -> Array:
    """Packs transitions `[N]` into rows `[N, 2 * O + A + 3]` float32."""
    t = transition
    scalars = jnp.stack([t.reward, t.discount, t.last.astype(jnp.float32)], axis=-1)
    return jnp.concatenate([t.obs, t.action, t.next_obs, scalars], axis=-1)


def unpack(rows: Array, obs_dim: int, action_dim: int) -> Transition:
    """Inverts `pack`: rows `[B, 2 * O + A + 3]` become transitions `[B]`."""
    obs, action, next_obs, scalars = jnp.split(rows, [obs_dim, obs_dim + action_dim, 2 * obs_dim + action_dim], axis=-1)
    return Transition(obs, action, scalars[..., 0], scalars[..., 1], scalars[..., 2] > 0, next_obs)
