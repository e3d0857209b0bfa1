"""Defines the one function that a file contains, and checks that the file computes what the policy does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpg_jax.agent.normalization import OBS, variance
from ddpg_jax.agent.policy import Policy
from ddpg_jax.envs.spaces import to_native
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array

CHECKS = 1_000
"""Observations on which a file is compared with its policy."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
"""Precision of the hidden layers -> largest difference of actions, in halves of the action range.

With bfloat16, a sum that differs in its last bit may be rounded to the next number, which is 2^-8 away.
"""


def float32_bounds(policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of the flattened action, `[A]` each, rounded to float32 towards the inside."""
    low, high = np.asarray(policy.spec.action_low), np.asarray(policy.spec.action_high)
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(math.inf)), low32)
    return low32, np.where(high32 > high, np.nextafter(high32, np.float32(-math.inf)), high32)


def policy_function(policy: Policy) -> Callable[[Array], Array]:
    """Returns `obs [B, *obs_shape] -> action [B, *action_shape]`, float32, in the environment's units and within its bounds.

    Observations are those that the environment returns; for an environment with goals, their concatenation.
    """
    low, high = float32_bounds(policy)

    def act(obs: Array) -> Array:
        unit = policy.unit_action(policy.params, obs.reshape(obs.shape[0], policy.spec.obs_dim))
        action = to_native(unit, *(jnp.broadcast_to(bound[None], unit.shape) for bound in (low, high)))
        return action.reshape(obs.shape[0], *policy.spec.action_shape)

    return act


def sample_observations(policy: Policy, count: int = CHECKS) -> np.ndarray:
    """Draws observations near and far from those that the policy has seen, `[count, *obs_shape]` float32; always the same."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(count, policy.spec.obs_dim)) * rng.choice([0.1, 1.0, 3.0], size=(count, 1))
    if OBS in policy.params:
        moments = {name: np.asarray(value, np.float64) for name, value in policy.params[OBS].items()}
        obs = moments["mean"] + obs * np.sqrt(np.asarray(variance(moments)))  # pyright: ignore[reportArgumentType]
    return obs.astype(np.float32).reshape(count, *policy.spec.obs_shape)


def check_same(policy: Policy, run: Callable[[np.ndarray], Any], *, program: str) -> float:
    """Compares a file with its policy on `CHECKS` observations at once and on one alone.

    Args:
        policy: the policy.
        run: `obs [B, *obs_shape] -> action [B, *action_shape]`, runs the file.
        program: what runs it, for the error message.

    Returns:
        The largest difference, in halves of the action range.

    Raises:
        ConfigError: it exceeds `TOLERANCE`, or the actions have another shape.
    """
    obs = sample_observations(policy)
    exact = dataclasses.replace(policy, spec=policy.spec._replace(action_dtype="float64"))  # not rounded to float16
    expected = np.asarray(exact(obs))
    half = (np.asarray(policy.spec.action_high) - np.asarray(policy.spec.action_low)).reshape(policy.spec.action_shape) / 2
    worst = 0.0
    for count in (CHECKS, 1):
        found = np.asarray(run(obs[:count]))
        if found.shape != expected[:count].shape:
            raise ConfigError(f"{program} returns actions of shape {found.shape}, not {expected[:count].shape}")
        worst = max(worst, float(np.max(np.abs(found - expected[:count]) / half)))
    limit = TOLERANCE[policy.fields.get("precision", "float32")]
    if not worst <= limit:
        raise ConfigError(
            f"{program} differs from the policy by {worst:.1e} of half the action range, where {limit:.0e} is allowed; use "
            "another format"
        )
    return worst


def check_finite(policy: Policy) -> None:
    """Checks that a policy can be exported.

    Raises:
        ConfigError: its parameters are not finite, because it has diverged.
    """
    if not policy.is_finite():
        raise ConfigError(f"{policy!r} has diverged, since its parameters are not finite; export another one")
