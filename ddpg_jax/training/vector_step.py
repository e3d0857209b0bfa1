"""Takes one vector step: act -> step -> store, and the updates that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ddpg_jax.training.step import RunState, gradient_steps, store, stream
from ddpg_jax.types import FAILED, GO_ON, Agent, Array, Env, Explorer, Hyperparams, Key, Replay, Transition


class Step(NamedTuple):
    """Holds what one vector step reports."""

    info: dict[str, Array]
    """Maps names to what the updates reported; empty during the warm-up, and NaN without an update."""
    ended: Array
    """`[N]`, the return where an episode ended, else NaN."""
    fine: Array
    """`[]` bool, False if an environment failed, or if finite observations and actions led to a number that is not finite."""
    status: Array
    """`[]` int32, `GO_ON`, `STOP` or `FAILED`."""
    updated: Array | bool
    """`[]` bool, True if there was an update."""


StepFunction: TypeAlias = Callable[[Key, RunState, Hyperparams, Array], tuple[RunState, Step]]
"""`(key, state, hyper, i) -> (state, report)`: takes vector step `i`."""


class Schedule(NamedTuple):
    """Determines when updates take place."""

    update: Callable[[Key, RunState, Hyperparams, Array], tuple[RunState, dict[str, Array]]]
    """`(key, state, hyper, i) -> (state, info)`: performs the updates of vector step `i`."""
    interval: int
    """The number of vector steps from one time of updates to the next."""

    def due(self, i: Array) -> Array | bool:
        """Returns True if updates follow vector step `i`."""
        return True if self.interval == 1 else i % self.interval == self.interval - 1


class Collector(NamedTuple):
    """Collects experience: acts, steps the environments, and stores the transitions."""

    env: Env
    agent: Agent
    replay: Replay
    num_envs: int
    explorer: Explorer
    max_over_members: Callable[[Array], Array]

    def act(
        self, explorer: Explorer, purpose: str, key: Key, state: RunState, hyper: Hyperparams, i: Array
    ) -> tuple[Array, Any]:
        """Returns actions `[N, A]`, and the noise state after them."""
        actor, t_env = state.train.params.actor, i * self.num_envs
        return explorer.explore(stream(key, purpose, i), state.noise, self.agent.act, actor, state.obs, hyper, t_env)

    def step(self, key: Key, state: RunState, action: Array, i: Array) -> tuple[Any, Array, Transition]:
        """Steps every environment, and returns states, observations to act on next, and transitions, `[N]` each."""
        keys = jax.random.split(stream(key, "env", i), self.num_envs)
        return jax.vmap(self.env.step)(keys, state.env, state.obs, action)

    def store(
        self, state: RunState, noise: Any, action: Array, stepped: tuple[Any, Array, Transition]
    ) -> tuple[RunState, Step]:
        """Stores the result of a step, and returns its report, which has no `info` yet."""
        env_state, obs, transition = stepped
        outside = self.env.outside
        status = jnp.int32(GO_ON) if outside is None else self.max_over_members(outside.status(env_state).max())
        # After an actor has diverged, its actions and then the observations may be NaN, which is no fault of the environment.
        fine = is_finite(transition) & jnp.isfinite(obs).all() | ~(jnp.isfinite(action).all() & jnp.isfinite(state.obs).all())
        state = replace(state, noise=self.explorer.reset(noise, transition.last), env=env_state, obs=obs)
        valid = jnp.full(self.num_envs, status != FAILED)
        state, ended = store(self.agent, self.replay, state, transition=transition, valid=valid)
        return state, Step({}, ended, fine & (status != FAILED), status, False)


def warmup_step(collect: Collector, warmup: Explorer) -> StepFunction:
    """Makes a vector step of the warm-up: act -> step -> store."""

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(warmup, "warmup", key, state, hyper, i)
        return collect.store(state, noise, action, collect.step(key, state, action, i))

    return step


def offline_step(agent: Agent, replay: Replay, num_envs: int) -> StepFunction:
    """Makes a step of learning from demonstrations: one update, while N environments stay where they are."""

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        state, info = gradient_steps(agent, replay, stream(key, "offline"), state, hyper, updates=1, i=i)
        return state, Step(info, jnp.full(num_envs, jnp.nan), jnp.array(True), jnp.int32(GO_ON), True)

    return step


def textbook_step(collect: Collector, schedule: Schedule) -> StepFunction:
    """Makes a vector step of learning: act -> step -> store -> update."""

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(collect.explorer, "explore", key, state, hyper, i)
        state, report = collect.store(state, noise, action, collect.step(key, state, action, i))
        due = schedule.due(i) if collect.env.outside is None else (report.status != FAILED) & schedule.due(i)
        state, info = run_if(due, lambda state: schedule.update(key, state, hyper, i), state)
        return state, report._replace(info=info, updated=due)

    return step


def overlapped_step(collect: Collector, schedule: Schedule) -> StepFunction:
    """Makes a vector step of learning: act -> (step, and meanwhile update) -> store. The update does not see this step."""
    outside = collect.env.outside
    assert outside is not None

    def step(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, Step]:
        action, noise = collect.act(collect.explorer, "explore", key, state, hyper, i)
        env_state = outside.send(state.env, action)
        begun = jnp.minimum(outside.status(env_state).min(), 0)  # 0, but only once the step has begun
        due = schedule.due(i)
        state, info = run_if(due, lambda state: schedule.update(key, state, hyper, i + begun), state)
        # A number that is known only after the whole update, so that the step is not waited for before.
        updated = jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(state.train.params)]).sum()
        stepped = outside.receive(env_state, state.obs, action, updated)
        state, report = collect.store(state, noise, action, stepped)
        return state, report._replace(info=info, updated=due)

    return step


def run_if(
    condition: Array | bool, function: Callable[[RunState], tuple[RunState, dict[str, Array]]], state: RunState
) -> tuple[RunState, dict[str, Array]]:
    """Returns `function(state)` if the condition is true, else the state unchanged and NaN for its info."""
    if condition is True:
        return function(state)
    _, shapes = jax.eval_shape(function, state)
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    # This is a loop, because a `cond` would copy the replay.
    return jax.lax.fori_loop(0, jnp.asarray(condition, jnp.int32), lambda _, carry: function(carry[0]), (state, nothing))


def is_finite(transition: Transition) -> Array:
    """Returns True if all rewards and successors of the transitions `[N]` are finite; `[]`."""
    return jnp.isfinite(transition.reward).all() & jnp.isfinite(transition.next_obs).all()
