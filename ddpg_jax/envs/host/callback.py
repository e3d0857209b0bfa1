"""Turns Gymnasium environments into an `Env` whose steps are calls from the compiled program back into Python.

The program's state of an environment is three numbers, `[3]` int32: the numbers of its `HostEnvs` and of its `Lane`, and its
status. One call steps all environments of a member, or of all vmapped members. The call never raises: an error is stored, the
program ends at that step, and the caller of the program retrieves the error with `failure`.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.host import snapshots
from ddpg_jax.envs.host.calls import python_call
from ddpg_jax.envs.host.evaluation import EVALUATED_AT_ONCE, Evaluation
from ddpg_jax.envs.host.goals import check_rewards, goal_on_host
from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.envs.host.pool import Pool
from ddpg_jax.envs.host.seeding import GlobalGenerators, episode_seeds
from ddpg_jax.envs.host.threads import Direct, Served, Threads, stopping
from ddpg_jax.envs.spaces import has_goals
from ddpg_jax.errors import EnvironmentFailure, one_line
from ddpg_jax.types import FAILED, GO_ON, STOP, Array, Env, Episodes, Key, Params, Transition

LONG_STEP = 30.0
"""Seconds after which a step that has not returned is reported."""

watchers: list[Callable[[int, int], None]] = []
"""Functions that are called about once a second with the finished and the total number of episodes of an evaluation."""

THREADS: dict[str, Callable[[], Threads]] = {"textbook": Direct, "overlapped": Served}
"""Threads in which environments are stepped, by the order of operations."""

_numbers = itertools.count(1)
_known: weakref.WeakValueDictionary[int, HostEnvs] = weakref.WeakValueDictionary()


class HostEnvs:
    """Holds all copies of one Gymnasium environment in this process: those in use, by number, and idle ones."""

    def __init__(self, make: Callable[[], Any], name: str, reward_threshold: float | None, *, order: str):
        self.number, self.name, self.order = next(_numbers), name, order
        self.lanes: dict[int, Lane] = {}
        self.evaluations: dict[int, tuple[int, Evaluation]] = {}
        """Running evaluations by number, each with the lane that is told of its failures."""
        self.failures: dict[int, BaseException] = {}
        """Errors by the lane that failed, or whose evaluation failed."""
        self.under_way: dict[int, tuple[Callable[[], None], np.ndarray]] = {}
        """Steps in progress by their first lane: a function that waits for the end, and the rows that it will fill in."""
        self.threads = THREADS[order]()
        self.begun = math.inf
        """Time at which the step in progress began, by `time.monotonic`; infinite if there is none."""
        self.generators = GlobalGenerators()
        self.goal_fault = ""
        """Why hindsight is not allowed, or empty."""
        self.broken: EnvironmentFailure | None = None
        """An error of a function for hindsight."""
        self.copy_bytes = 0
        self._numbers = itertools.count(1)
        self.pool = Pool(make, name, reward_threshold)
        self.spec = self.pool.spec
        self._low, self._high = np.asarray(self.spec.action_low), np.asarray(self.spec.action_high)
        self._width, self._action_dtype = self._high - self._low, np.dtype(self.spec.action_dtype)
        if has_goals(self._any().observation_space):
            goal, self.goal_fault = goal_on_host(self._any, self._note_failure)
            self.spec = self.spec._replace(goal=goal)
        _known[self.number] = self

    def _any(self) -> Any:
        """Returns one of the environments, to query what is the same for all."""
        return next(iter(self.lanes.values())).env if self.lanes else self.pool.any()

    def _note_failure(self, error: Exception) -> None:
        """Notes an error of a function for hindsight, which ends the program at its next step."""
        self.broken = self.broken or EnvironmentFailure(f"raised {one_line(error)}")

    def copies(self, training: int, *, evaluations: int, episodes: int) -> int:
        """See `Outside.copies`."""
        return training + evaluations * min(episodes, EVALUATED_AT_ONCE)

    def prepare(self, count: int) -> None:
        """See `Outside.prepare`."""
        self.pool.prepare(count)

    def try_out(self) -> None:
        """See `Outside.try_out`."""
        self.pool.try_out()
        if self.spec.goal and not self.goal_fault and self.pool.idle:
            self.goal_fault = check_rewards(self.pool.idle[0], self.spec.goal.dim, self.pool.fixed_actions(4))

    def goes_on_after_restore(self) -> bool:
        """See `Outside.goes_on_after_restore`."""
        return self.pool.goes_on_after_restore(now=not self.lanes)

    def open(self) -> int:
        """Takes a lane into use and returns its number."""
        number, lane = next(self._numbers), self.pool.take()
        self.lanes[number] = lane
        return number

    def native(self, actions: np.ndarray) -> np.ndarray:
        """Converts actions `[..., A]` in [-1, 1] to the environment's shape, units and type: a faster `to_native`, in place."""
        scaled = actions.reshape(-1, self.spec.action_dim).astype(np.float64)
        scaled += 1.0
        scaled *= 0.5
        scaled *= self._width
        scaled += self._low
        np.maximum(scaled, self._low, out=scaled)
        np.minimum(scaled, self._high, out=scaled)
        return scaled.astype(self._action_dtype, copy=False).reshape(-1, *self.spec.action_shape)

    def run(self, call: Callable[[], Any]) -> Any:
        """See `Outside.run`."""
        return self.threads.run(call, self._report_long_step)

    def _report_long_step(self) -> None:
        """Warns once of a step that has not returned. A step that waits for JAX would otherwise hang silently."""
        if time.monotonic() - self.begun > LONG_STEP:
            self.begun = math.inf
            warnings.warn(
                f"env={self.name} has been in one step for {LONG_STEP:.0f} s; if it computes with JAX, it may wait forever "
                f"unless PJRT_NPROC={2 * jax.local_device_count()} is set before the start, which gives XLA more threads",
                stacklevel=1,
            )

    def status(self, env_state: Array) -> Array:
        """See `Outside.status`."""
        return env_state[..., 2]

    def send(self, env_state: Array, action: Array) -> Array:
        """See `Outside.send`."""
        return _send(jax.ShapeDtypeStruct(env_state.shape, jnp.int32), env_state, jnp.nan_to_num(action))

    def receive(self, env_state: Array, obs: Array, action: Array, after: Array) -> tuple[Array, Array, Transition]:
        """See `Outside.receive`."""
        rows = _receive(jax.ShapeDtypeStruct((len(env_state), 2 * self.spec.obs_dim + 4), jnp.float32), env_state, after)
        return self.unpack(env_state, obs, action, rows)

    def unpack(self, env_state: Array, obs: Array, action: Array, rows: Array) -> tuple[Array, Array, Transition]:
        """Unpacks the `rows` `[..., 2 * O + 4]` of a step: successor, observation, reward, terminated, last, status."""
        size = self.spec.obs_dim
        reward, terminated, last, status = jnp.moveaxis(rows[..., 2 * size :], -1, 0)
        transition = Transition(obs, action, reward, 1.0 - terminated, last > 0, rows[..., :size])
        state = jnp.concatenate([env_state[..., :2], status[..., None].astype(jnp.int32)], axis=-1)
        return state, rows[..., size : 2 * size], transition

    def rollout(
        self,
        act: Callable[[Params, Array], Array],
        key: Key,
        params: Params,
        *,
        episodes: int,
        owner: Array,
        shared: bool = False,
    ) -> Episodes:
        """See `Outside.rollout`."""
        count, size = 1 if shared else min(episodes, EVALUATED_AT_ONCE), self.spec.obs_dim
        row_type = jax.ShapeDtypeStruct((2 + count * size,), jnp.float32)
        number = jnp.int32(self.number)
        begin = _begin_shared if shared else _begin
        first = begin(row_type, number, owner, jax.random.key_data(key), jnp.int32(episodes))

        def step(row: Array) -> Array:
            action = act(params, row[2:].reshape(count, size))
            return _play(row_type, number, row[0].astype(jnp.int32), action)

        row = jax.lax.while_loop(lambda row: row[1] == GO_ON, step, first)
        table = _end(jax.ShapeDtypeStruct((3, episodes), jnp.float32), number, row[0].astype(jnp.int32))
        return Episodes(table[0], table[1].astype(jnp.int32), table[2])

    def failure(self, env_states: Any) -> BaseException | None:
        """See `Outside.failure`."""
        numbers = [0, *np.asarray(env_states).reshape(-1, 3)[:, 1].tolist()]
        found = [self.failures.pop(number) for number in numbers if number in self.failures]
        return found[0] if found else None

    def save(self, env_states: Any) -> str | None:
        """See `Outside.save`."""
        return snapshots.snapshot([lane.env for lane in self._of(env_states).values()])

    def load(self, text: str, obs: np.ndarray) -> np.ndarray:
        """See `Outside.load`."""
        flat = obs.reshape(-1, obs.shape[-1])
        numbers = [self.open() for _ in flat]
        for number, one in zip(numbers, flat, strict=True):
            self.lanes[number].reset(0)
            self.lanes[number].obs = one
        snapshots.restore([self.lanes[number].env for number in numbers], text)
        return np.array([(self.number, number, GO_ON) for number in numbers], np.int32).reshape(*obs.shape[:-1], 3)

    def seed(self, *words: int) -> None:
        """See `Outside.seed`."""
        self.generators.seed(*words)

    def release(self, env_states: Any) -> None:
        """See `Outside.release`."""
        for number in self._of(env_states):
            self.pool.give_back([self.lanes.pop(number)])

    def close(self, env_states: Any) -> None:
        """See `Outside.close`."""
        for number, lane in self._of(env_states).items():
            del self.lanes[number]
            lane.close()
        if not self.lanes:
            self.broken = None
            self.pool.close()
            self.generators.restore()

    def _of(self, env_states: Any) -> dict[int, Lane]:
        numbers = np.asarray(env_states, np.int32).reshape(-1, 3)[:, 1].tolist()
        return {number: self.lanes[number] for number in numbers if number in self.lanes}


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, rows.shape[-1])


