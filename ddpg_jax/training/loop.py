"""Trains one member: collect -> store -> sample -> update, as pure functions; map over them to train many.

Clocks come from outside the carried state, so that they are never batched. `i` counts vector steps. Explorers get
`t_env = i * N`, environment steps summed over environments; agent and replay get `t_update = i * updates + k`, which counts
updates. Every random draw has the key `fold_in(stream, clock)`, with one stream for each purpose. Hence a run in two halves
equals one run bit for bit, and a new part does not shift another's stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.replay.ring import end_open_episodes
from ddpg_jax.training.rollout import rollout
from ddpg_jax.training.step import RunState, gradient_steps, stream
from ddpg_jax.training.vector_step import Collector, Schedule, Step, overlapped_step, textbook_step, warmup_step
from ddpg_jax.types import FAILED, GO_ON, Agent, Array, Env, Explorer, Hyperparams, Key, Params, Replay

Q_LIMIT = 1e8
"""Size from which mean values are no estimates any more: the member has diverged."""


class Metrics(NamedTuple):
    """Holds what a block of steps reports, or the part of it that is done so far; scalars."""

    sums: dict[str, Array]
    """By name, sums of what the updates reported, if there were any, and of `train_return_mean`: undiscounted returns of the
    episodes that ended, exploration noise included. NaN, which stands for what was not measured, is left out."""
    counts: dict[str, Array]
    """How many numbers are in each sum."""
    bad_step: Array
    """The first vector step at which the environment gave a number that is not finite, else -1."""
    diverged_step: Array
    """The first vector step at which the critic's loss was not finite or its mean value exceeded `Q_LIMIT`, else -1."""
    done: Any = -1
    """The vector step to continue with: the end of the block, or an earlier one where an environment has ended it."""


class Training(NamedTuple):
    """Holds one member's whole training as pure functions. `key` is the run's own at every call."""

    init: Callable[[Key, Hyperparams], RunState]
    """`(key, hyper) -> state`."""
    restart: Callable[[Key, RunState, Array], RunState]
    """`(key, state, i) -> state` at vector step `i`: all episodes start again, as the environments could not be kept."""
    fill: Callable[..., tuple[RunState, Metrics]]
    """`(key, state, hyper, begin, end, so_far=None) -> (state, metrics)`: vector steps of uniform random actions, no learning.
    `so_far` is the metrics of the steps before, if these are to be a part of the same block."""
    learn: Callable[..., tuple[RunState, Metrics]]
    """As `fill`: vector steps of collecting and learning."""
    evaluate: Callable[[Key, RunState, Array], tuple[Array, Array]]
    """`(key, state, i) -> (returns [K], lengths [K])` at vector step `i`: whole episodes of the policy without noise."""


def make_training(
    env: Env,
    agent: Agent,
    replay: Replay,
    *,
    explorer: Explorer,
    warmup: Explorer,
    num_envs: int = 1,
    updates: int = 1,
    period: int = 1,
    eval_episodes: int = 10,
    eval_shared: bool = False,
    agree: Callable[[Array], Array] = lambda status: status,
) -> Training:
    """Makes the training in which acting, environment, replay and updates are one compiled program.

    Args:
        env: one environment, with a limit on the length of its episodes.
        agent: the algorithm.
        replay: made for `num_envs` lanes.
        explorer: disturbs the policy's actions.
        warmup: the explorer of the warm-up, `exploration.uniform`; it is given the noise of `explorer`, and must hand it on.
        num_envs: `N`, stepped side by side.
        updates: gradient steps at a time.
        period: vector steps from one time to the next.
        eval_episodes: episodes of one evaluation.
        eval_shared: whether these are played in a training environment outside of the program; `restart` must follow.
        agree: `(status []) -> status []`, the greatest among the members that are advanced in one loop; under `vmap` it must
            not be batched, as the end of the loop depends on it.
    """

    def init(key: Key, hyper: Hyperparams) -> RunState:
        env_state, obs = jax.vmap(env.reset)(jax.random.split(stream(key, "reset"), num_envs))
        train = agent.init(stream(key, "init"), hyper)
        noise = explorer.init(num_envs, train.params.actor)
        return RunState(train, replay.init(), noise, env_state, obs, jnp.zeros(num_envs))

    def restart(key: Key, state: RunState, i: Array) -> RunState:
        env_state, obs = jax.vmap(env.reset)(jax.random.split(stream(key, "reset", i), num_envs))
        return replace(
            state,
            env=env_state,
            obs=obs,
            noise=explorer.init(num_envs, state.train.params.actor),
            replay=end_open_episodes(state.replay),
            returns=jnp.zeros(num_envs),
        )

    def update(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, dict[str, Array]]:
        return gradient_steps(agent, replay, key, state, hyper, updates=updates, i=i // period if period > 1 else i)

    collect = Collector(env, agent, replay, num_envs, explorer, agree)
    schedule = Schedule(update, period)
    overlapped = env.outside is not None and env.outside.order == "overlapped"
    learn_step = overlapped_step(collect, schedule) if overlapped else textbook_step(collect, schedule)
    fill_step = warmup_step(collect, warmup)

    def fill(
        key: Key, state: RunState, hyper: Hyperparams, begin: Array, end: Array, so_far: Metrics | None = None
    ) -> tuple[RunState, Metrics]:
        return block(lambda state, i: fill_step(key, state, hyper, i), state, begin, end=end, so_far=so_far)

    def learn(
        key: Key, state: RunState, hyper: Hyperparams, begin: Array, end: Array, so_far: Metrics | None = None
    ) -> tuple[RunState, Metrics]:
        return block(lambda state, i: learn_step(key, state, hyper, i), state, begin, end=end, so_far=so_far)

    def evaluate(key: Key, state: RunState, i: Array) -> tuple[Array, Array]:
        actor = state.train.params.actor

        # As on the host, an action that is not a number becomes the middle of the range; the returns are then NaN.
        def act(params: Params, obs: Array) -> Array:
            return jnp.nan_to_num(agent.act(params, obs))

        where = {"owner": jnp.int32(0) if env.outside is None else state.env[0, 1], "shared": eval_shared}
        returns, lengths = rollout(env, act, stream(key, "eval", i), actor_params=actor, episodes=eval_episodes, **where)
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(actor)]).all()
        return jnp.where(sound, returns, jnp.nan), lengths

    return Training(init, restart, fill, learn, evaluate)


