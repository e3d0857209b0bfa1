"""Represents episodes as they are given away: in the units of the environment, with the observation after the last step."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.envs.spaces import GOAL_PARTS, has_goals, join_goals, to_native
from ddpg_jax.errors import ConfigError
from ddpg_jax.replay.ring import unpack
from ddpg_jax.types import EnvSpec


class Episode(NamedTuple):
    """Holds T consecutive steps of an environment, as NumPy arrays."""

    obs: Any
    """`[T + 1, *obs_shape]`, or a dict of such arrays for observations with goals: before each step, and after the last."""
    action: np.ndarray
    """`[T, *action_shape]`, in the environment's own units and dtype."""
    reward: np.ndarray
    """`[T]`"""
    terminated: bool
    """True if the last step terminated the episode. Otherwise it was truncated there, or the rest of it is not known."""
    seed: int | None = None
    """The seed of the environment's reset; None if it is not known or has none."""

    @property
    def length(self) -> int:
        """T."""
        return len(self.reward)


def native_actions(unit: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """Converts actions `[..., A]` in [-1, 1] to the environment's units, dtype and shape, `[..., *action_shape]`."""
    action = to_native(np.asarray(unit, np.float64), np.asarray(spec.action_low), np.asarray(spec.action_high))
    return action.astype(spec.action_dtype).reshape(*unit.shape[:-1], *spec.action_shape)


def shaped_obs(flat: np.ndarray, space: Any) -> Any:
    """Gives flattened observations `[T, O]` the shape and dtype of a Gymnasium space, which has goals or is a Box."""
    if not has_goals(space):
        return flat.reshape(len(flat), *space.shape).astype(space.dtype)
    ends = np.cumsum([space[part].shape[0] for part in GOAL_PARTS])[:-1]
    parts = np.split(flat, ends, axis=1)
    return {name: part.astype(space[name].dtype) for name, part in zip(GOAL_PARTS, parts, strict=True)}


def flat_obs(obs: Any) -> np.ndarray:
    """Flattens observations `[T, ...]` to `[T, O]`; the parts of those with goals are concatenated.

    Raises:
        ConfigError: they are dicts of other parts.
    """
    if isinstance(obs, dict) and set(obs) != set(GOAL_PARTS):
        raise ConfigError(f"observations have the parts {', '.join(obs)}; they must be arrays, or have {', '.join(GOAL_PARTS)}")
    joined = join_goals(obs) if isinstance(obs, dict) else np.asarray(obs)
    return joined.reshape(len(joined), -1)


def from_ring(rows: np.ndarray, head: np.ndarray, size: np.ndarray, *, spec: EnvSpec, space: Any) -> list[Episode]:
    """Returns the episodes in a ring buffer (see `types.ReplayState`), lane by lane, each from the oldest on.

    The oldest episode of a lane may lack its beginning, and the newest its end, where it counts as truncated.

    Args:
        rows: `[C, 2 * O + A + 3]`.
        head: `[N]`, the slot of each lane that is written next.
        size: `[N]`, the number of rows of each lane that hold a transition.
        spec: of the environment.
        space: the Gymnasium space of its observations.

    Raises:
        ConfigError: the buffer is empty, or is that of another environment.
    """
    width = 2 * spec.obs_dim + spec.action_dim + 3
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ConfigError(f"the replay has rows of shape {rows.shape[1:]}, where those of env={spec.name} have {(width,)}")
    if not size.sum():
        raise ConfigError("the replay is empty; train longer")
    lanes = rows.reshape(-1, len(head), width)
    episodes = []
    for lane in range(len(head)):
        order = (head[lane] - size[lane] + np.arange(size[lane])) % len(lanes)
        t = jax.tree.map(np.asarray, unpack(lanes[order, lane], spec.obs_dim, spec.action_dim))
        follows = (t.next_obs[:-1] == t.obs[1:]).all(axis=1) & ~t.last[:-1]
        begins = [0, *(np.flatnonzero(~follows) + 1), len(order)]
        for begin, end in itertools.pairwise(begins):
            own = jax.tree.map(lambda x, begin=begin, end=end: x[begin:end], t)
            obs = shaped_obs(np.concatenate([own.obs, own.next_obs[-1:]]), space)
            episodes.append(Episode(obs, native_actions(own.action, spec), own.reward, bool(own.discount[-1] == 0)))
    return [episode for episode in episodes if episode.length]
