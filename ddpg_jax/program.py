"""An experiment for M members (seeds x hyperparameter points) at once, ready to run: `Program`, and that of the device.

A single run is a sweep of one member: there is one way through the code.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.building import build, reported
from ddpg_jax.experiment import Experiment
from ddpg_jax.placement import Placement, over_members, place
from ddpg_jax.training import Metrics, make_training, no_metrics
from ddpg_jax.types import Array, Env, EnvironmentFailure, EnvSpec, Hyperparams, Params

KEPT = 16
"""Structures whose compiled functions are kept, on the device and on the host each. A structure takes 700 .. 1,300 memory maps,
of which Linux grants a process 65,530; XLA ends with a segmentation fault when there are no more."""


UNDER_WAY = 2
"""Calls of a device program at any time."""


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
    advance: Callable[..., tuple[Any, Metrics, float]]
    """`(state, begin, end, alive [M] bool, so_far=None) -> (state, metrics [M], seconds)`, either all before the end of the
    warm-up or all behind it. `so_far` is the metrics of the steps before, if these are to be a part of the same block. The old
    state is used up. Members that are not alive learn nothing, or, where all learn in one call, what is dropped. Seconds are
    without compilation.

    Raises `EnvironmentFailure`."""
    evaluate: Callable[[Any, int], tuple[np.ndarray, np.ndarray]]
    """`(state, i) -> (returns [M, K], lengths [M, K])`; returns that are not finite say that the member's actor is no more."""
    save: Callable[[Any], tuple[Any, str | None]]
    """`(state) -> (arrays, text)`: a pytree of NumPy arrays for the checkpoint, `[M, ...]` with padding, which nothing writes
    to; and the environments where they are no arrays."""
    load: Callable[[Any, str | None, int], Any]
    """The inverse: `(arrays, text, i) -> state` of vector step `i`. Where there is no text of environments on the host, their
    episodes start anew."""
    shapes: Callable[[], Any]
    """`() -> pytree of jax.ShapeDtypeStruct`, what `save` gives as arrays."""
    actor: Callable[[Any, int], Params]
    """`(state, m) -> actor_params` of one member."""
    memory: Callable[[], int]
    """`() -> bytes` that a device needs to learn, and on the device to evaluate, as the compiler counts them."""
    placement: Placement
    close: Callable[[], None]
    calls: int = 1
    """Of compiled code, for all members to advance."""


def stack_members(members: list[Member], placement: Placement) -> tuple[jax.Array, Hyperparams]:
    """Keys `[M]` and hyperparameters `[M]`, padded with copies of the last member."""
    padded = members + members[-1:] * (placement.slots - len(members))
    hypers = Hyperparams(*np.array([member.hyper for member in padded], np.float32).T)
    if placement.alone:
        return placement.put((jax.random.key(padded[0].seed), jax.tree.map(lambda x: x[0], hypers)))
    return placement.put((jax.vmap(jax.random.key)(np.array([member.seed for member in padded], np.uint32)), hypers))


