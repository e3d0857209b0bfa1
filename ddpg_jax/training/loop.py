"""Trains one member: collect -> store -> sample -> update, as pure functions; map over them to train many.

Clocks come from outside the carried state, so that they are never batched. `i` counts vector steps. Explorers get
`t_env = i * N`, environment steps summed over environments. Agent and replay get `t_update`, which is `i * updates + k` for the
k-th update after step `i`; with updates at an interval of several steps, `i` counts intervals. Every random draw has the key
`fold_in(stream, clock)`, with one stream for each purpose. Hence a run in two halves equals one run bit for bit, and a new part
does not change the random numbers of other parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.replay.ring import end_open_episodes
from ddpg_jax.training.offline import Offline, observe_demonstrations
from ddpg_jax.training.rollout import rollout
from ddpg_jax.training.step import RunState, gradient_steps, stream
from ddpg_jax.training.vector_step import (
    Collector,
    Schedule,
    Step,
    StepFunction,
    offline_step,
    overlapped_step,
    textbook_step,
    warmup_step,
)
from ddpg_jax.types import FAILED, GO_ON, Agent, Array, Env, Episodes, Explorer, Hyperparams, Key, Params, Replay

Q_LIMIT = 1e8
"""Bound of the absolute mean value, above which a member counts as diverged."""


class Layout(NamedTuple):
    """Determines how the loop over vector steps is compiled. What it computes does not depend on it, except for rounding."""

    pack: Callable[[Any], tuple[Callable[[Any], Any], Callable[[Any], Any]]] = lambda shapes: (tuple, tuple)
    """`(shapes) -> (pack, unpack)`: how what a step hands to the next is carried, by default array by array."""
    unroll: int = 1
    """The number of vector steps in one turn of the loop. If it is above 1, the program contains the step once more."""


PLAIN = Layout()
"""One step a turn, and every array by itself, as is best on a CPU, where a vector would only be copied."""


class Metrics(NamedTuple):
    """Holds the scalars that a block of steps reports, or those of its steps so far."""

    sums: dict[str, Array]
    """Maps names to sums of what the updates reported, if there were any, and of `train_return_mean`, the undiscounted returns
    of the episodes that ended, with exploration noise. NaN, which stands for what was not measured, is skipped."""
    counts: dict[str, Array]
    """The number of terms in each sum."""
    bad_step: Array
    """The first iteration at which an environment failed or returned a number that is not finite, else -1."""
    diverged_step: Array
    """The first iteration at which the critic's loss was not finite or its mean value exceeded +-`Q_LIMIT`, else -1."""
    done: Any = -1
    """The iteration to continue with: the end of the block, or an earlier one if an environment has stopped it."""


class Training(NamedTuple):
    """Holds the whole training of one member as pure functions. `key` is the key of the run, the same at every call."""

    init: Callable[[Key, Hyperparams], RunState]
    """`(key, hyper) -> state`."""
    restart: Callable[[Key, RunState, Array], RunState]
    """`(key, state, i) -> state` at iteration `i`: starts all episodes again, after a shared evaluation, or if environments
    could not be restored."""
    fill: Callable[..., tuple[RunState, Metrics]]
    """`(key, state, hyper, begin, end, so_far=None) -> (state, metrics)`: takes vector steps of uniform random actions without
    learning. `so_far` holds the metrics of the earlier steps of the same block, if there are any."""
    learn: Callable[..., tuple[RunState, Metrics]]
    """Takes vector steps of collecting and learning, with the arguments of `fill`."""
    evaluate: Callable[[Key, RunState, Array], Episodes]
    """`(key, state, i) -> episodes [K]` at iteration `i`: plays K whole episodes without noise."""
    offline: Callable[..., tuple[RunState, Metrics]]
    """Takes gradient steps on demonstrations without stepping the environments, one for each `i`, with the arguments of
    `fill`."""


