"""A whole experiment for M members (seeds x hyperparameter points), ready to run on the device or on the host.

A single run is a sweep of one member, so there is one way through the code. `drive` walks a program through its schedule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.host import HostEnv, make_host
from ddpg_jax.experiment import Experiment, Parts, build
from ddpg_jax.host_training import REPORT, make_host_training, pack_step
from ddpg_jax.training import Metrics, make_training
from ddpg_jax.types import Env, EnvironmentFailure, EnvSpec, Hyperparams, Params

BLOCK_UPDATES = 1_000  # about a second of work between two looks at the world outside


class Member(NamedTuple):
    """One training run: where it starts, and its numbers."""

    seed: int
    hyper: Hyperparams


class Program(NamedTuple):
    """An experiment for M members as functions. Times are vector steps; `state` is whatever `start` and `load` give."""

    spec: EnvSpec
    members: list[Member]
    start: Callable[[], Any]
    """`() -> state`"""
    advance: Callable[[Any, int, int], tuple[Any, Metrics, float]]
    """`(state, begin, end) -> (state, metrics [M], seconds)`, either all before the end of the warm-up or all behind it.
    The old state is used up. The seconds are without compilation.

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
    close: Callable[[], None]


class Compiler:
    """Compiles functions ahead of time, once for each shape, and keeps the seconds that it took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: dict[tuple[str, Any], Any] = {}

    def __call__(self, name: str, function: Any, *arguments: Any) -> Any:
        """The compiled `function` for these arguments; `function` is what `jax.jit` gives."""
        shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(arguments[-1]))
        if (name, shapes) not in self._known:
            begin = time.perf_counter()
            self._known[name, shapes] = function.lower(*arguments).compile()
            self.seconds += time.perf_counter() - begin
        return self._known[name, shapes]


def over_members(function: Callable[..., Any], count: int, shared: int = 0) -> Callable[..., Any]:
    """`function` of one member as a function of `count`: arguments get a leading `[M]`, all but the last `shared` ones.

    Members are mapped, one after the other: on a CPU each then finds its networks in the caches. A single member stays
    without a leading axis: with an axis of length 1 XLA copies the replay at every write.
    """

    def mapped(*arguments: Any) -> Any:
        batched, common = arguments[: len(arguments) - shared], arguments[len(arguments) - shared :]
        return jax.lax.map(lambda member: function(*member, *common), batched)

    return function if count == 1 else mapped


def stack_members(members: list[Member]) -> tuple[jax.Array, Hyperparams]:
    """Keys `[M]` and hyperparameters `[M]`, as `over_members` wants them."""
    keys = [jax.random.key(member.seed) for member in members]
    hypers = [Hyperparams(*(jnp.float32(x) for x in member.hyper)) for member in members]
    if len(members) == 1:
        return keys[0], hypers[0]
    return jnp.stack(keys), jax.tree.map(lambda *column: jnp.stack(column), *hypers)


def warmup_iterations(experiment: Experiment) -> int:
    """Vector steps of the warm-up."""
    return -(-experiment.warmup_steps // experiment.num_envs)


def device_program(experiment: Experiment, env: Env, members: list[Member]) -> Program:
    """Training with the environment in the compiled program."""
    parts = build(experiment, env.spec)
    training = make_training(
        env,
        parts.agent,
        parts.replay,
        parts.explorer,
        parts.warmup,
        experiment.num_envs,
        parts.updates,
        experiment.eval_episodes,
    )
    count = len(members)
    keys, hypers = stack_members(members)
    compiler = Compiler()
    init = jax.jit(over_members(training.init, count))
    fill = jax.jit(over_members(training.fill, count, shared=1), donate_argnums=1)
    learn = jax.jit(over_members(training.learn, count, shared=1), donate_argnums=1)
    evaluate_all = jax.jit(over_members(training.evaluate, count, shared=1))
    warmup = warmup_iterations(experiment)

    def advance(state: Any, begin: int, end: int) -> tuple[Any, Metrics, float]:
        clocks = jnp.arange(begin, end, dtype=jnp.int32)
        name, function = ("fill", fill) if begin < warmup else ("learn", learn)
        run = compiler(name, function, keys, state, hypers, clocks)
        since = time.perf_counter()
        state, metrics = run(keys, state, hypers, clocks)
        metrics = jax.tree.map(np.atleast_1d, metrics)
        bad = metrics.bad_step[metrics.bad_step >= 0]
        if bad.size:
            raise EnvironmentFailure(f"gave a number that is not finite at step {(bad.min() + 1) * experiment.num_envs}")
        return state, metrics, time.perf_counter() - since

    def evaluate(state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        returns, lengths = evaluate_all(keys, state, jnp.int32(i))
        return np.asarray(returns).reshape(count, -1), np.asarray(lengths).reshape(count, -1)

    return Program(
        env.spec,
        members,
        start=lambda: init(keys, hypers),
        advance=advance,
        evaluate=evaluate,
        save=lambda state: (state, None),
        load=lambda arrays, text: arrays,
        shapes=lambda: jax.eval_shape(init, keys, hypers),
        actor=lambda state, m: pick(state.train.params.actor, m, count),
        close=lambda: None,
    )


def host_program(
    experiment: Experiment, members: list[Member], env: HostEnv | None = None, eval_env: HostEnv | None = None
) -> Program:
    """Training with Gymnasium environments on the host, `num_envs` for each member.

    Args:
        experiment: the structure.
        members: M of them.
        env: `M * num_envs` environments; made by name if not given.
        eval_env: environments for evaluation, `M * eval_episodes`; made by name if not given.
    """
    count, num_envs, episodes = len(members), experiment.num_envs, experiment.eval_episodes
    env = make_host(experiment.env, count * num_envs) if env is None else env
    spec = env.spec
    evaluators: list[HostEnv] = [] if eval_env is None else [eval_env]
    parts: Parts = build(experiment, spec)
    warmup = warmup_iterations(experiment)
    training = make_host_training(
        parts.agent, parts.replay, parts.explorer, parts.warmup, spec.obs_dim, num_envs, parts.updates, warmup
    )
    keys, hypers = stack_members(members)
    init = jax.jit(over_members(training.init, count))
    observe = {
        name: jax.jit(over_members(function, count, shared=1), donate_argnums=1)
        for name, function in (("fill", training.fill), ("turn", training.turn), ("learn", training.learn))
    }
    act = jax.jit(over_members(training.act, count))

    def seeds(purpose: int, clock: int, each: int) -> list[int]:
        words = [
            np.random.SeedSequence([member.seed, purpose, clock, n]).generate_state(1)[0]
            for member in members
            for n in range(each)
        ]
        return [int(word) for word in words]

    def by_member(array: np.ndarray) -> np.ndarray:
        """`[M * N, ...]` as `[M, N, ...]`, or as it is where there is one member."""
        return array if count == 1 else array.reshape(count, -1, *array.shape[1:])

    def start() -> Any:
        return init(keys, hypers, by_member(env.reset(seeds(0, 0, num_envs))))

    def advance(state: Any, begin: int, end: int) -> tuple[Any, Metrics, float]:
        since, reports, action = time.perf_counter(), [], state.env
        for i in range(begin, end):
            name = "learn" if i >= warmup else "turn" if i + 1 == warmup else "fill"
            try:
                step = env.step(np.asarray(action).reshape(count * num_envs, -1))
            except EnvironmentFailure as failure:
                raise EnvironmentFailure(f"{failure} at step {(i + 1) * num_envs}") from failure
            packet = pack_step(step.reward, step.terminated, step.last, step.valid, step.next_obs, step.obs)
            state, action, report = observe[name](keys, state, hypers, by_member(packet), np.int32(i))
            reports.append(report)
            if i == begin:
                jax.block_until_ready(report)
                since = time.perf_counter()
        table = np.stack([np.atleast_2d(report) for report in reports], axis=1)  # [M, K, 3 + N]
        # The first step may compile, so the clock starts behind it; its own time is taken to be that of the others.
        seconds = (time.perf_counter() - since) * len(reports) / max(len(reports) - 1, 1)
        means: dict[str, Any] = {name: _nanmean(table[..., c]) for c, name in enumerate(REPORT)}
        ended: Any = _nanmean(table[..., len(REPORT) :].reshape(count, -1))
        return state, Metrics(**means, train_return_mean=ended, bad_step=np.full(count, -1)), seconds  # pyright: ignore

    def evaluate(state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        if not evaluators:
            evaluators.append(make_host(experiment.env, count * episodes))
        obs = evaluators[0].reset(seeds(1, i, episodes))
        running = np.ones(count * episodes, bool)
        returns, lengths = np.zeros(running.size), np.zeros(running.size, int)
        while running.any():
            action = np.asarray(act(state, by_member(obs)))
            step = evaluators[0].step(action.reshape(running.size, -1))
            returns += np.where(running, step.reward, 0.0)
            lengths += running
            running &= ~step.last
            obs = step.obs
        return returns.reshape(count, episodes), lengths.reshape(count, episodes)

    def load(arrays: Any, text: str | None) -> Any:
        obs = env.reset(seeds(0, 0, num_envs))
        if text is not None:
            env.restore(text)
            return arrays
        # The episodes that ran are lost, and new ones start.
        return replace(arrays, obs=jnp.asarray(by_member(obs)), returns=jnp.zeros_like(arrays.returns))

    def close() -> None:
        for one in (env, *evaluators):
            one.close()

    return Program(
        spec,
        members,
        start=start,
        advance=advance,
        evaluate=evaluate,
        save=lambda state: (state, env.snapshot()),
        load=load,
        shapes=lambda: jax.eval_shape(init, keys, hypers, by_member(np.zeros((count * num_envs, spec.obs_dim), np.float32))),
        actor=lambda state, m: pick(state.train.params.actor, m, count),
        close=close,
    )


def pick(tree: Any, m: int, count: int) -> Any:
    """Member m's part of a tree that `over_members` gave, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x if count == 1 else x[m]), tree)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Means over the last axis; NaN where there is nothing but NaN."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)


