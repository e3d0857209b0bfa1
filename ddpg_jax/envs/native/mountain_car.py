"""Gymnasium's `MountainCarContinuous-v0` (Moore 1990) on the device, with its walls, its goal and its reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ddpg_jax.envs.make import make_env
from ddpg_jax.types import Array, Env, EnvSpec, Key

LEFT, RIGHT = -1.2, 0.6
GOAL = 0.45
MAX_SPEED = 0.07
POWER, GRAVITY = 0.0015, 0.0025


def mountain_car(goal_velocity: float = 0.0, max_episode_steps: int = 999) -> Env:
    """Makes a car that is too weak to drive straight up from its valley to the goal on the right.

    Args:
        goal_velocity: the minimum velocity with which it must pass the goal.
        max_episode_steps: the time limit.

    >>> mountain_car(max_episode_steps=200).spec.max_steps
    200
    """
    name = "MountainCarContinuous-v0"
    spec = EnvSpec(name, (2,), (1,), (-1.0,), (1.0,), max_steps=max_episode_steps, reward_threshold=90.0)
    least_velocity = float(goal_velocity)

    def start(key: Key) -> Array:
        return jnp.stack([jax.random.uniform(key, minval=-0.6, maxval=-0.4), jnp.zeros(())])

    def advance(key: Key, state: Array, action: Array) -> tuple[Array, Array, Array]:
        del key
        position, velocity = state
        force = action[0]
        velocity = jnp.clip(velocity + POWER * force - GRAVITY * jnp.cos(3.0 * position), -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(position + velocity, LEFT, RIGHT)
        velocity = jnp.where((position == LEFT) & (velocity < 0.0), 0.0, velocity)  # only the left wall stops the car
        terminated = (position >= GOAL) & (velocity >= least_velocity)
        reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * jnp.square(force)
        return jnp.stack([position, velocity]), reward, terminated

    return make_env(spec, start, advance, observe=lambda state: state)
