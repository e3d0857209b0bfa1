"""Training: collect -> store -> sample -> update, as pure functions of ONE member; whoever wants many maps over them.

Clocks come from outside the carried state, so that they are never batched. `i` counts vector steps. What explores gets
`t = i * N`, environment steps summed over environments; what learns gets a `t` that counts updates, `i * updates + k`. Every
random draw has the key `fold_in(stream, clock)`, with one stream for each purpose; hence a run in two halves equals one run bit
for bit, and a new part does not shift another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.replay.ring import end_open_episodes
from ddpg_jax.training.rollout import rollout
from ddpg_jax.training.step import RunState, gradient_steps, store, stream
from ddpg_jax.types import FAILED, GO_ON, Agent, Array, Env, Explorer, Hyperparams, Key, Replay, Transition

Q_LIMIT = 1e8  # mean values of this size are no estimates any more: the member has diverged


class Metrics(NamedTuple):
    """What a block of steps reports, or the part of it that is done so far; scalars."""

    sums: dict[str, Array]
    """By name, of what the updates reported, if there were any, and of `train_return_mean`: undiscounted returns of the
    episodes that ended, exploration noise included. NaN, which is what was not measured, is left out."""
    counts: dict[str, Array]
    """How many numbers are in each sum."""
    bad_step: Array
    """The first vector step at which the environment gave a non-finite number, else -1."""
    diverged_step: Array
    """The first vector step at which the critic's loss was not finite or its mean value exceeded `Q_LIMIT`, else -1."""
    done: Any = -1
    """The vector step to go on with: the end of the block, or an earlier one where an environment has ended it."""


class Training(NamedTuple):
    """One member's whole training as pure functions. `key` is the run's own at every call."""

    init: Callable[[Key, Hyperparams], RunState]
    """`(key, hyper) -> state`."""
    restart: Callable[[Key, RunState, Array], RunState]
    """`(key, state, i) -> state` at vector step `i`: all episodes start anew, as the environments could not be kept."""
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
    explorer: Explorer,
    warmup: Explorer,
    num_envs: int = 1,
    updates: int = 1,
    eval_episodes: int = 10,
    agree: Callable[[Array], Array] = lambda status: status,
) -> Training:
    """Training in which acting, environment, replay and updates are one compiled program.

    Args:
        env: one environment in JAX, with a limit on the length of its episodes.
        agent: the algorithm.
        replay: made for `num_envs` lanes.
        explorer: how the policy's actions are disturbed.
        warmup: the explorer of the warm-up, `exploration.uniform`; it is given the noise of `explorer`, and must hand it on.
        num_envs: `N`, stepped side by side.
        updates: gradient steps for each vector step.
        eval_episodes: episodes of one evaluation.
        agree: `(status []) -> status []`, the greatest among the members that are advanced in one loop; under `vmap` it must
            not be batched, as the end of the loop depends on it.
    """
    outside = env.outside

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

    def explore(how: Explorer, purpose: str, key: Key, state: RunState, hyper: Hyperparams, i: Array):
        return how.explore(
            stream(key, purpose, i), state.noise, agent.act, state.train.params.actor, state.obs, hyper, i * num_envs
        )

    def take_in(state: RunState, noise: Any, action: Array, stepped: tuple[Any, Array, Transition]):
        """Stores what a step gave; also says what the environments have to say of it, see `Step`."""
        env_state, obs, transition = stepped
        status = jnp.int32(GO_ON) if outside is None else agree(outside.status(env_state).max())
        # An actor that has diverged asks for actions that are no numbers: what comes back then, and after that, is not the
        # environment's fault.
        fine = is_finite(transition) & jnp.isfinite(obs).all() | ~(jnp.isfinite(action).all() & jnp.isfinite(state.obs).all())
        state = replace(state, noise=explorer.reset(noise, transition.last), env=env_state, obs=obs)
        valid = jnp.full(num_envs, status != FAILED)
        state, ended = store(agent, replay, state, transition, valid)
        return state, ended, fine & (status != FAILED), status

    def collect(how: Explorer, purpose: str, key: Key, state: RunState, hyper: Hyperparams, i: Array):
        """One step of every environment: act -> step -> store."""
        action, noise = explore(how, purpose, key, state, hyper, i)
        keys = jax.random.split(stream(key, "env", i), num_envs)
        return take_in(state, noise, action, jax.vmap(env.step)(keys, state.env, state.obs, action))

    def textbook(key: Key, state: RunState, hyper: Hyperparams, i: Array):
        """Act -> step -> store -> update."""
        state, ended, fine, status = collect(explorer, "explore", key, state, hyper, i)

        def update(state: RunState) -> tuple[RunState, dict[str, Array]]:
            return gradient_steps(agent, replay, updates, key, state, hyper, i)

        state, info = update(state) if outside is None else once_if(status != FAILED, update, state)
        return state, (info, ended, fine, status)

    def overlapped(key: Key, state: RunState, hyper: Hyperparams, i: Array):
        """Act -> (step, meanwhile update) -> store: the update does not know of this step's transitions yet."""
        assert outside is not None
        action, noise = explore(explorer, "explore", key, state, hyper, i)
        env_state = outside.send(state.env, action)
        begun = jnp.minimum(outside.status(env_state).min(), 0)  # 0, but only when the step has begun
        state, info = gradient_steps(agent, replay, updates, key, state, hyper, i + begun)
        updated = jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(state.train.params)]).sum()
        stepped = outside.receive(env_state, state.obs, action, updated)
        state, ended, fine, status = take_in(state, noise, action, stepped)
        return state, (info, ended, fine, status)

    def fill(
        key: Key, state: RunState, hyper: Hyperparams, begin: Array, end: Array, so_far: Metrics | None = None
    ) -> tuple[RunState, Metrics]:
        def step(state: RunState, i: Array):
            state, ended, fine, status = collect(warmup, "warmup", key, state, hyper, i)
            return state, ({}, ended, fine, status)

        return block(step, state, begin, end, so_far)

    order = overlapped if outside is not None and outside.order == "overlapped" else textbook

    def learn(
        key: Key, state: RunState, hyper: Hyperparams, begin: Array, end: Array, so_far: Metrics | None = None
    ) -> tuple[RunState, Metrics]:
        return block(lambda state, i: order(key, state, hyper, i), state, begin, end, so_far)

    def evaluate(key: Key, state: RunState, i: Array) -> tuple[Array, Array]:
        actor = state.train.params.actor
        # As on the host: what is no number becomes the middle of the range, and the returns of an actor that is none are NaN.
        owner = jnp.int32(0) if outside is None else state.env[0, 1]
        returns, lengths = rollout(
            env,
            lambda params, obs: jnp.nan_to_num(agent.act(params, obs)),
            stream(key, "eval", i),
            actor,
            eval_episodes,
            owner,
        )
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(actor)]).all()
        return jnp.where(sound, returns, jnp.nan), lengths

    return Training(init, restart, fill, learn, evaluate)


