"""What a Gymnasium space must be so that DDPG can work with it, and what is kept of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.types import EnvSpec

GOAL_PARTS = ("observation", "achieved_goal", "desired_goal")
"""What the observations of an environment with goals consist of, in the order in which they are put end to end."""


def has_goals(space: Any) -> bool:
    """Whether observations of this space are `GOAL_PARTS`, vectors each."""
    parts = getattr(space, "spaces", None)
    return (
        isinstance(parts, dict)
        and set(parts) == set(GOAL_PARTS)
        and all(is_box(part) and len(part.shape) == 1 for part in parts.values())
    )


def is_box(space: Any) -> bool:
    """Whether it is a Box of Gymnasium's, without importing it."""
    return any(kind.__name__ == "Box" for kind in type(space).__mro__)


def flatten_goals(space: Any) -> Any:
    """The space of the three vectors end to end."""
    from gymnasium.spaces import Box

    return Box(-np.inf, np.inf, (sum(space[part].shape[0] for part in GOAL_PARTS),), np.float32)


def join_goals(obs: Any) -> np.ndarray:
    """`GOAL_PARTS` of an observation, or of a batch, end to end: `[..., O]`."""
    return np.concatenate([np.asarray(obs[part]) for part in GOAL_PARTS], axis=-1)


def spec_of(
    name: str, observation_space: Any, action_space: Any, max_steps: int | None, reward_threshold: float | None = None
) -> EnvSpec:
    """The spec of an environment with Box observations and bounded Box actions of a floating type.

    Raises:
        ConfigError: other spaces, images, or bounds that are not finite; the sentence says what is supported.
    """
    for role, space in (("actions", action_space), ("observations", observation_space)):
        if not is_box(space):
            raise ConfigError(
                f"env={name} has {type(space).__name__} {role}; supported are Box {role} (Dict and Discrete observations: with "
                "wrappers=FlattenObservation)"
                if role == "observations"
                else f"env={name} has {type(space).__name__} {role}; supported are Box {role} with finite bounds"
            )
        if 0 in space.shape:
            raise ConfigError(f"env={name} has {role} of shape {space.shape}; supported are {role} of at least one number")
    if observation_space.dtype == np.uint8 and len(observation_space.shape) >= 2:
        raise ConfigError(
            f"env={name} has image observations, {observation_space.shape} uint8; supported are vectors, Box observations of "
            "a floating or integer type that are not images"
        )
    low, high = np.asarray(action_space.low), np.asarray(action_space.high)
    if not np.issubdtype(action_space.dtype, np.floating):
        raise ConfigError(f"env={name} has actions of type {action_space.dtype}; supported are floating types")
    with np.errstate(over="ignore", invalid="ignore"):  # bounds like the largest float32 stand for none
        width = high.astype(np.float32) - low.astype(np.float32)
    if not (np.isfinite(width).all() and (low < high).all()):
        raise ConfigError(
            f"env={name} has actions bounded by {_short(low)} and {_short(high)}; supported are finite bounds, low < high, "
            "which a wrapper can give it"
        )
    return EnvSpec(
        name,
        tuple(observation_space.shape),
        tuple(action_space.shape),
        tuple(float(x) for x in low.ravel()),
        tuple(float(x) for x in high.ravel()),
        max_steps,
        reward_threshold,
        action_dtype=str(action_space.dtype),
    )


def to_native(action: Any, low: Any, high: Any) -> Any:
    """Actions in [-1, 1] in the environment's units; NumPy or JAX arrays, all of one shape.

    >>> import numpy as np
    >>> to_native(np.array([-1.0, 0.0, 1.0]), np.array([0.0] * 3), np.array([10.0] * 3)).tolist()
    [0.0, 5.0, 10.0]
    """
    return (low + (action + 1.0) * 0.5 * (high - low)).clip(low, high)


def _short(bound: np.ndarray) -> str:
    values = np.unique(bound)
    return str(values[0]) if values.size == 1 else str(bound.ravel().tolist())