class Tick(NamedTuple):
    """What `drive` gives after every block of steps."""

    state: Any
    iteration: int
    """Vector steps done."""
    step: int
    """Steps done by each member: `iteration * num_envs`."""
    rows: list[dict[str, Any]]
    """One row for each member if there was an evaluation, else none."""
    pending: list[list[list[float]]]
    """What the blocks since the last evaluation reported; a checkpoint keeps it for the next row."""


def schedule(experiment: Experiment, begin: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Blocks `(begin, end, evaluate)` of vector steps from `begin` to the end of the run; none straddles the warm-up."""
    x = experiment
    total = -(-x.steps // x.num_envs)
    every = -(-x.eval_every // x.num_envs)
    limit = max(1, BLOCK_UPDATES // round(x.num_envs * x.updates_per_step))
    warmup = warmup_iterations(x)
    i = begin
    while i < total:
        evaluation = min((i // every + 1) * every, total)
        end = min(evaluation, i + limit, warmup if i < warmup else total)
        yield i, end, end == evaluation
        i = end


def drive(
    program: Program, experiment: Experiment, state: Any, begin: int = 0, pending: list[list[list[float]]] | None = None
) -> Iterator[Tick]:
    """Walks through the run from vector step `begin` on; the caller logs, draws and saves between the ticks.

    Raises:
        EnvironmentFailure: see `Program.advance`.
    """
    pending = list(pending or [])
    updates = round(experiment.num_envs * experiment.updates_per_step)
    warmup = warmup_iterations(experiment)
    for first, end, evaluating in schedule(experiment, begin):
        state, metrics, seconds = program.advance(state, first, end)
        learned = (end - first) * updates if first >= warmup else 0
        block = [[float(x) for x in column] for column in metrics[:4]]  # [4][M]
        pending.append([*block, [float(end - first)], [float(learned)], [seconds]])
        rows = []
        if evaluating:
            rows = _rows(program, experiment, end, pending, *program.evaluate(state, end))
            pending = []
        yield Tick(state, end, end * experiment.num_envs, rows, pending)


def _rows(
    program: Program, experiment: Experiment, i: int, blocks: list[Any], returns: np.ndarray, lengths: np.ndarray
) -> list[dict[str, Any]]:
    weight = np.array([block[4][0] for block in blocks])
    seconds = sum(block[6][0] for block in blocks if block[5][0])
    speed = sum(block[5][0] for block in blocks) / seconds if seconds else math.nan
    rows = []
    for m, member in enumerate(program.members):
        means = [_weighted(np.array([block[column][m] for block in blocks]), weight) for column in range(4)]
        rows.append(
            {
                "member": m,
                "seed": member.seed,
                "step": i * experiment.num_envs,
                "eval_return_mean": float(returns[m].mean(dtype=np.float64)),
                "eval_return_std": float(returns[m].std(dtype=np.float64)),
                "eval_length_mean": float(lengths[m].mean(dtype=np.float64)),
                "train_return_mean": means[3],
                "critic_loss": means[0],
                "actor_loss": means[1],
                "q_mean": means[2],
                "updates_per_second": speed,
            }
        )
    return rows


def _weighted(values: np.ndarray, weight: np.ndarray) -> float:
    known = ~np.isnan(values)
    return float((values[known] * weight[known]).sum() / weight[known].sum()) if known.any() else math.nan
