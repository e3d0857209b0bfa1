"""Checks that DDPG supports the spaces of a Gymnasium environment, and derives its `EnvSpec` from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.types import EnvSpec

GOAL_PARTS = ("observation", "achieved_goal", "desired_goal")
"""Parts of the observations of an environment with goals, in the order in which they are concatenated."""


def check_same_spaces(found: EnvSpec, trained: EnvSpec) -> None:
    """Checks that an environment takes and gives what a policy was trained with.

    Raises:
        ConfigError: its shapes or bounds are others.
    """
    for name in ("obs_shape", "action_shape", "action_low", "action_high"):
        if (own := getattr(found, name)) != (known := getattr(trained, name)):
            raise ConfigError(
                f"env={found.name} is not allowed with this policy, since its {name} is {own} and the policy was trained with "
                f"{known}; both must be the same"
            )


def has_goals(space: Any) -> bool:
    """Returns True if observations of this space consist of the `GOAL_PARTS`, each of which is a vector."""
    parts = getattr(space, "spaces", None)
    return (
        isinstance(parts, dict)
        and set(parts) == set(GOAL_PARTS)
        and all(is_box(part) and len(part.shape) == 1 for part in parts.values())
    )


def is_box(space: Any) -> bool:
    """Returns True for a Gymnasium Box, without importing Gymnasium."""
    return any(kind.__name__ == "Box" for kind in type(space).__mro__)


def flatten_goals(space: Any) -> Any:
    """Returns the space of the concatenated `GOAL_PARTS`."""
    from gymnasium.spaces import Box

    return Box(-np.inf, np.inf, (sum(space[part].shape[0] for part in GOAL_PARTS),), np.float32)


def join_goals(obs: Any) -> np.ndarray:
    """Concatenates the `GOAL_PARTS` of an observation, or of a batch of them: `[..., O]`."""
    return np.concatenate([np.asarray(obs[part]) for part in GOAL_PARTS], axis=-1)


def spec_of(
    name: str, observation_space: Any, action_space: Any, *, max_steps: int | None, reward_threshold: float | None = None
) -> EnvSpec:
    """Returns the spec of an environment with Box observations and bounded Box actions of a floating type.

    Raises:
        ConfigError: the spaces are of another kind, images, or lack finite bounds; the message says what is supported.
    """
    for role, space in (("actions", action_space), ("observations", observation_space)):
        if not is_box(space):
            raise ConfigError(
                f"env={name} has {type(space).__name__} {role}; it must have Box {role} (wrappers=FlattenObservation converts "
                "Dict and Discrete observations)"
                if role == "observations"
                else f"env={name} has {type(space).__name__} {role}; it must have Box {role} with finite bounds"
            )
        if 0 in space.shape:
            raise ConfigError(f"env={name} has {role} of shape {space.shape}; it must have {role} of at least one number")
    if observation_space.dtype == np.uint8 and len(observation_space.shape) >= 2:
        raise ConfigError(
            f"env={name} has image observations, {observation_space.shape} uint8; it must have vector observations, a Box of a "
            "floating or integer type that is not an image"
        )
    low, high = np.asarray(action_space.low), np.asarray(action_space.high)
    if not np.issubdtype(action_space.dtype, np.floating):
        raise ConfigError(f"env={name} has actions of type {action_space.dtype}; it must have actions of a floating type")
    with np.errstate(over="ignore", invalid="ignore"):  # bounds such as the largest float32 mean unbounded
        width = high.astype(np.float32) - low.astype(np.float32)
    if not (np.isfinite(width).all() and (low < high).all()):
        raise ConfigError(
            f"env={name} has actions bounded by {_short(low)} and {_short(high)}; it must have finite bounds, low < high, "
            "which a wrapper can provide"
        )
    return EnvSpec(
        name,
        tuple(observation_space.shape),
        tuple(action_space.shape),
        tuple(float(x) for x in low.ravel()),
        tuple(float(x) for x in high.ravel()),
        max_steps,
        _finite(reward_threshold),
        action_dtype=str(action_space.dtype),
    )


def to_native(action: Any, low: Any, high: Any) -> Any:
    """Converts actions in [-1, 1] to the environment's units; NumPy or JAX arrays of equal shape.

    >>> import numpy as np
    >>> to_native(np.array([-1.0, 0.0, 1.0]), np.array([0.0] * 3), np.array([10.0] * 3)).tolist()
    [0.0, 5.0, 10.0]
    """
    return (low + (action + 1.0) * 0.5 * (high - low)).clip(low, high)


def _finite(threshold: Any) -> float | None:
    """Returns a reward threshold as a float, or None if it is none that can be reached."""
    try:
        number = float(threshold)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _short(bound: np.ndarray) -> str:
    values = np.unique(bound)
    return str(values[0]) if values.size == 1 else str(bound.ravel().tolist())
