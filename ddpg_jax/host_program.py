"""The `Program` of environments on the host: `num_envs` for each member, and two calls a vector step for all."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.building import build, reported
from ddpg_jax.envs.host import HostEnv, HostStep, make_host
from ddpg_jax.experiment import Experiment, env_options
from ddpg_jax.host_training import make_host_training, pack_step
from ddpg_jax.packing import Packed, packing
from ddpg_jax.placement import Placement, lift, on_devices, over_members, place, spare_core
from ddpg_jax.program import (
    KEPT,
    Member,
    Program,
    bytes_of,
    compiled_bytes,
    if_alive,
    pick,
    stack_members,
    structure_of,
    warmup_iterations,
)
from ddpg_jax.replay import interrupt
from ddpg_jax.training import Metrics, RunState, has_diverged
from ddpg_jax.types import Array, EnvironmentFailure, EnvSpec, Hyperparams, Nets, Params, TrainState

AWAKE_SECONDS = 0.01
"""That a host program polls for an action before it goes to sleep, where a core is free to."""

LONGEST = 100_000
"""Steps of an episode of the evaluation after which an environment without a time limit is thought never to end one."""


class HostFunctions(NamedTuple):
    """What `host_program` compiles; the same for all seeds, hyperparameters and lengths."""

    init: Any
    """`(keys, hypers, obs) -> RunState`"""
    quiet: Any
    """`(actor_params) -> noise` at the start of an episode."""
    choose: dict[str, Any]
    """warm, explore: `(keys, actor, noise, seen, numbers, i) -> (action, noise)`; the noise is donated."""
    take_in: dict[str, Any]
    """fill, learn: `(keys, actor, rest, numbers, packet, i) -> (actor, rest, report)`; the rest is donated."""
    act: Any
    """`(actor, obs) -> action`"""
    split: Any
    """`RunState -> (actor, rest)`, both packed: the rest is what is learned and stored besides the actor."""
    join: Any
    """The inverse; noise, action and observations are left empty."""
    actor: Any
    """`packed actor -> its parameters`"""
    learned: Any
    """`(actor, rest) -> TrainState`, a copy."""
    drop: Any
    """`(actor, rest, TrainState, alive [M]) -> (actor, rest)` with that `TrainState` where not alive; donates all but it."""


class HostState(NamedTuple):
    """What a host program carries from step to step."""

    actor: Packed
    """Not donated: the next action may still be computed from it while it is being learned from."""
    rest: Packed
    noise: Any
    action: Array
    """`[M, N, A]`, about to be done."""
    obs: np.ndarray
    """`[M * N, O]`, to which it is the answer."""


@functools.lru_cache(maxsize=KEPT)
def _host_functions(structure: Experiment, spec: EnvSpec, placement: Placement) -> HostFunctions:
    parts = build(structure, spec)
    shape = (
        spec.obs_dim,
        spec.action_dim,
        structure.num_envs,
        parts.updates,
        reported(structure),
    )
    single = make_host_training(parts.agent, parts.replay, parts.explorer, parts.warmup, *shape)
    agent, replay, explorer = lift(parts.agent, parts.replay, parts.explorer, placement)
    *_, warmup = lift(parts.agent, parts.replay, parts.warmup, placement)
    together = make_host_training(agent, replay, explorer, warmup, *shape)
    obs = jax.ShapeDtypeStruct((structure.num_envs, spec.obs_dim), jnp.float32)
    shapes = jax.eval_shape(single.init, jax.random.key(0), Hyperparams(), obs)
    pack_actor, unpack_actor = packing(shapes.train.params.actor)
    pack_rest, unpack_rest = packing(_without_actor(shapes))

    def split(state: RunState) -> tuple[Packed, Packed]:
        return pack_actor(state.train.params.actor), pack_rest(_without_actor(state))

    def join(actor: Packed, rest: Packed) -> RunState:
        state = unpack_rest(rest)
        params = Nets(unpack_actor(actor), state.train.params.critic)
        return replace(state, train=replace(state.train, params=params))

    def choosing(choose: Any) -> Any:
        def call(keys: Any, actor: Packed, noise: Any, seen: Array, numbers: Array, i: Array) -> Any:
            return choose(keys, unpack_actor(actor), noise, seen, hyperparams(numbers), i)

        return compile_for(call, donate_argnums=2)

    def taking_in(take_in: Any) -> Any:
        def call(keys: Any, actor: Packed, rest: Packed, numbers: Array, packet: Array, i: Array) -> Any:
            state, report = take_in(keys, join(actor, rest), hyperparams(numbers), packet, i)
            return *split(state), report

        return compile_for(call, donate_argnums=2)

    def compile_for(call: Any, donate_argnums: int) -> Any:
        function = on_devices(call, placement, shared=1)
        return jax.jit(function, donate_argnums=donate_argnums, compiler_options=placement.compiler_options)

    def hyperparams(numbers: Array) -> Hyperparams:
        return Hyperparams(*jnp.moveaxis(numbers, -1, 0))

    def drop(actor: Packed, rest: Packed, learned: TrainState, alive: Array) -> tuple[Packed, Packed]:
        state = join(actor, rest)
        return split(replace(state, train=jax.vmap(if_alive)(alive, state.train, learned)))

    return HostFunctions(
        jax.jit(over_members(single.init, placement)),
        jax.jit(over_members(lambda actor: parts.explorer.init(structure.num_envs, actor), placement)),
        {"warm": choosing(together.warm), "explore": choosing(together.explore)},
        {"fill": taking_in(together.fill), "learn": taking_in(together.learn)},
        jax.jit(over_members(lambda actor, obs: single.act(unpack_actor(actor), obs), placement)),
        jax.jit(over_members(split, placement)),
        jax.jit(over_members(join, placement)),
        jax.jit(over_members(unpack_actor, placement)),
        jax.jit(lambda actor, rest: join(actor, rest).train),
        jax.jit(drop, donate_argnums=(0, 1)),
    )


def _without_actor(state: RunState) -> RunState:
    train = replace(state.train, params=Nets((), state.train.params.critic))
    return replace(state, train=train, noise=(), env=(), obs=())


def host_program(
    experiment: Experiment,
    members: list[Member],
    env: HostEnv | None = None,
    eval_env: HostEnv | None = None,
    placement: Placement | None = None,
) -> Program:
    """Training with Gymnasium environments on the host.

    Args:
        experiment: the structure.
        members: M of them.
        env: `M * num_envs` environments; made by name if not given.
        eval_env: environments for evaluation, `M * eval_episodes`; made by name if not given.
        placement: where the members learn.
    """
    placement = placement or place(len(members), experiment.placement)
    count, num_envs, episodes = len(members), experiment.num_envs, experiment.eval_episodes
    env = make_host(experiment.env, count * num_envs, env_options(experiment)) if env is None else env
    spec = env.spec
    evaluators: list[HostEnv] = [] if eval_env is None else [eval_env]
    warmup, names = warmup_iterations(experiment), reported(experiment)
    keys, hypers = stack_members(members, placement)
    compiled_for = spec if experiment.hindsight != "none" else spec._replace(goal=None)  # what asks `env` is compiled for it
    functions = _host_functions(structure_of(experiment), compiled_for, placement)
    numbers = placement.put(jnp.stack(hypers, axis=-1))

    def seeds(purpose: int, clock: int, each: int) -> list[int]:
        words = [
            np.random.SeedSequence([member.seed, purpose, clock, n]).generate_state(1)[0]
            for member in members
            for n in range(each)
        ]
        return [int(word) for word in words]

    def by_member(array: np.ndarray) -> np.ndarray:
        """`[M * N, ...]` as `[M, N, ...]` with padding, or as it is where there is one member."""
        if placement.alone:
            return array
        array = array.reshape(count, -1, *array.shape[1:])
        return np.concatenate([array, np.repeat(array[-1:], placement.slots - count, axis=0)])

    def flat(array: Any) -> np.ndarray:
        """The inverse."""
        array = np.asarray(array)
        return array if placement.alone else array[:count].reshape(-1, *array.shape[2:])

    def reset(i: int) -> np.ndarray:
        with at_step(i * num_envs):
            return env.reset(seeds(0, i, num_envs))

    def start() -> HostState:
        return pack(functions.init(keys, hypers, by_member(reset(0))))

    def pack(state: RunState) -> HostState:
        actor, rest = functions.split(state)
        return HostState(actor, rest, state.noise, state.env, flat(state.obs))

    def unpack(state: HostState) -> RunState:
        joined = functions.join(state.actor, state.rest)
        return replace(joined, noise=state.noise, env=state.action, obs=by_member(state.obs))

    def choose(state: HostState, step: HostStep, i: int) -> HostState:
        name = "explore" if i >= warmup else "warm"
        fresh = step.last | ~step.valid  # a step that only reset the environment has disturbed an action that nobody did
        seen = by_member(np.concatenate([step.obs, fresh[:, None]], axis=-1, dtype=np.float32))
        action, noise = functions.choose[name](keys, state.actor, state.noise, seen, numbers, np.int32(i))
        return state._replace(action=action, noise=noise)

    def take_in(state: HostState, packet: np.ndarray, i: int) -> tuple[HostState, Array]:
        name = "learn" if i >= warmup else "fill"
        actor, rest, report = functions.take_in[name](keys, state.actor, state.rest, numbers, by_member(packet), np.int32(i))
        return state._replace(actor=actor, rest=rest), report

    def overlapped(state: HostState, step: HostStep, packet: np.ndarray, i: int) -> tuple[HostState, Array]:
        return take_in(choose(state, step, i + 1), packet, i)

    def textbook(state: HostState, step: HostStep, packet: np.ndarray, i: int) -> tuple[HostState, Array]:
        state, report = take_in(state, packet, i)
        return choose(state, step, i + 1), report

    wait = poll if spare_core() else jax.block_until_ready
    turn = {"overlapped": overlapped, "textbook": textbook}[experiment.host_order]

    def advance(
        state: HostState, begin: int, end: int, alive: np.ndarray, so_far: Metrics | None = None
    ) -> tuple[HostState, Metrics, float]:
        learning = names if begin >= warmup else ()
        if not alive.any():  # and yet the run goes on, in other processes
            nothing = {name: np.full((count, 1), np.nan) for name in (*learning, "train_return_mean")}
            return state, extended(so_far, nothing, begin), 0.0
        # All learn in one call, also those that have diverged; but what they learn is dropped.
        learned = None if alive.all() else functions.learned(state.actor, state.rest)
        reports, took = [], []
        for i in range(begin, end):
            since = time.perf_counter()
            action = flat(wait(state.action))
            with at_step((i + 1) * num_envs):
                step = env.step(np.nan_to_num(action))  # an actor that has diverged asks for no numbers, and gets the middle
            packet = pack_step(step.reward, step.terminated, step.last, step.valid, state.obs, action, step.next_obs)
            state, report = turn(state._replace(obs=step.obs), step, packet, i)
            reports.append(report)
            if i in (begin, warmup - 1, end - 1):  # the first two may compile, and are not to be timed by what they hide
                jax.block_until_ready((report, state.action))
            took.append(time.perf_counter() - since)
        table = np.stack([np.atleast_2d(report)[:count] for report in reports], axis=1)  # [M, K, R + N]
        # What compiles is taken to last as long as the other steps, if there are any.
        timed = [seconds for i, seconds in enumerate(took, begin) if i not in (begin, warmup - 1)] or took
        seconds = sum(timed) * len(took) / len(timed)
        columns = {name: table[..., c] for c, name in enumerate(learning)}
        columns["train_return_mean"] = table[..., len(names) :].reshape(count, -1)
        columns = {name: np.where(alive[:, None], column, np.nan) for name, column in columns.items()}
        if learned is not None:
            actor, rest = functions.drop(state.actor, state.rest, learned, by_member(alive)[:, 0])
            state = state._replace(actor=actor, rest=rest)
        return state, extended(so_far, columns, begin), seconds

    def policy(state: HostState, obs: np.ndarray) -> np.ndarray:
        return np.nan_to_num(flat(functions.act(state.actor, by_member(obs))))

    def evaluate(state: HostState, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not evaluators:
            evaluators.append(make_host(experiment.env, count * episodes, env_options(experiment)))
        with at_step(i * num_envs, "in the evaluation "):
            returns, lengths = host_rollout(evaluators[0], seeds(1, i, episodes), lambda obs: policy(state, obs))
        returns = returns.reshape(count, episodes)
        leaves = [np.asarray(leaf).reshape(placement.slots, -1) for leaf in jax.tree.leaves(functions.actor(state.actor))]
        returns[~np.all([np.isfinite(leaf).all(axis=1) for leaf in leaves], axis=0)[:count]] = np.nan
        return returns, lengths.reshape(count, episodes)

    def actor(state: HostState, m: int) -> Params:
        return pick(functions.actor(state.actor), m, placement)

    def load(arrays: Any, text: str | None, i: int) -> Any:
        obs = reset(i)
        if text is not None:
            env.restore(text)
            return pack(arrays)
        # The episodes that ran are lost, and new ones start.
        cut = interrupt if placement.alone else jax.vmap(interrupt)
        state = pack(
            replace(
                arrays,
                obs=jnp.asarray(by_member(obs)),
                returns=jnp.zeros_like(arrays.returns),
                noise=functions.quiet(arrays.train.params.actor),
                replay=cut(arrays.replay),
            )
        )
        ones = np.ones(env.num_envs, bool)
        return choose(state, HostStep(np.zeros(env.num_envs), ~ones, last=ones, next_obs=obs, obs=obs, valid=ones), i)

    def shapes() -> Any:
        obs = by_member(np.zeros((count * num_envs, spec.obs_dim), np.float32))
        return placement.abstract(jax.eval_shape(functions.init, keys, hypers, obs))

    def memory() -> int:
        packet = by_member(np.zeros((count * num_envs, 2 * spec.obs_dim + spec.action_dim + 4), np.float32))
        actor, rest = placement.abstract(jax.eval_shape(functions.split, shapes()))
        learn = functions.take_in["learn"]
        learning = compiled_bytes(learn.lower(keys, actor, rest, numbers, packet, np.int32(0)).compile())
        kept = 0 if placement.alone else bytes_of(jax.eval_shape(functions.learned, actor, rest))  # once a member has diverged
        return learning + kept // len(placement.devices)

    def close() -> None:
        for one in (env, *evaluators):
            one.close()

    return Program(
        spec,
        members,
        start=start,
        advance=advance,
        evaluate=evaluate,
        save=lambda state: (jax.tree.map(np.array, unpack(state)), env.snapshot()),
        load=load,
        shapes=shapes,
        actor=actor,
        memory=memory,
        placement=placement,
        close=close,
    )


def poll(array: Any) -> Any:
    """The array, by when it is there, or after `AWAKE_SECONDS` in which it may not be: a busy machine is slow to wake up what
    sleeps. Others go first.
    """
    until = time.perf_counter() + AWAKE_SECONDS
    ready = getattr(array, "is_ready", lambda: True)  # those of a checkpoint are NumPy's
    while not ready() and time.perf_counter() < until:
        os.sched_yield()
    return array


@contextlib.contextmanager
def at_step(step: int, when: str = "") -> Iterator[None]:
    """Adds to an environment's failure when it was."""
    try:
        yield
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(f"{failure} {when}at step {step}") from failure


