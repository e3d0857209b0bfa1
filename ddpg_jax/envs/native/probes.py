"""Probe environments, tiny tasks with known true values that each isolate one fault of a learner.

They are ordered from simple to hard: a learner that fails one need not be tried on the later ones. Train on one by its name,
`probe/discount`.
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
    """Terminates after one step with reward 1: Q = 1. Detects faults of the critic's loss or its optimizer."""
    spec = EnvSpec("probe/constant-reward", (1,), (1,), (-1.0,), (1.0,), max_steps=10)
    return make_env(spec, _still, lambda key, x, action: (x, jnp.ones(()), True), observe=lambda x: x)


def discount() -> Env:
    """Terminates after rewards 0 and 1: Q = gamma at observation 0, and 1 at observation 1. Detects faults of the discount."""
    spec = EnvSpec("probe/discount", (1,), (1,), (-1.0,), (1.0,), max_steps=10)
    return make_env(spec, _still, lambda key, x, action: (x + 1.0, x[0], x[0] > 0.5), observe=lambda x: x)


def truncation() -> Env:
    """Gives reward 1 forever, truncated after 5 steps: Q = 1 / (1 - gamma). Detects truncation treated as termination."""
    spec = EnvSpec("probe/truncation", (1,), (1,), (-1.0,), (1.0,), max_steps=5)
    return make_env(spec, _still, lambda key, x, action: (x, jnp.ones(()), False), observe=lambda x: x)


def termination() -> Env:
    """Gives reward 1 for 5 steps and terminates; the observation is a clock: Q = 1 at clock 0.8.

    Detects bootstrapping from a termination, which puts the value of the last step above 1.
    """
    spec = EnvSpec("probe/termination", (1,), (1,), (-1.0,), (1.0,), max_steps=100)
    return make_env(spec, _still, lambda key, x, action: (x + 0.2, jnp.ones(()), x[0] > 0.7), observe=lambda x: x)


ACTION_GOAL = (2.0, 1.0)


def action_units() -> Env:
    """Rewards the action (2, 1) with the maximum, 0, within bounds [-1, 3] and [0, 10]; one step. Detects wrong rescaling."""
    spec = EnvSpec("probe/action-units", (1,), (2,), (-1.0, 0.0), (3.0, 10.0), max_steps=10)

    def advance(key: Key, x: Array, action: Array) -> tuple[Array, Array, Any]:
        del key
        # Scalars, not arrays, so that programs for one device and for several round alike.
        first, second = (action[0] - ACTION_GOAL[0]) / 4.0, (action[1] - ACTION_GOAL[1]) / 10.0
        return x, -(jnp.square(first) + jnp.square(second)), True

    return make_env(spec, _still, advance, observe=lambda x: x)


def observation() -> Env:
    """Rewards an action equal to the observation with the maximum, 0; one step. Detects an actor that ignores observations."""
    spec = EnvSpec("probe/observation", (1,), (1,), (-1.0,), (1.0,), max_steps=10)

    def start(key: Key) -> Array:
        return jax.random.uniform(key, (1,), minval=-0.8, maxval=0.8)

    return make_env(spec, start, lambda key, x, action: (x, -jnp.sum(jnp.square(action - x)), True), observe=lambda x: x)


def echo() -> Env:
    """Observes the previous action, with no reward, which shows whether exploration is correlated in time."""
    spec = EnvSpec("probe/echo", (1,), (1,), (-1.0,), (1.0,), max_steps=1_000)
    return make_env(spec, _still, lambda key, x, action: (action, jnp.zeros(()), False), observe=lambda x: x)


LQR_A = ((1.0, 0.1), (0.0, 1.0))
LQR_B = ((0.0,), (0.1,))
LQR_Q = ((1.0, 0.0), (0.0, 0.1))
LQR_R = ((0.1,),)


def lqr() -> Env:
    """Pushes a mass to the origin: next x = A x + B u, reward -(x^T Q x + u^T R u). The best policy is linear (Riccati)."""
    spec = EnvSpec("probe/lqr", (2,), (1,), (-4.0,), (4.0,), max_steps=50)
    a, b, q, r = (jnp.array(matrix) for matrix in (LQR_A, LQR_B, LQR_Q, LQR_R))

    def start(key: Key) -> Array:
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)

    def advance(key: Key, x: Array, u: Array) -> tuple[Array, Array, Any]:
        del key
        return a @ x + b @ u, -(x @ q @ x + u @ r @ u), False

    return make_env(spec, start, advance, observe=lambda x: x)


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
