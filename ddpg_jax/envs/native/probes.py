"""A ladder of tiny environments, each of which isolates one fault of a learner; their true values are known.

Train on one by its name, `probe/discount`. A learner that fails on a rung need not be tried on the rungs above it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.envs.make import make_env
from ddpg_jax.types import Array, Env, EnvSpec, Key


def _still(key: Key) -> Array:
    del key
    return jnp.zeros(1)


def constant_reward() -> Env:
    """Every episode is one step with reward 1 and terminates: Q = 1. Wrong: the critic's loss or its optimizer."""
    spec = EnvSpec("probe/constant-reward", (1,), (1,), (-1.0,), (1.0,), max_steps=10)
    return make_env(spec, _still, lambda key, x, action: (x, jnp.ones(()), True), lambda x: x)


def discount() -> Env:
    """Two steps, rewards 0 and 1, then termination: Q = gamma at observation 0, and 1 at observation 1. Wrong: the discount."""
    spec = EnvSpec("probe/discount", (1,), (1,), (-1.0,), (1.0,), max_steps=10)
    return make_env(spec, _still, lambda key, x, action: (x + 1.0, x[0], x[0] > 0.5), lambda x: x)


def truncation() -> Env:
    """Reward 1 for ever, cut after 5 steps: Q = 1 / (1 - gamma). Wrong: truncation is treated as termination."""
    spec = EnvSpec("probe/truncation", (1,), (1,), (-1.0,), (1.0,), max_steps=5)
    return make_env(spec, _still, lambda key, x, action: (x, jnp.ones(()), False), lambda x: x)


def termination() -> Env:
    """Reward 1 for 5 steps, the last of which terminates and looks like the others but for a clock: Q = 1 at clock .8.

    Wrong: termination bootstraps (the value of the last step is then above 1).
    """
    spec = EnvSpec("probe/termination", (1,), (1,), (-1.0,), (1.0,), max_steps=100)
    return make_env(spec, _still, lambda key, x, action: (x + 0.2, jnp.ones(()), x[0] > 0.7), lambda x: x)


ACTION_GOAL = (2.0, 1.0)


def action_units() -> Env:
    """One step; bounds [-1, 3] and [0, 10]; the reward is best, 0, at the action (2, 1). Wrong: the rescaling of actions."""
    spec = EnvSpec("probe/action-units", (1,), (2,), (-1.0, 0.0), (3.0, 10.0), max_steps=10)

    def advance(key: Key, x: Array, action: Array) -> tuple[Array, Array, Any]:
        del key
        # Numbers, not arrays: these a program for several devices rounds as one for one device does.
        first, second = (action[0] - ACTION_GOAL[0]) / 4.0, (action[1] - ACTION_GOAL[1]) / 10.0
        return x, -(jnp.square(first) + jnp.square(second)), True

    return make_env(spec, _still, advance, lambda x: x)


def observation() -> Env:
    """One step; the reward is best, 0, where the action equals the observation. Wrong: the actor does not see."""
    spec = EnvSpec("probe/observation", (1,), (1,), (-1.0,), (1.0,), max_steps=10)

    def start(key: Key) -> Array:
        return jax.random.uniform(key, (1,), minval=-0.8, maxval=0.8)

    return make_env(spec, start, lambda key, x, action: (x, -jnp.sum(jnp.square(action - x)), True), lambda x: x)


def echo() -> Env:
    """The observation is the action before; no reward. It shows whether exploration is correlated in time."""
    spec = EnvSpec("probe/echo", (1,), (1,), (-1.0,), (1.0,), max_steps=1_000)
    return make_env(spec, _still, lambda key, x, action: (action, jnp.zeros(()), False), lambda x: x)


LQR_A = ((1.0, 0.1), (0.0, 1.0))
LQR_B = ((0.0,), (0.1,))
LQR_Q = ((1.0, 0.0), (0.0, 0.1))
LQR_R = ((0.1,),)


def lqr() -> Env:
    """A mass pushed to the origin: x' = A x + B u, reward -(x' Q x + u' R u). The best policy is linear (Riccati)."""
    spec = EnvSpec("probe/lqr", (2,), (1,), (-4.0,), (4.0,), max_steps=50)
    a, b, q, r = (jnp.array(matrix) for matrix in (LQR_A, LQR_B, LQR_Q, LQR_R))

    def start(key: Key) -> Array:
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)

    def advance(key: Key, x: Array, u: Array) -> tuple[Array, Array, Any]:
        del key
        return a @ x + b @ u, -(x @ q @ x + u @ r @ u), False

    return make_env(spec, start, advance, lambda x: x)


PROBES = {
    "probe/constant-reward": constant_reward,
    "probe/discount": discount,
    "probe/truncation": truncation,
    "probe/termination": termination,
    "probe/action-units": action_units,
    "probe/observation": observation,
    "probe/echo": echo,
    "probe/lqr": lqr,
}