def _answer_reset(pool: np.ndarray, words: np.ndarray, rows: np.ndarray) -> None:
    """Resets: `[...], [..., 2] -> [..., 2 + O]`, the number of each lane, its status and its first observation."""
    envs = _known[int(pool.flat[0])]

    def reset() -> None:
        for word, row in zip(_flat(words).tolist(), _flat(rows), strict=True):
            number = 0
            row[:] = 0.0
            try:
                number = envs.open()
                row[2:] = envs.lanes[number].reset(episode_seeds(word, 1)[0])
                row[1] = GO_ON
            except BaseException as error:
                envs.failures[number] = error
                row[1] = FAILED
            row[0] = number

    envs.threads.ask(reset)


def _step(envs: HostEnvs, states: np.ndarray, actions: np.ndarray, rows: np.ndarray) -> None:
    """Steps each environment, `[..., 3], [..., A] -> [..., 2 * O + 4]`; see `HostEnvs.unpack`."""
    size, envs.begun = envs.spec.obs_dim, time.monotonic()
    for number, action, row in zip(_flat(states)[:, 1].tolist(), envs.native(actions), _flat(rows), strict=True):
        lane = envs.lanes.get(number)
        if lane is None:  # closed by a second Ctrl-C
            row[:] = (*[0.0] * (len(row) - 1), FAILED)
            continue
        row[-1] = GO_ON if not stopping.is_set() else STOP
        try:
            if envs.broken:
                raise envs.broken
            row[-4], row[-3], row[-2] = result = lane.step(action)
            row[:size] = lane.obs
            row[size:-4] = lane.reset() if result[2] else lane.obs
        except BaseException as error:  # including KeyboardInterrupt, which is raised again when the program has ended
            envs.failures[number] = error
            row[:size] = row[size:-4] = lane.obs
            row[-4:] = (0.0, 0.0, 0.0, FAILED)
    envs.begun = math.inf


