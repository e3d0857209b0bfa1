"""An experiment for M members (seeds x hyperparameter points) at once, ready to run on the device or on the host.

A single run is a sweep of one member: there is one way through the code.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.host import HostEnv, make_host
from ddpg_jax.experiment import Experiment, build
from ddpg_jax.host_training import REPORT, Observe, make_host_training, pack_step
from ddpg_jax.packing import Packed, packing
from ddpg_jax.placement import Placement, advance_members, lift, on_devices, over_members, place
from ddpg_jax.replay import interrupt
from ddpg_jax.training import Metrics, has_diverged, make_training
from ddpg_jax.types import Array, Env, EnvironmentFailure, EnvSpec, Hyperparams, Params


class Member(NamedTuple):
    """One training run: where it starts, and its numbers."""

    seed: int
    hyper: Hyperparams
    number: int = 0
    """Its place among all members of a sweep."""
    swept: tuple[tuple[str, Any], ...] = ()
    """The fields that the sweep varies, with this member's values."""


class Program(NamedTuple):
    """An experiment for M members as functions. Times are vector steps; `state` is whatever `start` and `load` give."""

    spec: EnvSpec
    members: list[Member]
    start: Callable[[], Any]
    """`() -> state`"""
    advance: Callable[[Any, int, int, np.ndarray], tuple[Any, Metrics, float]]
    """`(state, begin, end, alive [M] bool) -> (state, metrics [M], seconds)`, either all before the end of the warm-up or all
    behind it. The old state is used up. Members that are not alive stay as they are. The seconds are without compilation.

    Raises `EnvironmentFailure`."""
    evaluate: Callable[[Any, int], tuple[np.ndarray, np.ndarray]]
    """`(state, i) -> (returns [M, K], lengths [M, K])`"""
    save: Callable[[Any], tuple[Any, str | None]]
    """`(state) -> (arrays, text)`: a pytree for the checkpoint, and the environments where they are no arrays."""
    load: Callable[[Any, str | None], Any]
    """The inverse: `(arrays, text) -> state`."""
    shapes: Callable[[], Any]
    """`() -> pytree of jax.ShapeDtypeStruct`, what `save` gives as arrays."""
    actor: Callable[[Any, int], Params]
    """`(state, m) -> actor_params` of one member."""
    memory: Callable[[int], int]
    """`(length) -> bytes` that a device needs to learn in blocks of so many vector steps, as the compiler counts them."""
    placement: Placement
    close: Callable[[], None]


