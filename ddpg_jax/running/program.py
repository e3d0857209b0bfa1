"""An experiment for M members (seeds x hyperparameter points) at once, ready to run: `Program`.

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

from ddpg_jax.errors import EnvironmentFailure
from ddpg_jax.experiment.build import build, reported
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running.placement import Placement, agreed, over_members, place
from ddpg_jax.training.loop import Metrics, make_training, no_metrics
from ddpg_jax.types import Array, Env, EnvSpec, Hyperparams, Params

KEPT = 16
"""Structures whose compiled functions are kept. A structure takes 700 .. 1,300 memory maps,
of which Linux grants a process 65,530; XLA ends with a segmentation fault when there are no more."""


UNDER_WAY = 2
"""Calls of a program at any time."""


class Member(NamedTuple):
    """One training run: where it starts, and its numbers."""

    seed: int
    hyper: Hyperparams
    number: int = 0
    """Its place among all members of a sweep."""
    swept: tuple[tuple[str, Any], ...] = ()
    """The fields that the sweep varies, with this member's values."""


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


class Interrupted(Exception):
    """An evaluation was ended by a signal."""


class Functions(NamedTuple):
    """What a `Program` compiles; the same for all seeds, hyperparameters and lengths."""

    init: Any
    """`(keys, hypers) -> state`"""
    restart: Any
    """`(keys, state, i) -> state`"""
    phase: Callable[..., Any]
    """`(name, *arguments) -> compiled`: `fill`, `learn` or `evaluate`, compiled when it is first asked for."""


