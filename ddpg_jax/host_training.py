"""Training on environments that live on the host: the same stores and gradient steps, one donated call a vector step.

The order of operations is the textbook's: act, step, store, update, and the next action comes from the updated actor. The
call that does all but the step of the environments takes one packet of numbers in and gives one action out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from ddpg_jax.training import RunState, gradient_steps, store, stream
from ddpg_jax.types import Agent, Array, Explorer, Hyperparams, Key, Replay, Transition

REPORT = ("critic_loss", "actor_loss", "q_mean")

Observe: TypeAlias = Callable[[Key, RunState, Hyperparams, Array, Array], tuple[RunState, Array, Array]]
"""`(key, state, hyper, packet [N, 2 * O + 4], i) -> (state, action [N, A], report [3 + N])`: takes in vector step `i`."""


class HostTraining(NamedTuple):
    """One member's part of host training as pure functions. `RunState.env` holds the action `[N, A]` about to be done."""

    init: Callable[[Key, Hyperparams, Array], RunState]
    """`(key, hyper, obs [N, O]) -> state`, with the first action."""
    fill: Observe
    """A step of the warm-up, followed by another."""
    turn: Observe
    """The last step of the warm-up, followed by a step of the policy."""
    learn: Observe
    """A step of learning."""
    act: Callable[[RunState, Array], Array]
    """`(state, obs [K, O]) -> action [K, A]` without noise."""


def pack_step(reward: Any, terminated: Any, last: Any, valid: Any, next_obs: Any, obs: Any) -> np.ndarray:
    """What the environments gave as one array: `[N]` four times and `[N, O]` twice to `[N, 2 * O + 4]` float32."""
    scalars = np.stack([reward, terminated, last, valid], axis=-1).astype(np.float32)
    return np.concatenate([scalars, next_obs, obs], axis=-1)


def make_host_training(
    agent: Agent,
    replay: Replay,
    explorer: Explorer,
    warmup: Explorer,
    obs_dim: int,
    num_envs: int = 1,
    updates: int = 1,
    warmup_steps: int = 1,
) -> HostTraining:
    """The parts of `training.make_training` for environments that cannot be compiled.

    With bundles that `placement.lift` has made for M members, `fill`, `turn` and `learn` work on all of them at once.

    Args:
        agent: the algorithm.
        replay: made for `num_envs` lanes.
        explorer: how the policy's actions are disturbed.
        warmup: the explorer of the warm-up.
        obs_dim: `O`.
        num_envs: `N`.
        updates: gradient steps for each vector step.
        warmup_steps: vector steps of warm-up; 0 starts with the policy.
    """

    def choose(how: Explorer, purpose: str, key: Key, state: RunState, hyper: Hyperparams, i: Array) -> RunState:
        action, noise = how.explore(
            stream(key, purpose, i), state.noise, agent.act, state.train.params.actor, state.obs, hyper, i * num_envs
        )
        return replace(state, env=action, noise=noise)

    def init(key: Key, hyper: Hyperparams, obs: Array) -> RunState:
        train = agent.init(stream(key, "init"), hyper)
        state = RunState(train, replay.init(), explorer.init(num_envs), (), obs, jnp.zeros(num_envs))
        return choose(*(warmup, "warmup") if warmup_steps else (explorer, "explore"), key, state, hyper, jnp.int32(0))

    def observe(how: Explorer, purpose: str, learning: bool) -> Observe:
        def call(key: Key, state: RunState, hyper: Hyperparams, packet: Array, i: Array):
            scalars, next_obs, obs = jnp.split(packet, [4, 4 + obs_dim], axis=-1)
            reward, terminated, last, valid = jnp.moveaxis(scalars, -1, 0)
            transition = Transition(state.obs, state.env, reward, 1.0 - terminated, last > 0, next_obs)
            state, ended = store(replay, explorer, state, transition, valid > 0)
            losses = jnp.full((*key.shape, len(REPORT)), jnp.nan)
            if learning:
                state, info = gradient_steps(agent, replay, updates, key, state, hyper, i)
                losses = jnp.stack([info[name] for name in REPORT], axis=-1)
            state = choose(how, purpose, key, replace(state, obs=obs), hyper, i + 1)
            # The action is copied: the state is donated to the next call, while the caller still reads what this one gave.
            return state, jnp.copy(state.env), jnp.concatenate([losses, ended], axis=-1)

        return call

    def act(state: RunState, obs: Array) -> Array:
        return agent.act(state.train.params.actor, obs)

    return HostTraining(
        init,
        observe(warmup, "warmup", learning=False),
        observe(explorer, "explore", learning=False),
        observe(explorer, "explore", learning=True),
        act,
    )
