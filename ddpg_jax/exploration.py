"""Exploration: how actions are disturbed while collecting, and schedules for the scale of the noise.

Noise is in the units of the agent's actions, [-1, 1]: a sigma of 0.2 is a fifth of half the range of the environment's own
bounds. Disturbed actions are clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Explorer, Hyperparams, Key, Params

Schedule = Callable[[Array, Hyperparams], Any]
"""`sigma(t, hyper)`, with `t` in environment steps."""


def constant(t: Array, hyper: Hyperparams) -> Any:
    """`noise_sigma` throughout."""
    del t
    return hyper.noise_sigma


def linear(t: Array, hyper: Hyperparams) -> Any:
    """Straight from `noise_sigma` to `noise_sigma_final` over `noise_decay_steps`, and there it stays."""
    return hyper.noise_sigma + (hyper.noise_sigma_final - hyper.noise_sigma) * _progress(t, hyper)


def exponential(t: Array, hyper: Hyperparams) -> Any:
    """By a constant factor a step from `noise_sigma` to `noise_sigma_final`, and there it stays. Both must be positive."""
    return hyper.noise_sigma * (hyper.noise_sigma_final / hyper.noise_sigma) ** _progress(t, hyper)


def _progress(t: Array, hyper: Hyperparams) -> Array:
    return jnp.clip(t / hyper.noise_decay_steps, 0.0, 1.0)


SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "exponential": exponential}


def gaussian(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Gaussian noise: a = mu(s) + sigma N(0, 1), anew for every environment, step and dimension (Fujimoto et al. 2018)."""

    def init(num_envs: int) -> Any:
        del num_envs
        return ()

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, (obs.shape[0], action_dim))
        return jnp.clip(act(params, obs) + schedule(t, hyper) * eps, -1.0, 1.0), noise

    def reset(noise: Any, last: Array) -> Any:
        del last
        return noise

    return Explorer(init, explore, reset)


def ornstein_uhlenbeck(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """The process dx = theta (0 - x) dt + sigma sqrt(dt) N(0, 1), one for every environment; an episode starts at zero.

    Uhlenbeck and Ornstein 1930, as in Lillicrap et al. 2015, section 7. The noise state is x, `[N, A]`.
    """

    def init(num_envs: int) -> Array:
        return jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Array, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, noise.shape)
        drift = -hyper.ou_theta * noise * hyper.ou_dt
        noise = noise + drift + schedule(t, hyper) * jnp.sqrt(hyper.ou_dt) * eps
        return jnp.clip(act(params, obs) + noise, -1.0, 1.0), noise

    def reset(noise: Array, last: Array) -> Array:
        return jnp.where(last[:, None], 0.0, noise)

    return Explorer(init, explore, reset)


def none(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """No noise at all: a = mu(s)."""
    del schedule
    quiet = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        del key, hyper, t
        return act(params, obs), noise

    return quiet._replace(explore=explore)


def uniform(action_dim: int) -> Explorer:
    """Uniform: a ~ U(-1, 1), whatever the policy says: the actions of the warm-up."""
    quiet = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        del act, params, hyper, t
        return jax.random.uniform(key, (obs.shape[0], action_dim), minval=-1.0, maxval=1.0), noise

    return quiet._replace(explore=explore)


EXPLORERS: dict[str, Callable[[int, Schedule], Explorer]] = {
    "ou": ornstein_uhlenbeck,
    "gaussian": gaussian,
    "none": none,
}