def _answer_step(states: np.ndarray, actions: np.ndarray, rows: np.ndarray) -> None:
    envs = _known[int(states.flat[0])]
    envs.threads.ask(functools.partial(_step, envs, states, actions, rows))


def _answer_send(states: np.ndarray, actions: np.ndarray, same: np.ndarray) -> None:
    """Begins a step, and returns the states unchanged."""
    envs = _known[int(states.flat[0])]
    same[:] = states
    rows = np.zeros((*states.shape[:-1], 2 * envs.spec.obs_dim + 4), np.float32)
    step = functools.partial(_step, envs, states.copy(), actions.copy(), rows)
    envs.under_way[int(states.flat[1])] = envs.threads.post(step), rows


def _answer_receive(states: np.ndarray, after: np.ndarray, rows: np.ndarray) -> None:
    """Waits for a step in progress."""
    del after
    envs = _known[int(states.flat[0])]
    wait, found = envs.under_way.pop(int(states.flat[1]))
    wait()
    rows[:] = found


def _answer_begin(
    pool: np.ndarray, owner: np.ndarray, words: np.ndarray, episodes: np.ndarray, rows: np.ndarray, *, shared: bool = False
) -> None:
    """Begins evaluations: `[...] -> [..., 2 + lanes * O]`, the number of each, its status and its first observations.

    If `shared`, each takes place in the lane of its owner, if there is one.
    """
    envs = _known[int(pool.flat[0])]

    def begin() -> None:
        for lane, word, row in zip(owner.ravel().tolist(), _flat(words).tolist(), _flat(rows), strict=True):
            row[:] = 0.0
            number = next(envs._numbers)
            try:
                seeds = episode_seeds(word, int(episodes.flat[0]))
                lanes = [envs.lanes[lane]] if shared and lane in envs.lanes else []
                while len(lanes) < (1 if shared else min(len(seeds), EVALUATED_AT_ONCE)):
                    lanes.append(envs.pool.take())
                evaluation = Evaluation(lanes, seeds, envs.spec.obs_dim, endless=envs.spec.max_steps is None)
                envs.evaluations[number] = lane, evaluation
                evaluation.begin()
                row[1], row[2:] = GO_ON, evaluation.obs.ravel()
            except BaseException as error:
                envs.failures[lane] = error
                row[1] = FAILED
            row[0] = number

    envs.threads.ask(begin)


