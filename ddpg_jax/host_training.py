"""Training on environments that live on the host: the same stores and gradient steps, in two compiled calls a vector step.

`choose` gives the next action and `learn` takes a transition in and does the gradient steps that belong to it. Which comes
first is the order of operations (`Experiment.host_order`):

- textbook: act, step, store, update; the next action comes from the updated actor. This is Algorithm 1 of Lillicrap et al.
  2015, and what the device backend does. Environment and update wait for each other.
- overlapped: act, step, store, and the next action comes from the actor as it is BEFORE the update, which then runs while the
  environment does that action. Every action is from the actor of one vector step earlier than in the textbook; all else is the
  same, and nothing depends on which of the two happens to be faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from ddpg_jax.diagnostics import REPORT
from ddpg_jax.training import RunState, gradient_steps, store, stream
from ddpg_jax.types import Agent, Array, Explorer, Hyperparams, Key, Params, Replay, Transition

Choose: TypeAlias = Callable[[Key, Params, Any, Array, Hyperparams, Array], tuple[Array, Any]]
"""`(key, actor_params, noise, seen [N, O + 1], hyper, i) -> (action [N, A], noise)` of vector step `i`; `seen` is the
observations with a column that tells where an episode starts."""

TakeIn: TypeAlias = Callable[[Key, RunState, Hyperparams, Array, Array], tuple[RunState, Array]]
"""`(key, state, hyper, packet [N, 2 * O + A + 4], i) -> (state, report [R + N])`: takes in vector step `i`. Of the state it
needs and changes `train`, `replay` and `returns`."""


class HostTraining(NamedTuple):
    """One member's part of host training as pure functions. `RunState.env` holds the action `[N, A]` about to be done."""

    init: Callable[[Key, Hyperparams, Array], RunState]
    """`(key, hyper, obs [N, O]) -> state`, with the first action."""
    warm: Choose
    """An action of the warm-up."""
    explore: Choose
    """An action of the policy, disturbed."""
    fill: TakeIn
    """Stores."""
    learn: TakeIn
    """Stores, and does the gradient steps."""
    act: Callable[[Params, Array], Array]
    """`(actor_params, obs [K, O]) -> action [K, A]` without noise."""


def pack_step(reward: Any, terminated: Any, last: Any, valid: Any, obs: Any, action: Any, next_obs: Any) -> np.ndarray:
    """A transition of the environments as one array: `[N]` four times, then `[N, ...]`, to `[N, 2 * O + A + 4]` float32."""
    scalars = np.stack([reward, terminated, last, valid], axis=-1).astype(np.float32)
    return np.concatenate([scalars, obs, action, next_obs], axis=-1)


def make_host_training(
    agent: Agent,
    replay: Replay,
    explorer: Explorer,
    warmup: Explorer,
    obs_dim: int,
    action_dim: int,
    num_envs: int = 1,
    updates: int = 1,
    report: tuple[str, ...] = REPORT,
) -> HostTraining:
    """The parts of `training.make_training` for environments that cannot be compiled.

    With bundles that `placement.lift` has made for M members, all but `init` and `act` work on all of them at once.

    Args:
        agent: the algorithm.
        replay: made for `num_envs` lanes.
        explorer: how the policy's actions are disturbed.
        warmup: the explorer of the warm-up, with which a run begins; it is given the noise of `explorer`, and must hand it on.
        obs_dim: `O`.
        action_dim: `A`.
        num_envs: `N`.
        updates: gradient steps for each vector step.
        report: names of what the updates measure and `learn` gives.
    """

    def chooser(how: Explorer, purpose: str) -> Choose:
        def choose(key: Key, actor_params: Params, noise: Any, seen: Array, hyper: Hyperparams, i: Array):
            obs, last = seen[..., :obs_dim], seen[..., obs_dim] > 0
            noise = explorer.reset(noise, last)
            return how.explore(stream(key, purpose, i), noise, agent.act, actor_params, obs, hyper, i * num_envs)

        return choose

    warm, explore = chooser(warmup, "warmup"), chooser(explorer, "explore")

    def init(key: Key, hyper: Hyperparams, obs: Array) -> RunState:
        train = agent.init(stream(key, "init"), hyper)
        seen = jnp.pad(obs, ((0, 0), (0, 1)))
        noise = explorer.init(num_envs, train.params.actor)
        action, noise = warm(key, train.params.actor, noise, seen, hyper, jnp.int32(0))
        return RunState(train, replay.init(), noise, action, obs, jnp.zeros(num_envs))

    def fill(key: Key, state: RunState, hyper: Hyperparams, packet: Array, i: Array) -> tuple[RunState, Array]:
        del hyper, i
        state, ended = take_in(state, packet)
        return state, jnp.concatenate([jnp.full((*key.shape, len(report)), jnp.nan), ended], axis=-1)

    def learn(key: Key, state: RunState, hyper: Hyperparams, packet: Array, i: Array) -> tuple[RunState, Array]:
        state, ended = take_in(state, packet)
        state, info = gradient_steps(agent, replay, updates, key, state, hyper, i)
        return state, jnp.concatenate([jnp.stack([info[name] for name in report], axis=-1), ended], axis=-1)

    def take_in(state: RunState, packet: Array) -> tuple[RunState, Array]:
        sizes = [4, 4 + obs_dim, 4 + obs_dim + action_dim]
        scalars, obs, action, next_obs = jnp.split(packet, sizes, axis=-1)
        reward, terminated, last, valid = jnp.moveaxis(scalars, -1, 0)
        return store(agent, replay, state, Transition(obs, action, reward, 1.0 - terminated, last > 0, next_obs), valid > 0)

    return HostTraining(init, warm, explore, fill, learn, agent.act)
