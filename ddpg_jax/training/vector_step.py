"""One vector step: act -> step -> store, and the updates that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.training.step import RunState, store, stream
from ddpg_jax.types import FAILED, GO_ON, Agent, Array, Env, Explorer, Hyperparams, Key, Replay, Transition


class Step(NamedTuple):
    """What one vector step reports."""

    info: dict[str, Array]
    """By name, what the updates reported; empty during the warm-up, and NaN without an update."""
    ended: Array
    """`[N]`, returns of the episodes that ended, else NaN."""
    fine: Array
    """`[]` bool, whether all numbers that the environments gave were finite."""
    status: Array
    """`[]` int32, `GO_ON`, `STOP` or `FAILED`."""
    updated: Array | bool
    """`[]` bool, whether there was an update."""


StepFunction: TypeAlias = Callable[[Key, RunState, Hyperparams, Array], tuple[RunState, Step]]
"""`(key, state, hyper, i) -> (state, report)`: vector step `i`."""


class Schedule(NamedTuple):
    """When updates take place."""

    update: Callable[[Key, RunState, Hyperparams, Array], tuple[RunState, dict[str, Array]]]
    """`(key, state, hyper, i) -> (state, info)`, the updates of vector step `i`."""
    period: int
    """They follow every so many vector steps."""

    def due(self, i: Array) -> Array | bool:
        """Returns whether vector step `i` is followed by updates."""
        return True if self.period == 1 else i % self.period == self.period - 1


class Collector(NamedTuple):
    """Acts, and stores what a vector step of the environments gave."""

    env: Env
    agent: Agent
    replay: Replay
    num_envs: int
    explorer: Explorer
    agree: Callable[[Array], Array]

    def act(self, how: Explorer, purpose: str, key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[Array, Any]:
        """Returns actions `[N, A]` and the noise after them."""
        actor, t = state.train.params.actor, i * self.num_envs
        return how.explore(stream(key, purpose, i), state.noise, self.agent.act, actor, state.obs, hyper, t)

    def step(self, key: Key, state: RunState, action: Array, i: Array) -> tuple[Any, Array, Transition]:
        """Steps every environment."""
        keys = jax.random.split(stream(key, "env", i), self.num_envs)
        return jax.vmap(self.env.step)(keys, state.env, state.obs, action)

    def store(
        self, state: RunState, noise: Any, action: Array, stepped: tuple[Any, Array, Transition]
    ) -> tuple[RunState, Step]:
        """Stores what a step gave; its report lacks what updates will say."""
        env_state, obs, transition = stepped
        outside = self.env.outside
        status = jnp.int32(GO_ON) if outside is None else self.agree(outside.status(env_state).max())
        # An actor that has diverged asks for actions that are not numbers: what comes back then, and after that, is not the
        # environment's fault.
        fine = is_finite(transition) & jnp.isfinite(obs).all() | ~(jnp.isfinite(action).all() & jnp.isfinite(state.obs).all())
        state = replace(state, noise=self.explorer.reset(noise, transition.last), env=env_state, obs=obs)
        valid = jnp.full(self.num_envs, status != FAILED)
        state, ended = store(self.agent, self.replay, state, transition=transition, valid=valid)
        return state, Step({}, ended, fine & (status != FAILED), status, False)


def warmup_step(collect: Collector, warmup: Explorer) -> StepFunction:
    """Returns a vector step of the warm-up: act -> step -> store."""

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(warmup, "warmup", key, state, hyper, i)
        return collect.store(state, noise, action, collect.step(key, state, action, i))

    return step


def textbook_step(collect: Collector, schedule: Schedule) -> StepFunction:
    """Returns a vector step of learning: act -> step -> store -> update."""

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(collect.explorer, "explore", key, state, hyper, i)
        state, told = collect.store(state, noise, action, collect.step(key, state, action, i))
        due = schedule.due(i) if collect.env.outside is None else (told.status != FAILED) & schedule.due(i)
        state, info = once_if(due, lambda state: schedule.update(key, state, hyper, i), state)
        return state, told._replace(info=info, updated=due)

    return step


def overlapped_step(collect: Collector, schedule: Schedule) -> StepFunction:
    """Returns a vector step of learning: act -> (step, meanwhile update) -> store. The update does not know this step yet."""
    outside = collect.env.outside
    assert outside is not None

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(collect.explorer, "explore", key, state, hyper, i)
        env_state = outside.send(state.env, action)
        begun = jnp.minimum(outside.status(env_state).min(), 0)  # 0, but only once the step has begun
        due = schedule.due(i)
        state, info = once_if(due, lambda state: schedule.update(key, state, hyper, i + begun), state)
        updated = jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(state.train.params)]).sum()
        stepped = outside.receive(env_state, state.obs, action, updated)
        state, told = collect.store(state, noise, action, stepped)
        return state, told._replace(info=info, updated=due)

    return step


def once_if(
    condition: Array | bool, function: Callable[[RunState], tuple[RunState, dict[str, Array]]], state: RunState
) -> tuple[RunState, dict[str, Array]]:
    """Returns `function(state)` where the condition holds, else the state and NaNs."""
    if condition is True:
        return function(state)
    _, shapes = jax.eval_shape(function, state)
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    # A loop, as a `cond` would copy the replay.
    return jax.lax.fori_loop(0, jnp.asarray(condition, jnp.int32), lambda _, carry: function(carry[0]), (state, nothing))


def is_finite(transition: Transition) -> Array:
    """Returns whether every number that the environments gave is finite; `[N] -> []`."""
    return jnp.isfinite(transition.reward).all() & jnp.isfinite(transition.next_obs).all()