def _answer_play(pool: np.ndarray, numbers: np.ndarray, actions: np.ndarray, rows: np.ndarray) -> None:
    """Steps evaluations, `[...], [..., lanes, A]`, with results as in `_answer_begin`; those that are over do nothing."""
    envs = _known[int(pool.flat[0])]

    def play() -> None:
        each, envs.begun = actions.reshape(-1, *actions.shape[-2:]), time.monotonic()
        for number, some, row in zip(numbers.ravel().tolist(), each, _flat(rows), strict=True):
            lane, evaluation = envs.evaluations[number]
            row[:2] = (number, STOP)
            try:
                # Under `vmap`, one that failed is asked until all others are over.
                if not stopping.is_set() and lane not in envs.failures and evaluation.step(envs.native(some)):
                    row[1] = GO_ON
                if evaluation.due():
                    for watcher in watchers:
                        watcher(int(np.isfinite(evaluation.returns).sum()), len(evaluation.returns))
            except BaseException as error:
                envs.failures[lane] = error
            row[2:] = evaluation.obs.ravel()
        envs.begun = math.inf

    envs.threads.ask(play)


def _answer_end(pool: np.ndarray, numbers: np.ndarray, tables: np.ndarray) -> None:
    """Ends evaluations: `[..., 3, episodes]`, the fields of `Episodes`. Their environments become idle."""
    envs = _known[int(pool.flat[0])]
    tables[:] = np.nan
    for number, table in zip(numbers.ravel().tolist(), tables.reshape(-1, *tables.shape[-2:]), strict=True):
        if number in envs.evaluations:
            _, evaluation = envs.evaluations.pop(number)
            with np.errstate(over="ignore"):  # an infinite return is reported
                table[:] = evaluation.returns, evaluation.lengths, evaluation.successes
            envs.pool.give_back(one for one in evaluation.lanes if one not in envs.lanes.values())


_reset = python_call("ddpg_jax_reset", _answer_reset)
_stepped = python_call("ddpg_jax_step", _answer_step)
_send = python_call("ddpg_jax_send", _answer_send)
_receive = python_call("ddpg_jax_receive", _answer_receive)
_begin = python_call("ddpg_jax_begin", _answer_begin)
_begin_shared = python_call("ddpg_jax_begin_shared", functools.partial(_answer_begin, shared=True))
_play = python_call("ddpg_jax_play", _answer_play)
_end = python_call("ddpg_jax_end", _answer_end)


def host_env(make: Callable[[], Any], name: str, reward_threshold: float | None = None, *, order: str = "textbook") -> Env:
    """Makes an `Env` from the Gymnasium environments that `make()` returns.

    Args:
        make: makes one environment.
        name: the name used in reports.
        reward_threshold: mean return at which the environment counts as solved.
        order: `textbook`, or `overlapped` to step environments in the thread that calls the program, which goes on meanwhile.

    Raises:
        ConfigError: the function fails or makes no environment, or DDPG does not support its spaces.
    """
    envs = HostEnvs(make, name, reward_threshold, order=order)

    def reset(key: Key) -> tuple[Array, Array]:
        number = jnp.int32(envs.number)
        row = _reset(jax.ShapeDtypeStruct((2 + envs.spec.obs_dim,), jnp.float32), number, jax.random.key_data(key))
        return jnp.stack([number, row[0].astype(jnp.int32), row[1].astype(jnp.int32)]), row[2:]

    def step(key: Key, env_state: Array, obs: Array, action: Array) -> tuple[Array, Array, Transition]:
        chex.assert_shape(action, (envs.spec.action_dim,), custom_message="Env.step: action must be [A]")
        del key  # an environment has its own random numbers, seeded at its first reset
        row = _stepped(jax.ShapeDtypeStruct((2 * envs.spec.obs_dim + 4,), jnp.float32), env_state, jnp.nan_to_num(action))
        return envs.unpack(env_state, obs, action, row)

    return Env(envs.spec, reset, step, envs)