def once_if(
    condition: Array, function: Callable[[RunState], tuple[RunState, dict[str, Array]]], state: RunState
) -> tuple[RunState, dict[str, Array]]:
    """`function(state)` where the condition holds, else the state and NaNs. A loop, as a `cond` would copy the replay."""
    _, shapes = jax.eval_shape(function, state)
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    return jax.lax.fori_loop(0, condition.astype(jnp.int32), lambda _, carry: function(carry[0]), (state, nothing))


def is_finite(transition: Transition) -> Array:
    """Whether every number that the environments gave is finite; `[N] -> []`."""
    return jnp.isfinite(transition.reward).all() & jnp.isfinite(transition.next_obs).all()


Step: TypeAlias = Callable[[RunState, Array], tuple[RunState, tuple[dict[str, Array], Array, Array, Array]]]
"""`(state, i) -> (state, (info, ended [N], fine, status))`: a vector step, what its updates reported, the returns of the
episodes that ended, else NaN, whether all numbers were finite, and what the environments say (`GO_ON`, `STOP`, `FAILED`)."""


def block(step: Step, state: RunState, begin: Array, end: Array, so_far: Metrics | None = None) -> tuple[RunState, Metrics]:
    """Vector steps `begin` to `end`, numbers that the compiler need not know: blocks of all lengths are one program.

    Sums go on where `so_far` left them, one number after the other, so that a block in several calls has the bits of one.

    Args:
        step: a vector step.
        state: before the first step.
        begin: the first step.
        end: the step after the last one.
        so_far: the metrics of the steps of this block before `begin`.
    """

    def values(info: dict[str, Array], ended: Array) -> dict[str, Array]:
        return {**info, "train_return_mean": ended}

    def first(step: Array, condition: Array | bool, i: Array) -> Array:
        return jnp.where((step < 0) & condition, i, step)

    def body(carry: Any) -> Any:
        i, _, state, metrics = carry
        state, (info, ended, fine, status) = step(state, i)
        new = values(info, ended)
        sums = metrics.sums + stack({name: jnp.nansum(x) for name, x in new.items()})
        counts = metrics.counts + stack({name: jnp.sum(~jnp.isnan(x)) for name, x in new.items()})
        happened = status != FAILED
        lost = has_diverged(info["critic_loss"], info["q_mean"]) & happened if info else False
        bad_step, diverged_step = first(metrics.bad_step, ~fine, i), first(metrics.diverged_step, lost, i)
        i = i + happened.astype(i.dtype)
        return i, status, state, metrics._replace(sums=sums, counts=counts, bad_step=bad_step, diverged_step=diverged_step)

    def stack(by_name: dict[str, Array]) -> Array:
        return jnp.stack([by_name[name] for name in names])

    def unstack(stacked: Array) -> dict[str, Array]:
        return dict(zip(names, stacked, strict=True))

    so_far = so_far or no_metrics(values(*jax.eval_shape(step, state, begin)[1][:2]))
    names = tuple(so_far.sums)
    # One array for all sums inside the loop: where a member is alone on a GPU, each by itself takes a kernel, every step.
    start = so_far._replace(sums=stack(so_far.sums), counts=stack(so_far.counts), done=())
    loop = (jnp.asarray(begin, jnp.int32), jnp.int32(GO_ON), state, start)
    i, _, state, metrics = jax.lax.while_loop(lambda carry: (carry[0] < end) & (carry[1] == GO_ON), body, loop)
    return state, metrics._replace(sums=unstack(metrics.sums), counts=unstack(metrics.counts), done=i)


def no_metrics(names: Iterable[str]) -> Metrics:
    """Those of no steps."""
    sums: Any = dict.fromkeys(names, np.float32(0.0))  # NumPy's numbers, which take no device
    counts: Any = dict.fromkeys(sums, np.int32(0))
    never: Any = np.int32(-1)
    return Metrics(sums, counts, never, never, never)


def has_diverged(critic_loss: Any, q_mean: Any) -> Any:
    """Whether learning has come to grief, elementwise; NumPy or JAX arrays."""
    return ~((abs(critic_loss) < jnp.inf) & (abs(q_mean) <= Q_LIMIT))
