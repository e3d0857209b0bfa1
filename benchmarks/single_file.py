"""DDPG as a single file is usually written: Gymnasium, a replay in NumPy, and one jitted call each for critic and actor.

What `benchmarks.peers` measures beside libraries: the loop that many people start from. Not a reference for results.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

GAMMA, TAU = 0.99, 0.005


class Actor(nn.Module):
    """mu(s)."""

    action_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(256)(x))
        x = nn.relu(nn.Dense(256)(x))
        return jnp.tanh(nn.Dense(self.action_dim)(x))


class Critic(nn.Module):
    """Q(s, a)."""

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([obs, action], axis=-1)
        x = nn.relu(nn.Dense(256)(x))
        x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(1)(x)[..., 0]


def make_loop(name: str, batch_size: int, warmup: int) -> Callable[[int], None]:
    """A function that goes on for so many steps, the first `warmup` of which choose at random and learn nothing."""
    env = gymnasium.make(name)
    space: Any = env.action_space
    obs_dim, action_dim = env.observation_space.shape[0], space.shape[0]  # pyright: ignore[reportOptionalSubscript]
    rng = np.random.default_rng(0)
    obs_, next_, action_ = (np.zeros((100_000, n), np.float32) for n in (obs_dim, obs_dim, action_dim))
    reward_, done_ = np.zeros(100_000, np.float32), np.zeros(100_000, np.float32)

    actor, critic = Actor(action_dim), Critic()
    keys = jax.random.split(jax.random.key(0))
    actor_params = actor.init(keys[0], jnp.zeros((1, obs_dim)))
    critic_params = critic.init(keys[1], jnp.zeros((1, obs_dim)), jnp.zeros((1, action_dim)))
    actor_target, critic_target = actor_params, critic_params
    actor_tx, critic_tx = optax.adam(1e-4), optax.adam(1e-3)
    actor_opt, critic_opt = actor_tx.init(actor_params), critic_tx.init(critic_params)

    act = jax.jit(actor.apply)

    @jax.jit
    def update_critic(params: Any, opt: Any, actor_target: Any, critic_target: Any, batch: Any) -> Any:
        obs, action, reward, done, next_obs = batch
        next_q: Any = critic.apply(critic_target, next_obs, actor.apply(actor_target, next_obs))
        y = reward + GAMMA * (1.0 - done) * next_q

        def loss(params: Any) -> Any:
            q: Any = critic.apply(params, obs, action)
            return jnp.mean((q - y) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = critic_tx.update(grads, opt)
        return optax.apply_updates(params, updates), opt, value

    @jax.jit
    def update_actor(params: Any, opt: Any, critic_params: Any, actor_target: Any, critic_target: Any, obs: Any) -> Any:
        def loss(params: Any) -> Any:
            q: Any = critic.apply(critic_params, obs, actor.apply(params, obs))
            return -jnp.mean(q)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = actor_tx.update(grads, opt)
        params = optax.apply_updates(params, updates)
        follow = optax.incremental_update
        return params, opt, follow(params, actor_target, TAU), follow(critic_params, critic_target, TAU), value

    obs, _ = env.reset(seed=0)
    clock = itertools.count()

    def step() -> None:
        nonlocal obs, actor_params, critic_params, actor_target, critic_target, actor_opt, critic_opt
        t = next(clock)
        if t < warmup:
            action = space.sample()
        else:
            action = np.asarray(act(actor_params, obs)) * space.high
            action = np.clip(action + rng.normal(0.0, 0.1, action_dim) * space.high, space.low, space.high)
        after, reward, terminated, truncated, _ = env.step(action)
        at = t % len(obs_)
        obs_[at], next_[at], action_[at], reward_[at], done_[at] = obs, after, action / space.high, reward, terminated
        obs = env.reset()[0] if terminated or truncated else after
        if t >= warmup:
            pick = rng.integers(min(t + 1, len(obs_)), size=batch_size)
            batch = obs_[pick], action_[pick], reward_[pick], done_[pick], next_[pick]
            critic_params, critic_opt, _ = update_critic(critic_params, critic_opt, actor_target, critic_target, batch)
            actor_params, actor_opt, actor_target, critic_target, _ = update_actor(
                actor_params, actor_opt, critic_params, actor_target, critic_target, batch[0]
            )

    def go_on(steps: int) -> None:
        for _ in range(steps):
            step()
        jax.block_until_ready(actor_params)

    return go_on