def make_training(
    env: Env,
    agent: Agent,
    replay: Replay,
    *,
    explorer: Explorer,
    warmup: Explorer,
    num_envs: int = 1,
    updates: int = 1,
    update_interval: int = 1,
    eval_episodes: int = 10,
    eval_shared: bool = False,
    max_over_members: Callable[[Array], Array] = lambda status: status,
    layout: Layout = PLAIN,
    offline: Offline | None = None,
) -> Training:
    """Makes the training in which acting, environment, replay and updates are one compiled program.

    Args:
        env: one environment, whose episodes have a time limit.
        agent: the algorithm.
        replay: stores transitions; it must be made for `num_envs` lanes.
        explorer: adds noise to the actions of the policy.
        warmup: the explorer of the warm-up, such as `exploration.uniform`. It takes the noise state of `explorer`, and must
            return it unchanged.
        num_envs: `N`, the number of environments, which are stepped side by side.
        updates: the number of gradient steps at a time.
        update_interval: the number of vector steps from one time to the next.
        eval_episodes: the number of episodes per evaluation.
        eval_shared: play evaluation episodes in a training environment outside the program; `restart` must follow.
        max_over_members: `(status []) -> status []`, the maximum over the members that one loop advances; under `vmap`, it must
            not be batched, because the end of the loop depends on it.
        layout: how the loop over vector steps is compiled.
        offline: demonstrations, if there are any; vector steps are then counted from the end of the gradient steps on them.
    """
    first = 0 if offline is None else offline.iterations
    layout = layout if env.outside is None else layout._replace(unroll=1)

    def init(key: Key, hyper: Hyperparams) -> RunState:
        env_state, obs = jax.vmap(env.reset)(jax.random.split(stream(key, "reset"), num_envs))
        train = agent.init(stream(key, "init"), hyper)
        train = train if offline is None else observe_demonstrations(agent, train, hyper, offline)
        noise = explorer.init(num_envs, train.params.actor)
        return RunState(train, replay.init(), noise, env_state, obs, jnp.zeros(num_envs))

    def restart(key: Key, state: RunState, i: Array) -> RunState:
        env_state, obs = jax.vmap(env.reset)(jax.random.split(stream(key, "reset", i), num_envs))
        return replace(
            state,
            env=env_state,
            obs=obs,
            noise=explorer.reset(state.noise, jnp.ones(num_envs, bool)),
            replay=end_open_episodes(state.replay),
            returns=jnp.zeros(num_envs),
        )

    def update(key: Key, state: RunState, hyper: Hyperparams, i: Array) -> tuple[RunState, dict[str, Array]]:
        count = i if update_interval == 1 else i // update_interval
        return gradient_steps(agent, replay, key, state, hyper, updates=updates, i=count)

    collect = Collector(env, agent, replay, num_envs, explorer, max_over_members)
    schedule = Schedule(update, update_interval)
    overlapped = env.outside is not None and env.outside.order == "overlapped"
    learn_step = overlapped_step(collect, schedule) if overlapped else textbook_step(collect, schedule)
    fill_step = warmup_step(collect, warmup)

    demonstrated_step = offline_step(agent, offline.replay if offline else replay, num_envs)
    return Training(
        init,
        restart,
        fill=in_blocks(fill_step, layout=layout, origin=first),
        learn=in_blocks(learn_step, layout=layout, origin=first),
        evaluate=make_evaluate(env, agent, episodes=eval_episodes, shared=eval_shared),
        offline=in_blocks(demonstrated_step, layout=layout, origin=0),
    )


def in_blocks(step: StepFunction, *, layout: Layout, origin: int) -> Callable[..., tuple[RunState, Metrics]]:
    """Returns a function like `Training.fill` that takes these steps; their clock is 0 at iteration `origin`."""

    def advance(
        key: Key, state: RunState, hyper: Hyperparams, begin: Array, end: Array, so_far: Metrics | None = None
    ) -> tuple[RunState, Metrics]:
        def take(state: RunState, i: Array) -> tuple[RunState, Step]:
            return step(key, state, hyper, i - origin if origin else i)

        return block(take, state, begin, end=end, so_far=so_far, layout=layout)

    return advance


def make_evaluate(env: Env, agent: Agent, *, episodes: int, shared: bool) -> Callable[[Key, RunState, Array], Episodes]:
    """Returns `Training.evaluate`; the arguments are those of `make_training`."""

    # As on the host, NaN in an action is replaced by the middle of the range. The returns are then NaN.
    def act(params: Params, obs: Array) -> Array:
        return jnp.nan_to_num(agent.act(params, obs))

    def evaluate(key: Key, state: RunState, i: Array) -> Episodes:
        chex.assert_rank(i, 0, custom_message="Training.evaluate: i must be []")
        actor = state.train.params.actor
        owner = jnp.int32(0) if env.outside is None else state.env[0, 1]
        eval_key = stream(key, "eval", i)
        found = rollout(env, act, eval_key, actor_params=actor, episodes=episodes, owner=owner, shared=shared)
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(actor)]).all()
        return found._replace(returns=jnp.where(sound, found.returns, jnp.nan))

    return evaluate