@functools.lru_cache(maxsize=KEPT)
def functions_of(structure: Experiment, env: Env, placement: Placement) -> Functions:
    """What programs of this structure run; made once for all of them."""
    parts = build(structure, env.spec)
    training = make_training(
        env,
        parts.agent,
        parts.replay,
        explorer=parts.explorer,
        warmup=parts.warmup,
        num_envs=structure.num_envs,
        updates=parts.updates,
        period=parts.period,
        eval_episodes=structure.eval_episodes,
        agree=agreed(placement),
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

    restart = jax.jit(over_members(training.restart, placement, shared=1))
    return Functions(jax.jit(over_members(training.init, placement)), restart, phase)


def _unless_diverged(phase: Callable[..., Any], placement: Placement) -> Callable[..., Any]:
    """`(state, rest, clocks) -> (state, metrics)`: a phase of training that a member sits out once it has diverged."""

    def mapped(state: Any, rest: tuple[Any, Hyperparams, Array, Array, Metrics], clocks: tuple[Array, Array]) -> Any:
        key, hyper, alive, begin, so_far = rest
        return phase(key, state, hyper, begin, jnp.where(alive, clocks[1], begin), so_far)

    def vmapped(state: Any, rest: tuple[Any, Hyperparams, Array, Array, Metrics], clocks: tuple[Array, Array]) -> Any:
        # It computes along, and what it learns is dropped. Of its replay nothing is: to choose would copy everybody's.
        key, hyper, alive, _, so_far = rest
        after, metrics = phase(key, state, hyper, *clocks, so_far)
        kept = if_alive(alive, metrics, so_far)._replace(done=metrics.done)
        return replace(after, train=if_alive(alive, after.train, state.train)), kept

    return vmapped if placement.together else mapped


def structure_of(experiment: Experiment) -> Experiment:
    """What of an experiment the compiled functions depend on: the same for runs that differ in the rest alone."""
    return replace(experiment, seed=0, steps=1, preset="default", eval_every=1, host_order="textbook")


class Program:
    """An experiment for M members, ready to run. Times are vector steps.

    The state is a list of what each call advances: where members are mapped one for each device, so that they take turns
    without being copied; else all. What `advance` is given is used up.
    """

    def __init__(self, experiment: Experiment, env: Env, members: list[Member], placement: Placement | None = None):
        self.experiment, self.env, self.members = experiment, env, members
        self.spec: EnvSpec = env.spec
        self.placement = placement or place(len(members), experiment.placement)
        self._call = call = self.placement.call
        count = len(members)
        self._own = [slice(first, min(first + call.slots, count)) for first in range(0, count, call.slots)]
        self._numbers = [stack_members(members[own], call) for own in self._own]
        self._functions = functions_of(structure_of(experiment), env, call)
        self._warmup = warmup_iterations(experiment)
        self._in_use: list[Any] = []
        if env.outside is not None:
            env.outside.prepare(self.placement.slots * experiment.num_envs)

    @property
    def whole_after_failure(self) -> bool:
        """Whether the state is that before the step at which an environment failed; else it has learned from that step."""
        return self.env.outside is not None

    @property
    def calls(self) -> int:
        """Calls of compiled code that advance all members once."""
        return len(self._own)

    def start(self) -> Any:
        """The state at vector step 0.

        Raises:
            EnvironmentFailure: an environment that cannot be compiled raised, or gave what it must not.
        """
        return self._opened([self._run(lambda each=each: self._functions.init(*each)) for each in self._numbers], 0)

    def _opened(self, state: list[Any], i: int) -> list[Any]:
        """A state whose environments were reset."""
        if self.env.outside is not None:
            self._in_use = [np.asarray(one.env) for one in state]
            self._raise_failure(f" at step {i * self.experiment.num_envs}")
        return state

    def _run(self, call: Callable[[], Any]) -> Any:
        """A call of compiled code, and of whoever it calls; until it has ended where that is an environment."""
        outside = self.env.outside
        return call() if outside is None else outside.run(lambda: jax.block_until_ready(call()))

    def _raise_failure(self, when: str) -> None:
        """Raises what went wrong in an environment outside, if anything did."""
        found = [self.env.outside.failure(one) for one in self._in_use] if self.env.outside else []
        for error in found:
            if isinstance(error, EnvironmentFailure):
                raise EnvironmentFailure(f"{error}{when}") from error
            if error is not None:
                raise error

    def _clocks(self, *times: int) -> Any:
        return self._call.put_everywhere(tuple(np.int32(time) for time in times))

    def _part(self, tree: Any, own: slice) -> Any:
        """Columns `[M]` of all members as those of one call."""

        def padded(column: np.ndarray) -> np.ndarray:
            column = np.pad(column[own], (0, self._call.slots - (own.stop - own.start)), mode="edge")
            return column[0] if self._call.alone else column

        return jax.tree.map(padded, tree)

    def _joined(self, results: list[Any]) -> Any:
        """The inverse: results of each call as those of all members, `[M, ...]`."""

        def join(*columns: Any) -> np.ndarray:
            return np.concatenate([np.asarray(column)[None] if self._call.alone else column for column in columns])

        return jax.tree.map(lambda *columns: join(*columns)[: len(self.members)], *results)

    def _rest(self, name: str, begin: np.ndarray, alive: np.ndarray, so_far: Metrics | None) -> list[Any]:
        """What the calls of a phase take besides states and clocks. The metrics of a journal are lists of plain numbers."""
        none = no_metrics(("train_return_mean", *(reported(self.experiment) if name == "learn" else ())))
        if so_far is None:
            columns = jax.tree.map(lambda zero: np.full(len(self.members), zero), none)
        else:
            columns = jax.tree.map(lambda zero, column: np.asarray(column, zero.dtype), none, so_far)
        columns = (alive, begin.astype(np.int32), columns)
        return [(*given, *self._part(columns, own)) for given, own in zip(self._numbers, self._own, strict=True)]

    def advance(
        self, state: Any, begin: Any, end: int, alive: np.ndarray, so_far: Metrics | None = None
    ) -> tuple[Any, Metrics, float]:
        """Vector steps from `begin` `[M]` to `end`, either all before the end of the warm-up or all after it.

        Members that are not alive learn nothing, or, where all learn in one loop, what is dropped. Where environments are
        outside and ask for it, the end is earlier: see `Metrics.done`.

        Args:
            state: it is used up.
            begin: the next step of all members, or of each, `[M]`; the same for all that are advanced in one loop.
            end: the step after the last one.
            alive: `[M]` bool, who has not diverged.
            so_far: the metrics of the steps before, if these are to be a part of the same block.

        Returns:
            The state, metrics `[M]`, and seconds without compilation. `Metrics.bad_step` tells of an environment that failed;
            `raise_failure` says how.
        """
        begin = np.broadcast_to(begin, len(self.members))
        name = "fill" if begin.min() < self._warmup else "learn"
        clocks = self._clocks(int(begin.min()), end)
        given = list(zip(state, self._rest(name, begin, alive, so_far), strict=True))
        run = self._functions.phase(name, *given[0], clocks)
        since = time.perf_counter()
        results = self._in_turn(lambda each: run(*each, clocks), given)
        metrics = self._joined([result[1] for result in results])
        return [result[0] for result in results], metrics, time.perf_counter() - since

    def _in_turn(self, run: Callable[[Any], Any], given: list[Any]) -> list[Any]:
        return self._run(lambda: in_turn(run, given))

    def raise_failure(self, metrics: Metrics) -> None:
        """Says what an environment did wrong in the steps that these metrics are of.

        Raises:
            EnvironmentFailure: it failed.
        """
        bad = metrics.bad_step[metrics.bad_step >= 0]
        if bad.size:
            when = f" at step {(bad.min() + 1) * self.experiment.num_envs}"
            self._raise_failure(when)
            raise EnvironmentFailure(f"gave a number that is not finite{when}")

    def evaluate(self, state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths `[M, K]`; returns that are not finite say that the member's actor is no more.

        Raises:
            EnvironmentFailure: an environment failed.
            Interrupted: a signal has ended it, which only environments outside are told of.
        """
        given = [(keys, one, *self._clocks(i)) for (keys, _), one in zip(self._numbers, state, strict=True)]
        run = self._functions.phase("evaluate", *given[0])
        returns, lengths = self._joined(self._in_turn(lambda each: run(*each), given))
        when = f" in the evaluation at step {i * self.experiment.num_envs}"
        self._raise_failure(when)
        for m in np.flatnonzero(~np.isfinite(returns).all(axis=1)):
            # Those of an actor that has diverged are no numbers either, which is not the environment's fault.
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.actor(state, int(m)))):
                if self.env.outside is not None:
                    raise Interrupted
                raise EnvironmentFailure(f"gave a number that is not finite{when}")
        return returns, lengths

    def actor(self, state: Any, m: int) -> Params:
        """The actor's parameters of one member."""
        call = self._call
        return pick(state[m // call.slots].train.params.actor, m % call.slots, call)

    def save(self, state: Any) -> tuple[Any, str | None]:
        """A pytree of NumPy arrays for the checkpoint, `[M, ...]` with padding, which nothing writes to; and the environments
        outside as text, where they let themselves be written.
        """
        text = None
        if self.env.outside is not None:  # the numbers of its environments mean nothing to another process
            text = self.env.outside.save(np.stack(self._in_use))
            state = [replace(one, env=np.zeros_like(one.env)) for one in state]
        if self.placement.alone:
            return jax.tree.map(np.array, state[0]), text
        axes = 0 if self._call.alone else 1
        return jax.tree.map(lambda *parts: np.stack(parts).reshape(-1, *parts[0].shape[axes:]), *state), text

    def load(self, arrays: Any, text: str | None, i: int) -> Any:
        """The inverse, for vector step `i`. Where there is no text of environments outside, their episodes start anew.

        Raises:
            EnvironmentFailure: environments cannot be put back.
        """
        call, outside = self._call, self.env.outside
        if outside is not None and text is not None:
            arrays = replace(arrays, env=outside.load(text, np.asarray(arrays.obs)))
        if call == self.placement:
            state = [call.put(arrays)]
        else:
            own = [r if call.alone else slice(r * call.slots, (r + 1) * call.slots) for r in range(len(self._own))]
            state = [call.put(jax.tree.map(lambda x, some=some: np.asarray(x)[some], arrays)) for some in own]
        if outside is not None and text is None:
            (clock,) = self._clocks(i)
            given = zip(self._numbers, state, strict=True)
            state = [self._run(lambda k=keys, s=one: self._functions.restart(k, s, clock)) for (keys, _), one in given]
        return self._opened(state, i)

    def shapes(self) -> Any:
        """A pytree of `jax.ShapeDtypeStruct`, of what `save` gives as arrays."""
        one = jax.eval_shape(self._functions.init, *self._numbers[0])
        lead, axes = () if self.placement.alone else (self.placement.slots,), 0 if self._call.alone else 1
        return self.placement.abstract(jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[axes:]), x.dtype), one))

    def memory(self) -> int:
        """Bytes that a device needs to learn and to evaluate, as the compiler counts them."""
        phase, count, call = self._functions.phase, len(self.members), self._call
        one = call.abstract(jax.eval_shape(self._functions.init, *self._numbers[0]))
        held = bytes_of(one) // len(self.placement.devices)
        rest = self._rest("learn", np.zeros(count, int), np.ones(count, bool), None)[0]
        learning = compiled_bytes(phase("learn", one, rest, self._clocks(0, 1)))
        evaluating = compiled_bytes(
            phase("evaluate", self._numbers[0][0], one, *self._clocks(0))
        )  # it does not read the replay
        beside = max(learning - held, evaluating)
        return self.calls * held + min(self.calls, UNDER_WAY) * beside

    def close(self) -> None:
        """Closes environments outside."""
        if self.env.outside is not None:
            self.env.outside.close(np.array(self._in_use))
            self._in_use = []


def in_turn(run: Callable[[Any], Any], given: list[Any]) -> list[Any]:
    """`run` of each. Devices work on one while they are given the next; more would hold what they need beside their states."""
    results = []
    for each in given:
        if len(results) >= UNDER_WAY:
            jax.block_until_ready(results[-UNDER_WAY])
        results.append(run(each))
    return results


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
