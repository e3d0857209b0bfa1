"""Prepares an experiment for M members (seeds x hyperparameter points) at once: `Program`.

A single run is a sweep of one member, so it takes the same path through the code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import chex
import jax
import numpy as np

from ddpg_jax.errors import EnvironmentFailure, Interrupted
from ddpg_jax.experiment.build import named_parts, reported
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.experiment.validate import is_offline
from ddpg_jax.running.clock import phase_at, step_at
from ddpg_jax.running.compiled import NOTHING, Functions, functions_of, structure_of
from ddpg_jax.running.copies import prepare
from ddpg_jax.running.hardware import bytes_of, compiled_bytes
from ddpg_jax.running.heirs import Exchange, hand_over, nothing_to_exchange
from ddpg_jax.running.members import Change, Member, changed, index_of, inputs_of
from ddpg_jax.running.placement import Placement, make_placement
from ddpg_jax.running.seats import CALLS_IN_FLIGHT, Call, Seats, in_order, in_turn, move, pick, seat
from ddpg_jax.training.loop import Metrics, no_metrics
from ddpg_jax.types import Env, EnvSpec, Episodes, Params


class Program:
    """An experiment for M members, ready to run. Times are iterations (see `clock`).

    Environments outside are tried before anything is compiled: each is reset and stepped once.

    Members are advanced by one call or by several: mapped members take turns, one per device in each call, so that none is
    copied; vmapped members share a call. The state is a list with one entry for each call, and `advance` consumes it. After
    some members have stopped for good, `regroup` seats the others in fewer or smaller calls.
    """

    def __init__(
        self,
        experiment: Experiment,
        env: Env,
        members: list[Member],
        *,
        placement: Placement | None = None,
        store: Any = NOTHING,
    ):
        self.experiment, self.env, self.members = experiment, env, list(members)
        self.spec: EnvSpec = env.spec
        self._env_states: list[Any] = []
        self.outside_bytes = 0
        """Memory that the environments outside take, estimated from one of them."""
        self._shared = env.outside is not None and experiment.eval_env == "shared"
        self.placement = placement or make_placement(len(members), experiment.placement)
        self._per_call = call = self.placement.per_call
        if env.outside is not None:
            many = {"members": len(members), "slots": self.placement.slots, "evaluated": 0 if self._shared else call.slots}
            self.outside_bytes = prepare(env.outside, env.spec, experiment, **many)
        self.store = store  # on the host
        self._functions, self._store = self._make(call)
        self._seats, self._inputs = Seats((), 0), []
        self._take(seat(self.placement))

    def _make(self, call: Placement) -> tuple[Functions, Any]:
        """Returns the functions of calls of this kind, and the demonstrations that all members share, on their devices."""
        shapes = tuple(x.shape for x in jax.tree.leaves(self.store))
        made = functions_of(structure_of(self.experiment), self.env, call, *named_parts(self.experiment), shapes)
        return made, call.replicate(self.store)

    def _take(self, seats: Seats) -> None:
        """Prepares the calls of these seats."""
        live = seats.calls[0].placement
        if live != self._per_call:
            self._per_call = live
            self._functions, self._store = self._make(live)
        known = dict(zip(self._seats.calls, self._inputs, strict=True))
        self._inputs = [known[call] if call in known else inputs_of(self.members, call) for call in seats.calls]
        self._seats = seats

    def regroup(self, state: list[Any], stopped: np.ndarray) -> list[Any]:
        """Returns the state with the members that go on in as few calls, or lanes, as they need; the given state is consumed.

        Calls of mapped members keep their shape, so nothing is compiled again. Lanes of vmapped members shrink to a power of
        two for each device, and each new number is compiled once. With environments outside, vmapped members stay where they
        are.

        Args:
            state: of this program.
            stopped: `[M]` bool, True for members that have stopped or are still waiting.
        """
        self._check(state)
        if self.placement.single or (self.placement.vmapped and self.env.outside is not None):
            return state
        old = self._seats
        self._take(seat(self.placement, stopped))
        state = move(state, old, self._seats)
        if self.env.outside is not None:
            self._env_states = [np.asarray(one.env) for one in state]
        return state

    def adopt(self, changes: Iterable[Change]) -> None:
        """Gives members other hyperparameters, from the next step on. Changes of members of other processes are ignored."""
        index = index_of(self.members)
        for change in changes:
            if (m := index.get(change.member)) is not None:
                self.members[m] = changed(self.members[m], change.values)
        self._inputs = [inputs_of(self.members, call) for call in self._seats.calls]

    def inherit(self, state: list[Any], changes: Iterable[Change], exchange: Exchange = nothing_to_exchange) -> list[Any]:
        """Returns the state after these changes; it is consumed. If states are taken over, all processes exchange them."""
        self._check(state)
        changes = list(changes)
        if moves := [change for change in changes if change.parent != change.member]:
            index, copying = index_of(self.members), self._functions.copying
            state = hand_over(state, self._seats, copying, changes=moves, index=index, exchange=exchange)
        self.adopt(changes)
        return state

    @property
    def state_survives_failure(self) -> bool:
        """True if a failure leaves the state before the failed step; otherwise the state has learned from that step."""
        # With `host_order=overlapped` it has the updates during that step, too, which a resume makes once more.
        return self.env.outside is not None and self.env.outside.broken is None

    @property
    def calls(self) -> int:
        """Compiled calls needed to advance all members once."""
        return self._seats.live

    def start(self) -> Any:
        """Returns the state at iteration 0.

        Raises:
            EnvironmentFailure: an environment outside raised, or returned something invalid.
        """
        self._take(seat(self.placement))
        self._seed(0)
        init, store = self._functions.init, self._store
        return self._register([self._run(lambda each=each: init(*each, store)) for each in self._inputs], 0)

    def _seed(self, i: int) -> None:
        """Seeds the global generators from which environments outside may draw."""
        if self.env.outside is not None:
            self.env.outside.seed(self.members[0].seed, i)

    def _restart(self, state: list[Any], i: int) -> list[Any]:
        """Starts the episodes of all environments outside again, at iteration `i`."""
        (clock,) = self._clocks(i)
        given = zip(self._inputs, state, strict=True)
        return [self._run(lambda k=keys, s=one: self._functions.restart(k, s, clock)) for (keys, _), one in given]

    def time_limit_missing(self) -> str | None:
        """Returns a warning if no time limit of the environment is known, so that an episode may never end."""
        if self.spec.max_steps is not None:
            return None
        return (
            f"env={self.spec.name} has no time limit that is known, so its episodes must end by themselves; "
            "max_episode_steps=N in env_kwargs sets one"
        )

    def keeps_environments(self) -> bool:
        """Returns True if `save` keeps the environments, so that a run that is resumed continues exactly.

        `make_program` asks first, because only idle copies can show this, and only while no others are in use.
        """
        return self.env.outside is None or (not self._shared and self.env.outside.goes_on_after_restore())

    def _register(self, state: list[Any], i: int) -> list[Any]:
        """Notes which environments outside a state uses after their reset, and checks them."""
        if self.env.outside is not None:
            self._env_states = [np.asarray(one.env) for one in state]
            self._raise_outside_failure(f" at step {step_at(self.experiment, i)}")
        return state

    def _run(self, call: Callable[[], Any]) -> Any:
        """Runs a compiled call; if it uses environments outside, it serves them until the call has ended."""
        outside = self.env.outside
        return call() if outside is None else outside.run(lambda: jax.block_until_ready(call()))

    def _raise_outside_failure(self, when: str) -> None:
        """Raises the error of an environment outside, if there was one."""
        outside = self.env.outside
        for error in [outside.failure(one) for one in self._env_states] if outside else []:
            if isinstance(error, EnvironmentFailure):
                raise EnvironmentFailure(f"{error}{when}") from error
            if error is not None:
                raise error

    def _clocks(self, *times: int) -> Any:
        return self._per_call.replicate(tuple(np.int32(time) for time in times))

    def _live(self, each: list[Any]) -> list[Any]:
        """Returns the entries of those calls that are made."""
        return each[: self._seats.live]

    def _select(self, tree: Any, call: Call) -> Any:
        """Selects the members of one call from columns `[M]` of all members; padding copies the last one."""
        last = len(self.members) - 1
        own: Any = [min(slot, last) for slot in call.slots]
        own = own[0] if call.placement.single else own
        return jax.tree.map(lambda column: column[own], tree)

    def _join(self, results: list[Any], rest: Any = None) -> Any:
        """Joins the results of the calls that are made into results of all members, `[M, ...]`: the inverse of `_select`.

        Members of the other calls get their results from `rest`, by default zeros.
        """
        calls = self._seats.calls
        idle = calls[self._seats.live :]

        def join(rest: Any, *columns: Any) -> np.ndarray:
            arrays = [np.asarray(column) for column in columns]
            shape = arrays[0].shape if calls[0].placement.single else arrays[0].shape[1:]
            for call in idle:
                filled = np.zeros((len(call.slots), *shape), arrays[0].dtype) if rest is None else self._select(rest, call)
                arrays.append(filled[0] if call.placement.single and rest is None else filled)
            return in_order(arrays, self._seats)[: len(self.members)]

        if rest is None:
            return jax.tree.map(lambda *columns: join(None, *columns), *results)
        return jax.tree.map(join, rest, *results)

    def _columns(self, name: str, so_far: Metrics | None) -> Metrics:
        """Returns the metrics before a phase as columns `[M]`. Those of a journal are lists of numbers."""
        none = no_metrics(("train_return_mean", *(reported(self.experiment) if name != "fill" else ())))
        if so_far is None:
            return jax.tree.map(lambda zero: np.full(len(self.members), zero), none)
        return jax.tree.map(lambda zero, column: np.asarray(column, zero.dtype), none, so_far)

    def _phase_inputs(self, begin: np.ndarray, active: np.ndarray, columns: Metrics) -> list[Any]:
        """Returns what the calls of a phase take besides states and clocks."""
        every = (active, begin.astype(np.int32), columns)
        calls = zip(self._live(self._inputs), self._seats.calls, strict=False)
        return [(*given, *self._select(every, call)) for given, call in calls]

    def advance(
        self, state: Any, begin: Any, end: int, *, active: np.ndarray, so_far: Metrics | None = None
    ) -> tuple[Any, Metrics, float]:
        """Advances from iteration `begin` `[M]` to `end`, all of them in one phase (see `clock.phase_at`).

        Members that are not active learn nothing; under vmap they are computed, too, but their new networks and metrics are
        dropped. If an environment outside asks for it, the end is earlier: see `Metrics.done`.

        Args:
            state: consumed.
            begin: the next iteration: one number, or one for each member, `[M]`. Members advanced by the same loop must
                share it.
            end: the iteration after the last one.
            active: `[M]` bool, False for members that have diverged or been stopped, or are waiting.
            so_far: metrics of the steps before, if they belong to the same block.

        Returns:
            The state, metrics `[M]`, and seconds without compilation. `Metrics.bad_step` reports an environment that failed;
            `raise_failure` explains it.
        """
        self._check(state)
        chex.assert_shape(active, (len(self.members),), custom_message="Program.advance: active must be [M]")
        begin = np.asarray(begin)
        shape = (len(self.members),) if begin.ndim else ()
        chex.assert_shape(begin, shape, custom_message="Program.advance: begin must be [] or [M]")
        begin = np.broadcast_to(begin, len(self.members))
        name = phase_at(self.experiment, min(int(begin.min()), end - 1))  # where nobody is active, all begin at the end
        clocks = self._clocks(int(begin.min()), end)
        columns = self._columns(name, so_far)
        given = list(zip(self._live(state), self._phase_inputs(begin, active, columns), strict=True))
        run = self._functions.phase(name, *given[0], clocks, self._store)
        since = time.perf_counter()
        results = self._in_turn(lambda each: run(*each, clocks, self._store), given)
        metrics = self._join([result[1] for result in results], columns)
        return [result[0] for result in results] + state[self._seats.live :], metrics, time.perf_counter() - since

    def _check(self, state: Any) -> None:
        """Raises an error if this is not the state of this program."""
        if not isinstance(state, list) or len(state) != len(self._seats.calls):
            raise TypeError("state must be the list that start, load or advance of this program returned")

    def _in_turn(self, run: Callable[[Any], Any], given: list[Any]) -> list[Any]:
        return self._run(lambda: in_turn(run, given))

    def raise_failure(self, metrics: Metrics) -> None:
        """Explains the failure of an environment that these metrics report.

        Raises:
            EnvironmentFailure: an environment failed.
        """
        bad = metrics.bad_step[metrics.bad_step >= 0]
        if bad.size:
            when = f" at step {step_at(self.experiment, int(bad.min()) + 1)}"
            self._raise_outside_failure(when)
            raise EnvironmentFailure(f"gave a number that is not finite{when}")

    def evaluate(self, state: Any, i: int) -> Episodes:
        """Evaluates all members: `[M, K]` each. The returns of a member whose actor has diverged are not finite.

        `after_evaluation` must follow.

        Raises:
            EnvironmentFailure: an environment failed.
            Interrupted: a signal stopped the evaluation, which only happens with environments outside.
        """
        if not self.experiment.eval_episodes:
            return Episodes(*[np.zeros((len(self.members), 0))] * 3)
        self._check(state)
        given = self._live([(keys, one, *self._clocks(i)) for (keys, _), one in zip(self._inputs, state, strict=True)])
        run = self._functions.phase("evaluate", *given[0])
        found = self._join(self._in_turn(lambda each: run(*each), given))
        when = f" in the evaluation at step {step_at(self.experiment, i)}"
        self._raise_outside_failure(when)
        for m in np.flatnonzero(~np.isfinite(found.returns).all(axis=1)):
            # The environment is at fault only if the actor has not diverged.
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.actor(state, int(m)))):
                if self.env.outside is not None and np.isnan(found.returns[m]).any():  # of an episode that did not end
                    raise Interrupted
                raise EnvironmentFailure(f"gave a number that is not finite{when}")
        return found

    def after_evaluation(self, state: Any, i: int) -> Any:
        """Returns the state to go on with: if evaluations share the training environments, these begin new episodes."""
        if not self._shared or self.env.outside is None or not self.experiment.eval_episodes:
            return state
        self.env.outside.release(np.stack(self._env_states))
        return self._register(self._restart(state, i), i)

    def actor(self, state: Any, m: int) -> Params:
        """Returns the actor's parameters of one member."""
        c, k = self._seats.find(m)
        return pick(state[c].train.params.actor, k, self._seats.calls[c].placement)

    def actors(self, state: Any, members: Iterable[int]) -> list[Params]:
        """Returns the actor's parameters of several members; each call's are copied from the device once."""
        places = [self._seats.find(m) for m in members]
        arrays = {c: jax.tree.map(np.asarray, state[c].train.params.actor) for c in {c for c, _ in places}}
        return [pick(arrays[c], k, self._seats.calls[c].placement) for c, k in places]

    def save(self, state: Any) -> tuple[Any, str | None]:
        """Returns what a checkpoint needs: a pytree of NumPy arrays `[M, ...]` with padding, and environments outside as text.

        Nothing writes to the arrays later. The text is None if the environments cannot be kept.
        """
        self._check(state)
        text = None
        if self.env.outside is not None:  # the states of its environments mean nothing to another process
            text = self.env.outside.save(in_order(self._env_states, self._seats)) if self.keeps_environments() else None
            state = [replace(one, env=np.zeros_like(one.env)) for one in state]
        if self.placement.single:
            return jax.tree.map(np.array, state[0]), text
        return jax.tree.map(lambda *parts: in_order([np.asarray(part) for part in parts], self._seats), *state), text

    def load(self, arrays: Any, text: str | None, i: int) -> Any:
        """Restores the state at iteration `i` from what `save` returned.

        Without a text, or if environments outside cannot be kept, their episodes start again.

        Raises:
            EnvironmentFailure: environments cannot be restored.
        """
        self._take(seat(self.placement))
        call, outside = self._per_call, self.env.outside
        self._seed(i)
        text = text if self.keeps_environments() else None
        if outside is not None and text is not None:
            arrays = replace(arrays, env=outside.load(text, np.asarray(arrays.obs)))
        if call == self.placement:
            state = [call.put(arrays)]
        else:
            own = [one.slots[0] if call.single else slice(one.slots[0], one.slots[-1] + 1) for one in self._seats.calls]
            state = [call.put(jax.tree.map(lambda x, some=some: np.asarray(x)[some], arrays)) for some in own]
        if outside is not None and text is None:
            state = self._restart(state, i)
        return self._register(state, i)

    def shapes(self) -> Any:
        """Returns the arrays of `save` as a pytree of `jax.ShapeDtypeStruct`."""
        one = jax.eval_shape(self._functions.init, *self._inputs[0], self._store)
        lead, axes = () if self.placement.single else (self.placement.slots,), 0 if self._per_call.single else 1
        return self.placement.abstract(jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[axes:]), x.dtype), one))

    def memory(self) -> int:
        """Returns the bytes that a device needs to learn and to evaluate, according to the compiler."""
        phase, count, call = self._functions.phase, len(self.members), self._per_call
        one = call.abstract(jax.eval_shape(self._functions.init, *self._inputs[0], self._store))
        states = bytes_of(one) // len(self.placement.devices)
        inputs = self._phase_inputs(np.zeros(count, int), np.ones(count, bool), self._columns("learn", None))[0]
        name = "offline" if is_offline(self.experiment) else "learn"
        learning = compiled_bytes(phase(name, one, inputs, self._clocks(0, 1), self._store))
        evaluating = 0
        if self.experiment.eval_episodes:  # it does not read the replay
            evaluating = compiled_bytes(phase("evaluate", self._inputs[0][0], one, *self._clocks(0)))
        workspace = max(learning - states, evaluating)
        return self.calls * states + min(self.calls, CALLS_IN_FLIGHT) * workspace

    def close(self) -> None:
        """Closes environments outside."""
        if self.env.outside is not None:
            self.env.outside.close(np.array(self._env_states))
            self._env_states = []