class Compiler:
    """Compiles functions ahead of time, once for each shape of their last argument."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Any], Any] = {}

    def __call__(self, name: str, function: Any, *arguments: Any) -> Any:
        """The compiled `function`, which is what `jax.jit` gives, for these arguments."""
        shape = jnp.shape(arguments[-1])
        if (name, shape) not in self._known:
            self._known[name, shape] = function.lower(*arguments).compile()
        return self._known[name, shape]


def stack_members(members: list[Member], placement: Placement) -> tuple[jax.Array, Hyperparams]:
    """Keys `[M]` and hyperparameters `[M]`, padded with copies of the last member."""
    padded = members + members[-1:] * (placement.slots - len(members))
    keys = [jax.random.key(member.seed) for member in padded]
    hypers = [Hyperparams(*(jnp.float32(x) for x in member.hyper)) for member in padded]
    if placement.alone:
        return placement.put((keys[0], hypers[0]))
    return placement.put((jnp.stack(keys), jax.tree.map(lambda *column: jnp.stack(column), *hypers)))


def warmup_iterations(experiment: Experiment) -> int:
    """Vector steps of the warm-up."""
    return -(-experiment.warmup_steps // experiment.num_envs)


class DeviceFunctions(NamedTuple):
    """What `device_program` compiles; the same for all seeds, hyperparameters and lengths."""

    init: Any
    phases: dict[str, Any]
    evaluate: Any
    compiler: Compiler


@functools.lru_cache(maxsize=32)
def _device_functions(structure: Experiment, env: Env, placement: Placement) -> DeviceFunctions:
    parts = build(structure, env.spec)
    training = make_training(
        env,
        parts.agent,
        parts.replay,
        parts.explorer,
        parts.warmup,
        structure.num_envs,
        parts.updates,
        structure.eval_episodes,
    )
    phases = {
        name: jax.jit(advance_members(_unless_diverged(phase, placement), placement), donate_argnums=1)
        for name, phase in (("fill", training.fill), ("learn", training.learn))
    }
    return DeviceFunctions(
        jax.jit(over_members(training.init, placement)),
        phases,
        jax.jit(over_members(training.evaluate, placement, shared=1)),
        Compiler(),
    )


def structure_of(experiment: Experiment) -> Experiment:
    """What of an experiment the compiled functions depend on: the same for runs that differ in seed or length alone."""
    return replace(experiment, seed=0, steps=1, preset="default", eval_every=1)


def device_program(experiment: Experiment, env: Env, members: list[Member], placement: Placement | None = None) -> Program:
    """Training with the environment in the compiled program."""
    placement = placement or place(len(members), experiment.placement)
    count = len(members)
    keys, hypers = stack_members(members, placement)
    init, phases, evaluate_all, compiler = _device_functions(structure_of(experiment), env, placement)
    warmup = warmup_iterations(experiment)
    turns = placement.turns()

    def clock(begin: int, end: int) -> Array:
        return placement.put_everywhere(np.arange(begin, end, dtype=np.int32))

    def everyone() -> Array:
        return placement.put(np.ones(() if placement.alone else placement.slots, bool))

    def advance(state: Any, begin: int, end: int, alive: np.ndarray) -> tuple[Any, Metrics, float]:
        clocks = clock(begin, end)
        going = everyone() if alive.all() else placement.put(np.pad(alive, (0, placement.slots - count)))
        name = "fill" if begin < warmup else "learn"
        run = compiler(name, phases[name], turns, state, (keys, hypers, going), clocks)
        since = time.perf_counter()
        state, metrics = run(turns, state, (keys, hypers, going), clocks)
        metrics = Metrics(*(np.atleast_1d(column)[:count] for column in metrics))  # pyright: ignore[reportArgumentType]
        bad = np.asarray(metrics.bad_step)[metrics.bad_step >= 0]
        if bad.size:
            raise EnvironmentFailure(f"gave a number that is not finite at step {(bad.min() + 1) * experiment.num_envs}")
        return state, metrics, time.perf_counter() - since

    def evaluate(state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        returns, lengths = evaluate_all(keys, state, jnp.int32(i))
        return np.atleast_2d(returns)[:count], np.atleast_2d(lengths)[:count]

    def shapes() -> Any:
        return placement.abstract(jax.eval_shape(init, keys, hypers))

    def memory(length: int) -> int:
        return compiled_bytes(compiler("learn", phases["learn"], turns, shapes(), (keys, hypers, everyone()), clock(0, length)))

    return Program(
        env.spec,
        members,
        start=lambda: init(keys, hypers),
        advance=advance,
        evaluate=evaluate,
        save=lambda state: (state, None),
        load=lambda arrays, text: arrays,
        shapes=shapes,
        actor=lambda state, m: pick(state.train.params.actor, m, placement),
        memory=memory,
        placement=placement,
        close=lambda: None,
    )


def _unless_diverged(phase: Callable[..., Any], placement: Placement) -> Callable[..., Any]:
    """A phase of training that a member sits out once it has diverged. A member alone is stopped from outside."""

    def run(state: Any, rest: tuple[Any, Hyperparams, Array], clocks: Array) -> Any:
        key, hyper, alive = rest
        if placement.alone:
            return phase(key, state, hyper, clocks)

        def skip(state: Any) -> Any:
            metrics = jax.eval_shape(phase, key, state, hyper, clocks)[1]
            return state, jax.tree.map(lambda x: jnp.asarray(jnp.nan if x.dtype == jnp.float32 else -1, x.dtype), metrics)

        return jax.lax.cond(alive, lambda state: phase(key, state, hyper, clocks), skip, state)

    return run


class HostFunctions(NamedTuple):
    """What `host_program` compiles; the same for all seeds, hyperparameters and lengths. States are packed."""

    init: Any
    observe: dict[str, Any]
    act: Any
    pack: Any
    unpack: Any


@functools.lru_cache(maxsize=32)
def _host_functions(structure: Experiment, spec: EnvSpec, placement: Placement) -> HostFunctions:
    parts = build(structure, spec)
    shape = (spec.obs_dim, structure.num_envs, parts.updates, warmup_iterations(structure))
    single = make_host_training(parts.agent, parts.replay, parts.explorer, parts.warmup, *shape)
    agent, replay, explorer = lift(parts.agent, parts.replay, parts.explorer, placement)
    *_, warmup = lift(parts.agent, parts.replay, parts.warmup, placement)
    together = make_host_training(agent, replay, explorer, warmup, *shape)
    obs = jax.ShapeDtypeStruct((structure.num_envs, spec.obs_dim), jnp.float32)
    pack, unpack = packing(jax.eval_shape(single.init, jax.random.key(0), Hyperparams(), obs))

    def repacked(observe: Observe) -> Any:
        def call(key: Any, state: Packed, numbers: Array, packet: Array, i: Array) -> Any:
            hyper = Hyperparams(*jnp.moveaxis(numbers, -1, 0))
            after, action, report = observe(key, unpack(state), hyper, packet, i)
            return pack(after), action, report

        return jax.jit(on_devices(call, placement, shared=1), donate_argnums=1)

    return HostFunctions(
        jax.jit(over_members(single.init, placement)),
        {name: repacked(getattr(together, name)) for name in ("fill", "turn", "learn")},
        jax.jit(over_members(lambda state, obs: single.act(unpack(state), obs), placement)),
        jax.jit(over_members(pack, placement)),
        jax.jit(over_members(unpack, placement)),
    )


def host_program(
    experiment: Experiment,
    members: list[Member],
    env: HostEnv | None = None,
    eval_env: HostEnv | None = None,
    placement: Placement | None = None,
) -> Program:
    """Training with Gymnasium environments on the host, `num_envs` for each member, and one call a vector step for all.

    Args:
        experiment: the structure.
        members: M of them.
        env: `M * num_envs` environments; made by name if not given.
        eval_env: environments for evaluation, `M * eval_episodes`; made by name if not given.
        placement: where the members learn.
    """
    placement = placement or place(len(members), experiment.placement)
    count, num_envs, episodes = len(members), experiment.num_envs, experiment.eval_episodes
    env = make_host(experiment.env, count * num_envs) if env is None else env
    spec = env.spec
    evaluators: list[HostEnv] = [] if eval_env is None else [eval_env]
    warmup = warmup_iterations(experiment)
    keys, hypers = stack_members(members, placement)
    init, observe, act, pack, unpack = _host_functions(structure_of(experiment), spec, placement)
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
        """The inverse: without padding. An actor that has diverged asks for no numbers; its environments get the middle."""
        array = np.asarray(array)
        array = array if placement.alone else array[:count].reshape(-1, *array.shape[2:])
        return np.nan_to_num(array)

    def start() -> Any:
        return pack(init(keys, hypers, by_member(env.reset(seeds(0, 0, num_envs)))))

    def advance(state: Any, begin: int, end: int, alive: np.ndarray) -> tuple[Any, Metrics, float]:
        del alive  # the others are not held up by it: all learn in one call
        since, reports, action = time.perf_counter(), [], unpack(state).env
        for i in range(begin, end):
            with at_step((i + 1) * num_envs):
                step = env.step(flat(action))
            packet = pack_step(step.reward, step.terminated, step.last, step.valid, step.next_obs, step.obs)
            name = "learn" if i >= warmup else "turn" if i + 1 == warmup else "fill"
            state, action, report = observe[name](keys, state, numbers, by_member(packet), np.int32(i))
            reports.append(report)
            if i == begin:
                jax.block_until_ready(report)
                since = time.perf_counter()
        table = np.stack([np.atleast_2d(report)[:count] for report in reports], axis=1)  # [M, K, 3 + N]
        # The first step may compile, so the clock starts behind it; its own time is taken to be that of the others.
        seconds = (time.perf_counter() - since) * len(reports) / max(len(reports) - 1, 1)
        columns: dict[str, Any] = {name: table[..., c] for c, name in enumerate(REPORT)}
        diverged = np.full(count, -1)
        if begin >= warmup:
            broken = has_diverged(columns["critic_loss"], columns["q_mean"])
            diverged = np.where(broken.any(axis=1), begin + broken.argmax(axis=1), -1)
        metrics: dict[str, Any] = {name: nanmean(column) for name, column in columns.items()}
        metrics["train_return_mean"] = nanmean(table[..., len(REPORT) :].reshape(count, -1))
        return state, Metrics(**metrics, bad_step=np.full(count, -1), diverged_step=diverged), seconds  # pyright: ignore

    def evaluate(state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not evaluators:
            evaluators.append(make_host(experiment.env, count * episodes))
        with at_step(i * num_envs, "in the evaluation "):
            returns, lengths = host_rollout(evaluators[0], seeds(1, i, episodes), lambda obs: flat(act(state, by_member(obs))))
        return returns.reshape(count, episodes), lengths.reshape(count, episodes)

    def load(arrays: Any, text: str | None) -> Any:
        obs = env.reset(seeds(0, 0, num_envs))
        if text is not None:
            env.restore(text)
            return pack(arrays)
        # The episodes that ran are lost, and new ones start.
        cut = interrupt if placement.alone else jax.vmap(interrupt)
        return pack(
            replace(
                arrays,
                obs=jnp.asarray(by_member(obs)),
                returns=jnp.zeros_like(arrays.returns),
                noise=jax.tree.map(jnp.zeros_like, arrays.noise),
                replay=cut(arrays.replay),
            )
        )

    def shapes() -> Any:
        obs = by_member(np.zeros((count * num_envs, spec.obs_dim), np.float32))
        return placement.abstract(jax.eval_shape(init, keys, hypers, obs))

    def memory(length: int) -> int:
        del length
        packet = by_member(np.zeros((count * num_envs, 2 * spec.obs_dim + 4), np.float32))
        state = placement.abstract(jax.eval_shape(pack, shapes()))
        return compiled_bytes(observe["learn"].lower(keys, state, numbers, packet, np.int32(0)).compile())

    def close() -> None:
        for one in (env, *evaluators):
            one.close()

    return Program(
        spec,
        members,
        start=start,
        advance=advance,
        evaluate=evaluate,
        save=lambda state: (unpack(state), env.snapshot()),
        load=load,
        shapes=shapes,
        actor=lambda state, m: pick(unpack(state).train.params.actor, m, placement),
        memory=memory,
        placement=placement,
        close=close,
    )


@contextlib.contextmanager
def at_step(step: int, when: str = "") -> Iterator[None]:
    """Adds to an environment's failure when it was."""
    try:
        yield
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(f"{failure} {when}at step {step}") from failure


def host_rollout(env: HostEnv, seeds: list[int], act: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths `[K]` of one whole episode in each of K environments; `act` maps `[K, O]` to `[K, A]`."""
    obs = env.reset(seeds)
    running = np.ones(env.num_envs, bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    while running.any():
        step = env.step(np.asarray(act(obs)))
        returns += np.where(running, step.reward, 0.0)
        lengths += running
        running &= ~step.last
        obs = step.obs
    return returns, lengths


def pick(tree: Any, m: int, placement: Placement) -> Any:
    """Member m's part of a tree that `over_members` gave, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x if placement.alone else x[m]), tree)


def compiled_bytes(compiled: Any) -> int:
    """Bytes that a compiled program needs on each device: arguments, results that are not in their place, and scratch."""
    sizes = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return int(held + sizes.temp_size_in_bytes)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Means over the last axis; NaN where there is nothing but NaN."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)
