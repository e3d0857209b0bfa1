"""Takes one gradient step, and defines what it needs: the state of a run, streams of keys, sampling, updating, storing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.replay.ring import end_open_episodes
from ddpg_jax.types import Agent, Array, Hyperparams, Key, Replay, TrainState, Transition

STREAMS = ("init", "warmup", "explore", "sample", "update", "env", "reset", "eval", "offline")
"""The purposes of random draws. The position of a purpose determines its keys."""


def stream(key: Key, purpose: str, clock: Array | int = 0) -> Key:
    """Returns the key for one purpose at one time. `key` is that of a run, `jax.random.key(seed)`, or of `[M]` runs."""
    if key.ndim:
        return jax.vmap(lambda one: stream(one, purpose, clock))(key)
    return jax.random.fold_in(jax.random.fold_in(key, STREAMS.index(purpose)), clock)


@flax.struct.dataclass
class RunState:
    """Holds everything that a run carries from one step to the next, except its clock, from which its keys are derived."""

    train: TrainState
    replay: Any
    """The state of the replay."""
    noise: Any
    """The noise state of each environment, from `Explorer.init`."""
    env: Any
    """The states of the environments, with a leading `[N]`."""
    obs: Array
    """`[N, O]`, the observations to act on next."""
    returns: Array
    """`[N]`, the undiscounted returns of the running episodes so far."""


def fork(own: RunState, parent: RunState) -> RunState:
    """Returns the state of a member that goes on from the state of another one in its own environments.

    The open episodes of the replay end, because the next transitions belong to other episodes. The member keeps its own noise,
    which belongs to its running episodes.
    """
    replay = end_open_episodes(parent.replay)
    return replace(parent, noise=own.noise, env=own.env, obs=own.obs, returns=own.returns, replay=replay)


def train_step(
    agent: Agent,
    replay: Replay,
    key: Key,
    train: TrainState,
    replay_state: Any,
    hyper: Hyperparams,
    t_update: Array,
) -> tuple[TrainState, Any, dict[str, Array]]:
    """Takes one gradient step: sample -> update -> feedback. Bind `agent` and `replay`, `jit` it, and donate the two states.

    Args:
        agent: the algorithm.
        replay: stores and samples transitions.
        key: the key of the run, from which the keys of this update are derived.
        train: the state of networks and optimizers.
        replay_state: the state of the replay, with at least one transition.
        hyper: the hyperparameters.
        t_update: the number of this update, on which its keys, schedules, `policy_delay` and `sync_period` depend. The caller
            counts; see `types`.

    Returns:
        The two states, and `info`, with the scalars `critic_loss`, `actor_loss`, `q_mean` and others that agent and replay
        measure.

    >>> import functools, jax, ddpg_jax as dj
    >>> agent, hyper = dj.make_agent(*dj.mlp(action_dim=1), obs_dim=3), dj.Hyperparams()
    >>> replay = dj.replay.uniform(obs_dim=3, action_dim=1, capacity=1_000, batch_size=64)
    >>> step = jax.jit(functools.partial(dj.train_step, agent, replay), donate_argnums=(1, 2))
    """
    chex.assert_rank(t_update, 0, custom_message="train_step: t_update must be []")
    batch, weight, index = replay.sample(stream(key, "sample", t_update), replay_state, hyper, t_update)
    train, td, info = agent.update(stream(key, "update", t_update), train, batch, weight, hyper, t_update)
    info = {**info, **replay.measure(replay_state, index)}
    return train, replay.feedback(replay_state, index, td, hyper), info


def gradient_steps(
    agent: Agent, replay: Replay, key: Key, state: RunState, hyper: Hyperparams, *, updates: int, i: Array
) -> tuple[RunState, dict[str, Array]]:
    """Takes the `i`-th group of `updates` gradient steps, and returns the state and the means of what they report."""

    def body(carry: tuple[TrainState, Any], t_update: Array):
        train, replay_state, info = train_step(agent, replay, key, *carry, hyper, t_update)
        return (train, replay_state), info

    carry = (state.train, state.replay)
    if updates == 1:
        (train, replay_state), info = body(carry, i)
    else:
        (train, replay_state), infos = jax.lax.scan(body, carry, i * updates + jnp.arange(updates))
        # NaN stands for what an update did not measure, except in these two, where it means that a member has diverged.
        info = {name: (jnp.mean if name in ("critic_loss", "q_mean") else jnp.nanmean)(x, axis=0) for name, x in infos.items()}
    return replace(state, train=train, replay=replay_state), info


def store(agent: Agent, replay: Replay, state: RunState, *, transition: Transition, valid: Array) -> tuple[RunState, Array]:
    """Stores transitions `[N]`. Also returns, for each environment, the return of an episode that ended, else NaN, `[N]`."""
    returns = state.returns + jnp.where(valid, transition.reward, 0.0)
    ended = transition.last & valid
    state = replace(
        state,
        train=agent.observe(state.train, transition, valid),
        replay=replay.add(state.replay, transition, valid),
        returns=jnp.where(ended, 0.0, returns),
    )
    return state, jnp.where(ended, returns, jnp.nan)