def warmup_iterations(experiment: Experiment) -> int:
    """Vector steps of the warm-up."""
    return -(-experiment.warmup_steps // experiment.num_envs)


def total_iterations(experiment: Experiment) -> int:
    """Vector steps of the whole run."""
    return -(-experiment.steps // experiment.num_envs)


class DeviceFunctions(NamedTuple):
    """What `device_program` compiles; the same for all seeds, hyperparameters and lengths."""

    init: Any
    phase: Callable[..., Any]
    """`(name, *arguments) -> compiled`: `fill`, `learn` or `evaluate`, compiled when it is first asked for."""


@functools.lru_cache(maxsize=KEPT)
def device_functions(structure: Experiment, env: Env, placement: Placement) -> DeviceFunctions:
    """What a `device_program` of this structure runs; made once for all of them."""
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

    def advancing(phase: Any) -> Any:
        function = over_members(_unless_diverged(phase, placement), placement, shared=1)
        return jax.jit(function, donate_argnums=0, compiler_options=placement.compiler_options)

    phases = {"fill": advancing(training.fill), "learn": advancing(training.learn)}
    phases["evaluate"] = jax.jit(over_members(training.evaluate, placement, shared=1))
    compiled: dict[str, Any] = {}

    def phase(name: str, *arguments: Any) -> Any:
        if name not in compiled:
            compiled[name] = phases[name].lower(*arguments).compile()
        return compiled[name]

    return DeviceFunctions(jax.jit(over_members(training.init, placement)), phase)


def structure_of(experiment: Experiment) -> Experiment:
    """What of an experiment the compiled functions depend on: the same for runs that differ in the rest alone."""
    return replace(experiment, seed=0, steps=1, preset="default", eval_every=1, host_order="textbook")


def device_program(experiment: Experiment, env: Env, members: list[Member], placement: Placement | None = None) -> Program:
    """Training with the environment in the compiled program.

    The state is a list of what each call advances: where members are mapped one for each device, so that they take turns
    without being copied; else all.
    """
    placement = placement or place(len(members), experiment.placement)
    call, count = placement.call, len(members)
    axes = 0 if call.alone else 1  # in front of the shapes of one member
    calls = [slice(first, min(first + call.slots, count)) for first in range(0, count, call.slots)]
    numbers = [stack_members(members[own], call) for own in calls]
    init, phase = device_functions(structure_of(experiment), env, call)
    warmup = warmup_iterations(experiment)

    def clocks(*times: int) -> Any:
        return call.put_everywhere(tuple(np.int32(time) for time in times))

    def part(tree: Any, own: slice) -> Any:
        """Columns `[M]` of all members as those of one call."""

        def padded(column: np.ndarray) -> np.ndarray:
            column = np.pad(column[own], (0, call.slots - (own.stop - own.start)), mode="edge")
            return column[0] if call.alone else column

        return jax.tree.map(padded, tree)

    def joined(results: list[Any]) -> Any:
        """The inverse: results of each call as those of all members, `[M, ...]`."""

        def join(*columns: Any) -> np.ndarray:
            return np.concatenate([np.asarray(column)[None] if call.alone else column for column in columns])[:count]

        return jax.tree.map(join, *results)

    def rest(name: str, alive: np.ndarray, so_far: Metrics | None) -> list[Any]:
        """What the calls of a phase take besides states and clocks. The metrics of a journal are lists of plain numbers."""
        none = no_metrics(("train_return_mean", *(reported(experiment) if name == "learn" else ())))
        if so_far is None:
            columns = jax.tree.map(lambda zero: np.full(count, zero), none)
        else:
            columns = jax.tree.map(lambda zero, column: np.asarray(column, zero.dtype), none, so_far)
        return [(*given, *part((alive, columns), own)) for given, own in zip(numbers, calls, strict=True)]

    def advance(
        state: Any, begin: int, end: int, alive: np.ndarray, so_far: Metrics | None = None
    ) -> tuple[Any, Metrics, float]:
        name, clock = "fill" if begin < warmup else "learn", clocks(begin, end)
        given = list(zip(state, rest(name, alive, so_far), strict=True))
        run = phase(name, *given[0], clock)
        since = time.perf_counter()
        results = in_turn(lambda each: run(*each, clock), given)
        metrics = joined([result[1] for result in results])
        seconds = time.perf_counter() - since
        bad = metrics.bad_step[metrics.bad_step >= 0]
        if bad.size:
            raise EnvironmentFailure(f"gave a number that is not finite at step {(bad.min() + 1) * experiment.num_envs}")
        return [result[0] for result in results], metrics, seconds

    def evaluate(state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        given = [(keys, one, *clocks(i)) for (keys, _), one in zip(numbers, state, strict=True)]
        run = phase("evaluate", *given[0])
        returns, lengths = joined(in_turn(lambda each: run(*each), given))
        for m in np.flatnonzero(~np.isfinite(returns).all(axis=1)):
            # Those of an actor that has diverged are no numbers either, which is not the environment's fault.
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(actor(state, int(m)))):
                step = i * experiment.num_envs
                raise EnvironmentFailure(f"gave a number that is not finite in the evaluation at step {step}")
        return returns, lengths

    def actor(state: Any, m: int) -> Params:
        return pick(state[m // call.slots].train.params.actor, m % call.slots, call)

    def save(state: Any) -> tuple[Any, None]:
        if placement.alone:
            return jax.tree.map(np.array, state[0]), None
        return jax.tree.map(lambda *parts: np.stack(parts).reshape(-1, *parts[0].shape[axes:]), *state), None

    def load(arrays: Any, text: str | None, i: int) -> Any:
        del text, i
        if call == placement:
            return [call.put(arrays)]
        own = [r if call.alone else slice(r * call.slots, (r + 1) * call.slots) for r in range(len(calls))]
        return [call.put(jax.tree.map(lambda x, some=some: np.asarray(x)[some], arrays)) for some in own]

    def shapes() -> Any:
        one = jax.eval_shape(init, *numbers[0])
        lead = () if placement.alone else (placement.slots,)
        return placement.abstract(jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[axes:]), x.dtype), one))

    def memory() -> int:
        one = call.abstract(jax.eval_shape(init, *numbers[0]))
        held = bytes_of(one) // len(placement.devices)
        learning = compiled_bytes(phase("learn", one, rest("learn", np.ones(count, bool), None)[0], clocks(0, 1)))
        evaluating = compiled_bytes(phase("evaluate", numbers[0][0], one, *clocks(0)))  # it does not read the replay
        beside = max(learning - held, evaluating)
        return len(calls) * held + min(len(calls), UNDER_WAY) * beside

    return Program(
        env.spec,
        members,
        start=lambda: [init(*each) for each in numbers],
        advance=advance,
        evaluate=evaluate,
        save=save,
        load=load,
        shapes=shapes,
        actor=actor,
        memory=memory,
        placement=placement,
        close=lambda: None,
        calls=len(calls),
    )


def in_turn(run: Callable[[Any], Any], given: list[Any]) -> list[Any]:
    """`run` of each. Devices work on one while they are given the next; more would hold what they need beside their states."""
    results = []
    for each in given:
        if len(results) >= UNDER_WAY:
            jax.block_until_ready(results[-UNDER_WAY])
        results.append(run(each))
    return results


def _unless_diverged(phase: Callable[..., Any], placement: Placement) -> Callable[..., Any]:
    """`(state, rest, clocks) -> (state, metrics)`: a phase of training that a member sits out once it has diverged."""

    def mapped(state: Any, rest: tuple[Any, Hyperparams, Array, Metrics], clocks: tuple[Array, Array]) -> Any:
        key, hyper, alive, so_far = rest
        begin, end = clocks
        return phase(key, state, hyper, begin, jnp.where(alive, end, begin), so_far)

    def vmapped(state: Any, rest: tuple[Any, Hyperparams, Array, Metrics], clocks: tuple[Array, Array]) -> Any:
        # It computes along, and what it learns is dropped. Of its replay nothing is: to choose would copy everybody's.
        key, hyper, alive, so_far = rest
        after, metrics = phase(key, state, hyper, *clocks, so_far)

        return replace(after, train=if_alive(alive, after.train, state.train)), if_alive(alive, metrics, so_far)

    return vmapped if placement.kind == "vmap" and not placement.alone else mapped


def if_alive(alive: Array, new: Any, old: Any) -> Any:
    """What a member goes on with, given whether it has not diverged, `[]`."""
    return jax.tree.map(lambda x, y: jnp.where(alive, x, y), new, old)


def pick(tree: Any, m: int, placement: Placement) -> Any:
    """Member m's part of a tree that `over_members` gave, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x if placement.alone else x[m]), tree)


def bytes_of(shapes: Any) -> int:
    """Bytes of arrays of these shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def compiled_bytes(compiled: Any) -> int:
    """Bytes that a compiled program needs on each device: arguments, results that are not in their place, and scratch."""
    sizes = compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return int(held + sizes.temp_size_in_bytes)
