"""Exploration: how actions are disturbed while collecting.

Noise is in the units of the agent's actions, [-1, 1]: a sigma of 0.2 is a fifth of half the range of the environment's own
bounds. Disturbed actions are clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpg_jax.schedules import Shape, constant, progress
from ddpg_jax.types import Array, Explorer, Hyperparams, Key, Params, Scalar


def sigma(schedule: Shape, t: Array, hyper: Hyperparams) -> Scalar:
    """The scale of the noise at environment step `t`, on its way to `noise_sigma_final` over `noise_decay_steps`."""
    return schedule(hyper.noise_sigma, hyper.noise_sigma_final, progress(t, hyper.noise_decay_steps))


def gaussian(action_dim: int, schedule: Shape = constant) -> Explorer:
    """Gaussian noise: a = mu(s) + sigma N(0, 1), anew for every environment, step and dimension (Fujimoto et al. 2018)."""

    def init(num_envs: int) -> Any:
        del num_envs
        return ()

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, (obs.shape[0], action_dim))
        return jnp.clip(act(params, obs) + sigma(schedule, t, hyper) * eps, -1.0, 1.0), noise

    def reset(noise: Any, last: Array) -> Any:
        del last
        return noise

    return Explorer(init, explore, reset)


def ornstein_uhlenbeck(action_dim: int, schedule: Shape = constant) -> Explorer:
    """The process dx = theta (0 - x) dt + sigma sqrt(dt) N(0, 1), one for every environment; an episode starts at zero.

    Uhlenbeck and Ornstein 1930, as in Lillicrap et al. 2015, section 7. The noise state is x, `[N, A]`.
    """

    def init(num_envs: int) -> Array:
        return jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Array, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, noise.shape)
        drift = -hyper.ou_theta * noise * hyper.ou_dt
        noise = noise + drift + sigma(schedule, t, hyper) * jnp.sqrt(hyper.ou_dt) * eps
        return jnp.clip(act(params, obs) + noise, -1.0, 1.0), noise

    def reset(noise: Array, last: Array) -> Array:
        return jnp.where(last[:, None], 0.0, noise)

    return Explorer(init, explore, reset)


def none(action_dim: int, schedule: Shape = constant) -> Explorer:
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


def mixed(explorer: Explorer) -> Explorer:
    """Now and then, with chance `epsilon_uniform`, an environment gets a uniform random action instead (epsilon-greedy)."""

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        action, noise = explorer.explore(key, noise, act, params, obs, hyper, t)
        chance_key, action_key = jax.random.split(jax.random.fold_in(key, 1))  # the explorer inside draws as it does alone
        chosen = jax.random.uniform(chance_key, (obs.shape[0], 1)) < hyper.epsilon_uniform
        return jnp.where(chosen, jax.random.uniform(action_key, action.shape, minval=-1.0, maxval=1.0), action), noise

    return explorer._replace(explore=explore)


def smooth(explorer: Explorer, action_dim: int) -> Explorer:
    """Actions that change gradually: (1 - w) a + w b, with w `action_smoothing` and b the action before, 0 at first."""

    def init(num_envs: int) -> Any:
        return explorer.init(num_envs), jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        inner, before = noise
        action, inner = explorer.explore(key, inner, act, params, obs, hyper, t)
        action = (1.0 - hyper.action_smoothing) * action + hyper.action_smoothing * before
        return action, (inner, action)

    def reset(noise: Any, last: Array) -> Any:
        inner, before = noise
        return explorer.reset(inner, last), jnp.where(last[:, None], 0.0, before)

    return Explorer(init, explore, reset)


EXPLORERS: dict[str, Callable[[int, Shape], Explorer]] = {
    "ou": ornstein_uhlenbeck,
    "gaussian": gaussian,
    "none": none,
}