def host_rollout(env: HostEnv, seeds: list[int], act: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths `[K]` of one whole episode in each of K environments; `act` maps `[K, O]` to `[K, A]`.

    Raises:
        EnvironmentFailure: as `HostEnv.step`; or there is no time limit, and an episode does not end.
    """
    obs = env.reset(seeds)
    running = np.ones(env.num_envs, bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    while running.any():
        with at_step(int(lengths.max()) + 1, "in an episode "):
            step = env.step(np.asarray(act(obs)))
        returns += np.where(running, step.reward, 0.0)
        lengths += running
        running &= ~step.last
        obs = step.obs
        if env.spec.max_steps is None and (lengths[running] >= LONGEST).any():
            raise EnvironmentFailure(
                "needs a time limit, max_episode_steps=N in env_kwargs or where it is made or registered: "
                f"{LONGEST:,} steps ended no episode"
            )
    return returns, lengths


def extended(so_far: Metrics | None, columns: dict[str, np.ndarray], begin: int) -> Metrics:
    """The metrics of a block with those of its steps from `begin` on, columns `[M, K]`."""
    count = len(columns["train_return_mean"])
    never: Any = np.full(count, -1)
    if so_far is None:
        zeros: Any = dict.fromkeys(columns, np.zeros(count))
        so_far = Metrics(zeros, zeros, never, never)
    sums: Any = {name: summed(so_far.sums[name], column) for name, column in columns.items()}
    counts: Any = {name: so_far.counts[name] + (~np.isnan(column)).sum(axis=1) for name, column in columns.items()}
    diverged: Any = np.asarray(so_far.diverged_step)
    if "critic_loss" in columns:
        broken = has_diverged(columns["critic_loss"], columns["q_mean"])
        diverged = np.where((diverged < 0) & broken.any(axis=1), begin + broken.argmax(axis=1), diverged)
    return Metrics(sums, counts, never, diverged)


def summed(total: Any, column: np.ndarray) -> np.ndarray:
    """`total` `[M]` and what is not NaN in `[M, K]`, one after the other: in several calls the bits of one, unlike `np.sum`."""
    terms = np.column_stack([total, np.where(np.isnan(column), 0.0, column)])
    with np.errstate(invalid="ignore"):  # a member that diverges may give inf - inf
        return np.add.accumulate(terms, axis=1)[:, -1]
