"""Defines an environment with goals, whose observation is the vector `[observation, achieved goal, desired goal]`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ddpg_jax.envs.make import make_env
from ddpg_jax.types import Array, Env, EnvSpec, Goal, Key

SPEED = 0.1
RADIUS = 0.05


def reach_outcome(achieved: Array, desired: Array) -> tuple[Array, Array]:
    """Gives reward 0 within `RADIUS` of the goal and -1 elsewhere, and never terminates, as in the Fetch environments."""
    distance = jnp.sqrt(jnp.sum(jnp.square(achieved - desired), axis=-1))
    return jnp.where(distance <= RADIUS, 0.0, -1.0), jnp.ones_like(distance)


def point_reach() -> Env:
    """Makes a point in the square [-1, 1]^2 that has 50 steps to reach a goal and stay there, with reward -1 elsewhere.

    The action is its velocity, up to 0.1 per step along each axis. Start and goal are uniform; the best mean return is about
    -8. An episode that ends at its goal is a success.
    """
    spec = EnvSpec("point-reach", (6,), (2,), (-1.0, -1.0), (1.0, 1.0), max_steps=50, goal=Goal(2, reach_outcome))

    def start(key: Key) -> tuple[Array, Array]:
        position, desired = jax.random.uniform(key, (2, 2), minval=-1.0, maxval=1.0)
        return position, desired

    def advance(key: Key, state: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], Array, bool]:
        del key
        position, desired = state
        position = jnp.clip(position + SPEED * action, -1.0, 1.0)
        reward, _ = reach_outcome(position, desired)
        return (position, desired), reward, False

    def observe(state: tuple[Array, Array]) -> Array:
        position, desired = state
        return jnp.concatenate([position, position, desired])

    return make_env(spec, start, advance, observe=observe, success=lambda transition: transition.reward == 0)
