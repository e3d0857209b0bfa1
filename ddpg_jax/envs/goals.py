"""Environments with goals. Their observations are `[observation, achieved goal, desired goal]` in one vector."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.device import make_env
from ddpg_jax.types import Array, Env, EnvSpec, Goal, Key

SPEED = 0.1
RADIUS = 0.05


def reach_outcome(achieved: Array, desired: Array) -> tuple[Array, Array]:
    """Reward 0 within `RADIUS` of the goal and -1 elsewhere, which never terminates, as in the Fetch environments."""
    distance = jnp.sqrt(jnp.sum(jnp.square(achieved - desired), axis=-1))
    return jnp.where(distance <= RADIUS, 0.0, -1.0), jnp.ones_like(distance)


def point_reach() -> Env:
    """A point in the square [-1, 1]^2 that is to go to another and stay there: 50 steps, each of -1 until it is there.

    The action is its velocity, up to 0.1 a step along each axis. Start and goal are uniform; the best mean return is about -8.
    An episode was a success if it is above -50.
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

    return make_env(spec, start, advance, observe)


def goal_on_host(vector_env: Any) -> Goal | None:
    """The goals of Gymnasium environments: the compiled program asks the first of them for the rewards of a batch.

    None if it has no `compute_reward(achieved [B, G], desired [B, G], info) -> [B]`. `compute_terminated`, where there is one,
    is asked one goal after the other: it need not know of batches.
    """
    dim = vector_env.single_observation_space["desired_goal"].shape[0]
    env = getattr(next(iter(getattr(vector_env, "envs", [])), None), "unwrapped", None)
    reward, terminated = getattr(env, "compute_reward", None), getattr(env, "compute_terminated", None)
    try:
        if reward is None or np.shape(reward(np.zeros((3, dim)), np.zeros((3, dim)), {})) != (3,):
            return None
    except Exception:  # whatever it raises on a batch
        return None

    def ask(achieved: Any, desired: Any) -> tuple[np.ndarray, np.ndarray]:
        shape = achieved.shape[:-1]
        a, b = (np.asarray(x, np.float64).reshape(-1, dim) for x in (achieved, desired))
        rewards = np.asarray(reward(a, b, {}), np.float32)
        ends = [terminated is not None and bool(terminated(*pair, {})) for pair in zip(a, b, strict=True)]
        return rewards.reshape(shape), 1.0 - np.asarray(ends, np.float32).reshape(shape)

    def outcome(achieved: Array, desired: Array) -> tuple[Array, Array]:
        result = jax.ShapeDtypeStruct(achieved.shape[:-1], jnp.float32)
        return jax.pure_callback(ask, (result, result), achieved, desired, vmap_method="broadcast_all")

    return Goal(dim, outcome)