def block(
    step: Callable[[RunState, Array], tuple[RunState, Step]],
    state: RunState,
    begin: Array,
    *,
    end: Array,
    so_far: Metrics | None = None,
) -> tuple[RunState, Metrics]:
    """Takes vector steps `begin` to `end`, which the compiler need not know: blocks of all lengths are one program.

    Sums continue where `so_far` left them, one number after the other, so that a block in several calls has the bits of one.

    Args:
        step: `(state, i) -> (state, report)`, a vector step.
        state: before the first step.
        begin: the first step.
        end: the step after the last one.
        so_far: the metrics of the steps of this block before `begin`.
    """

    def values(told: Step) -> dict[str, Array]:
        return {**told.info, "train_return_mean": told.ended}

    def first(step: Array, condition: Array | bool, i: Array) -> Array:
        return jnp.where((step < 0) & condition, i, step)

    def body(carry: Any) -> Any:
        i, _, state, metrics = carry
        state, told = step(state, i)
        new = values(told)
        sums = metrics.sums + stack({name: jnp.nansum(x) for name, x in new.items()})
        counts = metrics.counts + stack({name: jnp.sum(~jnp.isnan(x)) for name, x in new.items()})
        happened = told.status != FAILED
        learned = happened if told.updated is True else happened & told.updated
        diverged = has_diverged(told.info["critic_loss"], told.info["q_mean"]) & learned if told.info else False
        bad_step, diverged_step = first(metrics.bad_step, ~told.fine, i), first(metrics.diverged_step, diverged, i)
        i = i + happened.astype(i.dtype)
        return i, told.status, state, metrics._replace(sums=sums, counts=counts, bad_step=bad_step, diverged_step=diverged_step)

    def stack(by_name: dict[str, Array]) -> Array:
        return jnp.stack([by_name[name] for name in names])

    def unstack(stacked: Array) -> dict[str, Array]:
        return dict(zip(names, stacked, strict=True))

    so_far = so_far or no_metrics(values(jax.eval_shape(step, state, begin)[1]))
    names = tuple(so_far.sums)
    # One array for all sums inside the loop: where a member is alone on a GPU, each by itself takes a kernel, every step.
    start = so_far._replace(sums=stack(so_far.sums), counts=stack(so_far.counts), done=())
    loop = (jnp.asarray(begin, jnp.int32), jnp.int32(GO_ON), state, start)
    i, _, state, metrics = jax.lax.while_loop(lambda carry: (carry[0] < end) & (carry[1] == GO_ON), body, loop)
    return state, metrics._replace(sums=unstack(metrics.sums), counts=unstack(metrics.counts), done=i)


def no_metrics(names: Iterable[str]) -> Metrics:
    """Returns the metrics of no steps."""
    sums: Any = dict.fromkeys(names, np.float32(0.0))  # NumPy's numbers, which take no device
    counts: Any = dict.fromkeys(sums, np.int32(0))
    never: Any = np.int32(-1)
    return Metrics(sums, counts, never, never, never)


def has_diverged(critic_loss: Any, q_mean: Any) -> Any:
    """Returns whether a member has diverged, elementwise; NumPy or JAX arrays."""
    return ~((abs(critic_loss) < jnp.inf) & (abs(q_mean) <= Q_LIMIT))