def block(
    step: Callable[[RunState, Array], tuple[RunState, Step]],
    state: RunState,
    begin: Array,
    *,
    end: Array,
    so_far: Metrics | None = None,
    layout: Layout = PLAIN,
) -> tuple[RunState, Metrics]:
    """Takes the vector steps from `begin` to `end`. Both may be traced, so that blocks of all lengths share one program.

    Sums continue from `so_far`, one term after the other, so that a block in several calls equals one call bit for bit.

    Args:
        step: `(state, i) -> (state, report)`, takes vector step `i`.
        state: the state before the first step.
        begin: the first step.
        end: the step after the last one.
        so_far: the metrics of the steps of this block before `begin`.
        layout: how the loop is compiled.
    """
    chex.assert_rank([begin, end], 0, custom_message="Training: begin and end must be []")

    def values(report: Step) -> dict[str, Array]:
        return {**report.info, "train_return_mean": report.ended}

    def first(step: Array, condition: Array | bool, i: Array) -> Array:
        return jnp.where((step < 0) & condition, i, step)

    def body(carry: Any) -> Any:
        i, _, state, metrics = carry
        state, report = step(state, i)
        new = values(report)
        sums = metrics.sums + stack({name: jnp.nansum(x) for name, x in new.items()})
        counts = metrics.counts + stack({name: jnp.sum(~jnp.isnan(x)) for name, x in new.items()})
        happened = report.status != FAILED
        learned = happened if report.updated is True else happened & report.updated
        diverged = has_diverged(report.info["critic_loss"], report.info["q_mean"]) & learned if report.info else False
        bad_step, diverged_step = first(metrics.bad_step, ~report.fine, i), first(metrics.diverged_step, diverged, i)
        i = i + happened.astype(i.dtype)
        metrics = metrics._replace(sums=sums, counts=counts, bad_step=bad_step, diverged_step=diverged_step)
        return i, report.status, state, metrics

    def stack(by_name: dict[str, Array]) -> Array:
        return jnp.stack([by_name[name] for name in names])

    def unstack(stacked: Array) -> dict[str, Array]:
        return dict(zip(names, stacked, strict=True))

    so_far = so_far or no_metrics(values(jax.eval_shape(step, state, begin)[1]))
    names = tuple(so_far.sums)
    # The loop keeps all sums in one array. If a member is alone on a GPU, separate sums would each take a kernel at every step.
    start = so_far._replace(sums=stack(so_far.sums), counts=stack(so_far.counts), done=())
    loop = (jnp.asarray(begin, jnp.int32), jnp.int32(GO_ON), state, start)
    i, _, state, metrics = repeat(body, loop, end=end, layout=layout)
    return state, metrics._replace(sums=unstack(metrics.sums), counts=unstack(metrics.counts), done=i)


def repeat(step: Callable[[Any], Any], carry: Any, *, end: Array, layout: Layout) -> Any:
    """Applies `step` to a carry `(i, status, ...)` until `i` is `end` or the status is not `GO_ON`; `step` advances both."""
    pack, unpack = layout.pack(carry[2:])

    def turn(steps: int) -> Callable[[Any], Any]:
        def take(packed: Any) -> Any:
            for _ in range(steps):
                i, status, *rest = step((*packed[:2], *unpack(packed[2])))
                packed = i, status, pack(tuple(rest))
            return packed

        return take

    packed = (*carry[:2], pack(carry[2:]))
    # First as many steps a turn as the layout says, and then the few that are left; without unrolling, these are one loop.
    for steps, last in {layout.unroll: end - layout.unroll + 1, 1: end}.items():
        packed = jax.lax.while_loop(lambda packed, last=last: (packed[0] < last) & (packed[1] == GO_ON), turn(steps), packed)
    return (*packed[:2], *unpack(packed[2]))


def no_metrics(names: Iterable[str]) -> Metrics:
    """Returns the metrics of no steps."""
    sums: Any = dict.fromkeys(names, np.float32(0.0))  # NumPy numbers do not occupy a device
    counts: Any = dict.fromkeys(sums, np.int32(0))
    never: Any = np.int32(-1)
    return Metrics(sums, counts, never, never, never)


def has_diverged(critic_loss: Any, q_mean: Any) -> Any:
    """Returns True where a member has diverged, elementwise for NumPy or JAX arrays."""
    return ~((abs(critic_loss) < jnp.inf) & (abs(q_mean) <= Q_LIMIT))
