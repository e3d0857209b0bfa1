"""Gymnasium environments on the host: only what really happened is told and stored, and nothing that goes wrong is lost."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter as Counted
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle

import ddpg_jax as dj
from ddpg_jax.envs.host import callback, host_env, make_host, stopping
from ddpg_jax.envs.host.callback import HostEnvs
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.errors import Interrupted
from ddpg_jax.replay.ring import unpack
from ddpg_jax.running.compiled import functions_of
from ddpg_jax.running.hardware import bytes_of
from ddpg_jax.running.program import Program
from ddpg_jax.training.loop import make_training
from ddpg_jax.training.step import gradient_steps, store, stream
from tests.agents import mlp_agent
from tests.hosts import Counter, Faulty, Row, Vector


def action_at(obs: np.ndarray) -> np.ndarray:
    """Some action `[N, 1]` in [-1, 1] that depends on nothing but the observation `[N, 3]`."""
    return np.sin(obs @ np.array([1.0, 3.0, 7.0], np.float32))[:, None]


def plain_loop(lane: int, steps: int) -> list[Row]:
    """The truth: a `Counter` alone, reset by hand."""
    env = Counter(lane)
    obs, _ = env.reset()
    for _ in range(steps):
        obs, _, terminated, truncated, _ = env.step(action_at(obs[None])[0])
        if terminated or truncated:
            obs, _ = env.reset()
    return env.diary


def assert_same_rows(rows: list[Row], truth: list[Row]) -> None:
    for row, true in zip(rows, truth, strict=True):
        for part, true_part in zip(row, true, strict=True):
            np.testing.assert_allclose(part, true_part, rtol=1e-6)


def test_a_compiled_loop_is_told_what_a_plain_loop_tells() -> None:
    number = itertools.count()
    env = Vector(lambda: Counter(next(number)), 2)
    obs = env.reset()
    lanes: list[list[Row]] = [[], []]
    for _ in range(40):
        action = action_at(obs)
        step = env.step(action)
        for n in range(2):
            lanes[n].append((obs[n], action[n], step.reward[n], step.terminated[n], step.last[n], step.next_obs[n]))
            expected = [n, obs[n, 1] + 1, 0] if step.last[n] else step.next_obs[n]
            np.testing.assert_array_equal(step.obs[n], expected)
        obs = step.obs
    for n, rows in enumerate(lanes):
        assert_same_rows(rows, plain_loop(n, len(rows)))


class Shaped(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations `[2, 3]` float64, actions `[2, 2]` with other bounds in every place; it keeps the actions it was given."""

    observation_space = Box(-np.inf, np.inf, (2, 3), np.float64)

    def __init__(self, dtype: Any):
        low, high = np.array([[-1.0, 0.0], [0.1, -3.3]], dtype), np.array([[3.0, 10.0], [0.7, -1.1]], dtype)
        self.action_space = Box(low, high, dtype=dtype)
        self.seen: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.arange(6.0).reshape(2, 3), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.seen.append(action.copy())
        return np.arange(6.0).reshape(2, 3) + 1 / 3, 0.0, False, True, {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_reach_the_environment_in_its_own_units_shape_and_type(dtype: Any) -> None:
    shaped = Shaped(dtype)
    env = Vector(lambda: shaped)
    env.reset()
    space, corners = shaped.action_space, np.array([[-1.0] * 4, [1.0] * 4, [0.0] * 4, [-1.0, 1.0, 0.0, -1.0]], np.float32)
    for action in corners:
        env.step(action[None])
    low, high, middle, mixed = shaped.seen
    np.testing.assert_array_equal(low, space.low)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(high, space.high)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(middle, (space.low + space.high) / 2, rtol=1e-6)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(mixed, [[-1.0, 10.0], [0.4, -3.3]], rtol=1e-6)

    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (200, 1, 4)).astype(np.float32):
        env.step(action)
    assert all(space.contains(action) for action in shaped.seen)  # its shape, its type, within its bounds
    assert {action.dtype for action in shaped.seen} == {np.dtype(dtype)}


def test_observations_come_flat_and_float32() -> None:
    env = Vector(lambda: Shaped(np.float32), 2)
    assert (env.spec.obs_dim, env.spec.action_dim) == (6, 4)
    obs = env.reset()
    step = env.step(np.zeros((2, 4), np.float32))
    for array, shift in ((obs, 0.0), (step.next_obs, 1 / 3), (step.obs, 0.0)):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.tile(np.arange(6.0) + shift, (2, 1)).astype(np.float32))


def test_a_policy_takes_and_gives_the_shapes_of_the_environment() -> None:
    shaped = Shaped(np.float32)
    env = HostEnvs(lambda: shaped, "Shaped", None, order="textbook")
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(4, (8,)), 6))(jax.random.key(0))
    policy = dj.Policy(env.spec, params, fields={"hidden": (8,)})
    assert policy(np.zeros((5, 2, 3))).shape == (5, 2, 2)
    action = policy(np.ones((2, 3)))
    assert shaped.action_space.contains(action)
    unit = np.asarray(policy.unit_action(params, jnp.ones(6)))
    np.testing.assert_allclose(action, env.native(unit[None])[0], rtol=1e-6)  # as it trained


def test_a_policy_keeps_to_bounds_that_are_no_float32() -> None:
    """The float32 nearest to -.1 is below it, that nearest to 10.1 above."""
    space = Box(np.array([-0.1, 0.0]), np.array([0.7, 10.1]), dtype=np.float64)
    spec = spec_of("Fine", Box(-1.0, 1.0, (1,)), space, max_steps=None)
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(2, (8,)), 1))(jax.random.key(0))
    for bias in (-50.0, 50.0):
        params["action"]["bias"] = jnp.array([bias, -bias])
        action = dj.Policy(spec, params, fields={"hidden": (8,)})(np.zeros(1))
        assert space.contains(action)
        np.testing.assert_allclose(action[0], space.low[0] if bias < 0 else space.high[0], atol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        Box(-2.0, 2.0, ()),
        Box(np.array([1e6]), np.array([1e6 + 1]), dtype=np.float64),
    ],
    ids=["scalar", "offset"],
)
def test_a_policy_acts_as_it_did_in_training(space: Box) -> None:
    """Whatever the bounds: where float32 does not hold what lies between them, too."""

    class Bounded(Shaped):
        def __init__(self) -> None:
            super().__init__(space.dtype)
            self.action_space = space

    env = HostEnvs(Bounded, "Bounded", None, order="textbook")
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(1, (8,), final_bound=None), 6))(jax.random.key(0))
    policy = dj.Policy(env.spec, params, fields={"hidden": (8,)})
    action = policy(np.ones((2, 3)))
    assert space.contains(action), action
    np.testing.assert_array_equal(action, env.native(np.asarray(policy.unit_action(params, jnp.ones((1, 6)))))[0])


class Buffered(Counter):
    """Gives the same array at every step, and writes into it."""

    def __init__(self, lane: int = 0):
        super().__init__(lane)
        self.buffer = np.zeros(3, np.float32)

    def observe(self) -> np.ndarray:
        self.buffer[:] = super().observe()
        return self.buffer


def test_the_last_observation_of_an_episode_outlives_the_reset() -> None:
    env = Vector(Buffered)
    obs = env.reset()
    for _ in range(20):
        step = env.step(action_at(obs))
        assert step.next_obs[0, 1:].tolist() == [obs[0, 1], obs[0, 2] + 1], "the next one of the same episode"
        obs = step.obs.copy()


class Limb:
    """A part that knows the whole."""

    def __init__(self, env: Any):
        self.env = env

    def move(self, action: np.ndarray) -> Any:
        return Counter.step(self.env, action)


class Tied(Counter):
    """Acts through what points back to it: a part and a method of its own."""

    def __init__(self, lane: int = 0):
        super().__init__(lane)
        self.limb, self.look = Limb(self), self.observe

    def step(self, action: np.ndarray) -> Any:
        _, *rest = self.limb.move(action)
        return self.look(), *rest


class Viewed(Counter):
    """Counts in a view of an array that it looks at."""

    def __init__(self, lane: int = 0):
        super().__init__(lane)
        self.memory = np.zeros((200, 3), np.float32)  # pickle treats what is larger than 1,000 bytes in another way
        self.counted, self.sure = self.memory.T[::-1][1:2], np.broadcast_to(self.memory[0], (2, 3))

    def observe(self) -> np.ndarray:
        return super().observe() + self.memory[0]

    def step(self, action: np.ndarray) -> Any:
        self.counted += 1
        assert not self.sure.flags.writeable
        assert (self.sure[1] == self.memory[0]).all()
        return super().step(action)


class Composed(Counter):
    """Acts through an environment that it holds, and that remembers how it was made; its `env` is none."""

    class Inner(EzPickle, Counter):
        def __init__(self, lane: int):
            EzPickle.__init__(self, lane)
            Counter.__init__(self, lane)

    def __init__(self, lane: int = 0):
        super().__init__(lane)
        self.env, self.inner = "production", self.Inner(lane)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.inner.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> Any:
        return self.inner.step(action)


class Circular(Counter):
    """Is its own `env`."""

    def __init__(self, lane: int = 0):
        super().__init__(lane)
        self.env = self


def in_wrappers() -> Any:
    """Those of Gymnasium keep functions, which cannot be pickled."""
    from gymnasium.wrappers import RescaleAction, TimeAwareObservation

    return TimeAwareObservation(RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1.0), np.float32(1.0)))


@pytest.mark.parametrize("make", [Tied, Viewed, Composed, Circular, in_wrappers], ids=lambda make: make.__name__)
def test_what_is_one_thing_in_an_environment_is_one_after_a_restore(make: Any) -> None:
    """Pickled with what it points to, a part would go on in a copy of the environment, and the environment stand still."""
    env, fresh = (Vector(make, 2) for _ in range(2))
    env.reset(0)
    env.play(5, seed=0)
    snapshot = env.snapshot()
    assert snapshot is not None
    truth = env.play(20, seed=1)
    fresh.reset(1)
    fresh.restore(snapshot)
    again = fresh.snapshot()
    assert again is not None, "what was read can be written"
    fresh.restore(again)
    for step, true in zip(fresh.play(20, seed=1), truth, strict=True):
        for part, true_part in zip(step, true, strict=True):
            np.testing.assert_array_equal(part, true_part)
    other = Vector(Counter)
    other.reset()
    with pytest.raises(dj.EnvironmentFailure, match="cannot be restored"):
        other.restore(snapshot)


class Talkative(Counter):
    """Tells all kinds of things besides."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, _ = super().reset(seed=seed)
        return obs, {"final_obs": obs * 0 + 99, "final_info": "none", 3: "x"}

    def step(self, action: np.ndarray) -> Any:
        told = {"contacts": np.zeros(self.clock), "reached": None if self.clock < 2 else self.clock}
        return *super().step(action)[:4], told


def test_what_an_environment_tells_besides_is_nothing_to_training() -> None:
    """Vectors put infos together, which need the same shapes, and keep the last observation there, under `final_obs`."""
    env = Vector(Talkative, 2)
    env.reset()
    assert all((step.next_obs < 9).all() for step in env.play(12, seed=0))


FAULTS = {
    "raises": r"raised ValueError: the motor is on fire",
    "NaN reward": r"gave nan as reward",
    "infinite reward": r"gave inf as reward",
    "huge reward": r"gave 1e\+40 as reward",
    "NaN observation": r"gave nan as observation",
    "other shape": r"^gave an observation of shape \(2,\); its space says \(3,\)",
    "two rewards": r"^gave a reward of shape \(2,\); it must be one number",
    "no reward": r"^gave None as reward; it must be a number",
    "old step": r"^gave 4 values from step; it must give obs, reward, terminated",
    "reset raises": r"raised ValueError: the doors are shut",
    "reset gives NaN": r"gave nan as observation",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_environment_is_named(fault: str) -> None:
    env = Vector(lambda: Faulty(fault), 2)
    env.reset()
    with pytest.raises(dj.EnvironmentFailure, match=FAULTS[fault]):
        env.play(4, seed=0)


SHORT = {"steps": 8, "warmup_steps": 8, "batch_size": 4, "num_envs": 2, "hidden": (8,), "eval_episodes": 1}


MAKERS: dict[str, tuple[Any, str]] = {
    "nothing": (lambda: None, r"^env=<lambda> makes a NoneType; it must make a gymnasium.Env$"),
    "several": (lambda: gymnasium.make_vec("Pendulum-v1", 2), r"makes a SyncVectorEnv; it must make a gymnasium.Env$"),
    "no spaces": (gymnasium.Env, r"^env=Env has no observation_space"),
    "fails": (lambda: 1 / 0, r"^env=<lambda> cannot be made: ZeroDivisionError.*\(test_host.py, line \d+\)$"),
    "an argument": (lambda x: x, r"^env=<lambda> cannot be made: TypeError: .* missing 1 required"),
    "made": (gymnasium.make("Pendulum-v1"), r"^env=Pendulum-v1 is one environment; .* lambda: gymnasium.make"),
    "a number": (3, r"^env=3 is not allowed; it must be a name"),
    "none": (None, r"^env=None is not allowed; it must be a name"),
}


@pytest.mark.parametrize("what", MAKERS)
def test_what_is_no_function_that_makes_an_environment_is_refused(what: str) -> None:
    make, sentence = MAKERS[what]
    with pytest.raises(dj.ConfigError, match=sentence):
        dj.train(make, **SHORT)


def test_members_that_have_diverged_step_no_environment() -> None:
    experiment, hyper = dj.configure({**SHORT, "backend": "host"})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    state, _, _ = program.advance(program.start(), 0, 4, active=np.ones(1, bool))
    before = jax.tree.map(np.array, program.save(state))
    state, metrics, _ = program.advance(state, 4, 9, active=np.zeros(1, bool))
    for one, other in zip(jax.tree.leaves(program.save(state)[0]), jax.tree.leaves(before[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert program.save(state)[1] == before[1]
    assert not any(count.any() for count in metrics.counts.values())
    program.close()


def test_a_failure_in_the_first_reset_is_an_environment_failure() -> None:
    def make() -> Faulty:
        env = Faulty("reset raises")
        env.episode = 0
        return env

    with pytest.raises(dj.EnvironmentFailure, match=r"raised ValueError: the doors are shut"):
        dj.train(make, **SHORT)


def test_a_failure_in_an_evaluation_names_the_step() -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter() if len(made) < 2 else Faulty("raises"))  # two to train with, then one to evaluate with
        made[-1].episode = 0  # the one after the trial is the third, which is long enough
        return made[-1]

    with pytest.raises(dj.EnvironmentFailure, match=r"^env=make raised ValueError: the motor is on fire.* step 8\b"):
        dj.train(make, **SHORT)


def test_an_evaluation_that_failed_is_left_alone_while_others_play() -> None:
    """Under `vmap`, they are stepped together until all have ended."""
    made: list[Counter] = []
    asked: list[int] = []

    class Stuck(Counter):
        def step(self, action: np.ndarray) -> Any:
            if self.episode == 2 and self.clock == 1 and self is made[2]:
                asked.append(len(asked))
                raise ValueError(f"the motor is on fire, for the {len(asked)}. time")
            return super().step(action)

    def make() -> Counter:
        made.append(Stuck())
        made[-1].episode = 0 if len(made) > 2 else -1  # those that play have four steps after the trial
        return made[-1]

    with pytest.raises(dj.EnvironmentFailure, match=r"on fire, for the 1\. time"):
        dj.sweep(make, seeds=2, placement="vmap", **{**SHORT, "num_envs": 1})
    assert len(asked) == 1


def test_an_evaluation_without_end_asks_for_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Counter):
        def step(self, action: np.ndarray) -> Any:
            obs, reward, *_ = super().step(action)
            return obs, reward, False, False, {}

    monkeypatch.setattr("ddpg_jax.envs.host.evaluation.LONGEST", 30)
    with pytest.raises(
        dj.EnvironmentFailure, match=r"needs a time limit, max_episode_steps=N .*; an episode has not ended after 30 steps"
    ):
        dj.train(Endless, **SHORT)
    dj.train(Counter, **SHORT)  # it has no time limit, but ends


def short(name: str) -> Vector:
    return Vector(lambda: gymnasium.make(name, max_episode_steps=50), 2)


@pytest.mark.parametrize("name", ["Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5"])
def test_a_snapshot_goes_on_exactly(name: str) -> None:
    if name != "Pendulum-v1":
        pytest.importorskip("mujoco")
    env = short(name)
    env.reset(3)
    env.play(30, seed=0)
    snapshot = env.snapshot()
    assert snapshot is not None
    truth = env.play(90, seed=1)  # over the time limit and the resets after it
    assert sum(step.last.sum() for step in truth) >= 2

    fresh = short(name)
    fresh.reset(5)
    for other in (env, fresh):
        other.restore(snapshot)
        for step, true in zip(other.play(90, seed=1), truth, strict=True):
            for part, true_part in zip(step, true, strict=True):
                np.testing.assert_array_equal(part, true_part)


@pytest.mark.parametrize(
    "what", [threading.Lock(), np.array([None, 1, 2])[:1], np.ma.array([1.0, 2.0])], ids=["lock", "objects", "mask"]
)
def test_what_cannot_be_written_has_no_snapshot(what: Any) -> None:
    """Locks, and views that would not be views any more."""
    env = Counter()
    env.what = what  # pyright: ignore[reportAttributeAccessIssue]
    host = Vector(lambda: env)
    host.reset()
    assert host.snapshot() is None


@pytest.fixture
def never_stopped() -> Iterator[None]:
    yield
    stopping.clear()


def test_training_stores_what_happened_and_nothing_else() -> None:
    """Two members with two environments each; the environments' own diaries are the truth."""
    fields = {"steps": 300, "warmup_steps": 100, "eval_every": 300, "num_envs": 2, "hidden": (16, 16), "eval_episodes": 1}
    experiment, hyper = dj.configure({**fields, "env": "Counter", "replay_capacity": 400})
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter(len(made)))
        return made[-1]

    program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in (0, 1)], make)
    for env in made:
        env.diary.clear()  # of the trial
    state, rows = program.start(), []
    for tick in dj.run_blocks(program, experiment, state):
        state, rows = tick.state, rows + tick.rows
    assert [row["eval_length_mean"] for row in rows] in ([1.0, 1.0], [1.0, 4.0])  # of one environment, one after the other
    assert all(np.isfinite(row["critic_loss"]) for row in rows)
    kept = program.save(state)[0]
    for m in range(2):
        replay = jax.tree.map(lambda leaf, m=m: leaf[m], kept.replay)
        for n in range(2):
            diary = made[int(kept.obs[m, n, 0])].diary
            size = int(replay.size[n])
            assert size == len(diary) == 150
            stored = unpack(replay.rows[n :: experiment.num_envs][:size], 3, 1)
            terminated = 1.0 - np.asarray(stored.discount)
            parts = (stored.obs, stored.action, stored.reward, terminated, stored.last, stored.next_obs)
            assert_same_rows(list(zip(*(np.asarray(part) for part in parts), strict=True)), diary)


class Twin(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point that is pushed along a line, in NumPy; it always starts at the same place."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.x = np.full(1, 0.5, np.float32)
        return self.x.copy(), {}

    def step(self, action: np.ndarray) -> Any:
        self.x = np.float32(0.9) * self.x + np.float32(0.1) * action
        return self.x.copy(), -float(np.abs(self.x[0])), False, False, {}


def twins(order: str = "textbook") -> tuple[dj.Env, dj.Env]:
    """The same environment on the device and on the host, truncated after 15 steps."""
    spec = dj.EnvSpec("Twin", (1,), (1,), (-2.0,), (2.0,), max_steps=15)

    def advance(key: Any, x: Any, action: Any) -> Any:
        del key
        x = 0.9 * x + 0.1 * action
        return x, -jnp.abs(x[0]), False

    device = dj.envs.make_env(spec, lambda key: jnp.full(1, 0.5), advance, observe=lambda x: x)
    return device, host_env(lambda: gymnasium.wrappers.TimeLimit(Twin(), 15), "Twin", order=order)


def parts() -> Any:
    agent = mlp_agent(1, 1, hidden=(16,))
    return agent, dj.replay.uniform(1, 1, capacity=200, batch_size=16, num_envs=2)


NOISE = dj.exploration.ornstein_uhlenbeck(1, dj.schedules.SCHEDULES["linear"])
WARMUP: dict[str, Any] = {"explorer": NOISE, "warmup": dj.exploration.uniform(1)}


def assert_close(state: Any, expected: Any) -> None:
    for name in ("replay", "train", "obs", "returns", "noise"):
        for one, other in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(expected, name)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


KEY, HYPER = jax.random.key(0), dj.Hyperparams(actor_lr=1e-3, noise_decay_steps=100.0)


def trained(env: dj.Env, updates: int = 1) -> Any:
    training = make_training(env, *parts(), **WARMUP, num_envs=2, updates=updates)
    state = jax.jit(training.init)(KEY, HYPER)
    state, _ = jax.jit(training.fill)(KEY, state, HYPER, 0, 40)
    state, metrics = jax.jit(training.learn)(KEY, state, HYPER, 40, 80)
    assert metrics.done == 80
    return state


@pytest.mark.parametrize("updates", [1, 3])
def test_host_and_device_training_are_one_algorithm(updates: int) -> None:
    device, host = twins()
    state = trained(host, updates)
    assert (state.replay.size == 80).all()
    assert_close(state, trained(device, updates))


def test_overlapped_order_is_what_it_says() -> None:
    """Beside the pure parts, called one after the other: act, update from what was there before, store."""
    device, host = twins("overlapped")
    agent, replay = parts()
    training = make_training(device, *parts(), **WARMUP, num_envs=2)
    expected, _ = jax.jit(training.fill)(KEY, jax.jit(training.init)(KEY, HYPER), HYPER, 0, 40)

    @jax.jit
    def turn(state: Any, i: Any) -> Any:
        key, params = stream(KEY, "explore", i), state.train.params.actor
        action, noise = NOISE.explore(key, state.noise, agent.act, params, state.obs, HYPER, i * 2)
        state, _ = gradient_steps(agent, replay, KEY, state, HYPER, updates=1, i=i)
        keys = jax.random.split(stream(KEY, "env", i), 2)
        env_state, obs, transition = jax.vmap(device.step)(keys, state.env, state.obs, action)
        state, _ = store(agent, replay, state, transition=transition, valid=jnp.ones(2, bool))
        return replace(state, env=env_state, obs=obs, noise=NOISE.reset(noise, transition.last))

    for i in range(40, 80):
        expected = turn(expected, jnp.int32(i))
    assert_close(trained(host), expected)


def failing(order: str) -> tuple[Program, Any]:
    """A program whose environment fails at the 20th step, the tenth after the warm-up of 10."""
    fields = {**SHORT, "steps": 40, "warmup_steps": 10, "num_envs": 1, "env": "Counter", "host_order": order}

    steps: list[Any] = []

    class Late(Counter):
        def step(self, action: np.ndarray) -> Any:
            steps.append(action)
            if len(steps) == 20:
                raise ValueError("the motor is on fire")
            return super().step(action)

    experiment, hyper = dj.configure(fields)
    program = dj.make_program(experiment, [dj.Member(0, hyper)], Late)
    steps.clear()  # those of the trial
    state, _, _ = program.advance(program.start(), 0, 10, active=np.ones(1, bool))
    return program, state


def test_a_failure_ends_the_loop_and_leaves_the_state_before_the_step() -> None:
    active = np.ones(1, bool)
    program, state = failing("textbook")
    state, metrics, _ = program.advance(state, 10, 30, active=active)
    assert (metrics.done.tolist(), metrics.bad_step.tolist()) == ([19], [19])
    other, expected = failing("textbook")
    expected, before, _ = other.advance(expected, 10, 19, active=active)
    for name in ("train", "replay", "returns"):  # the rest starts anew with the environment
        found, true = (getattr(p.save(s)[0], name) for p, s in ((program, state), (other, expected)))
        jax.tree.map(np.testing.assert_array_equal, found, true)
    assert metrics.counts == before.counts
    with pytest.raises(dj.EnvironmentFailure, match=r"^raised ValueError: the motor is on fire .* at step 20$") as failure:
        program.raise_failure(metrics)
    assert isinstance(failure.value.__cause__.__cause__, ValueError), "with the user's own traceback"  # pyright: ignore
    program.close()
    other.close()


@pytest.mark.parametrize("order", ["textbook", "overlapped"])
def test_training_ends_with_the_failure_in_every_order(order: str) -> None:
    said = r"^env=<lambda> raised ValueError: the motor is on fire \(hosts.py, line \d+\) at step 8$"
    with pytest.raises(dj.EnvironmentFailure, match=said):
        # The third step of an episode; one was begun in the trial, and the next has one step.
        dj.train(lambda: Faulty("raises"), **SHORT, host_order=order)
    with pytest.raises(KeyboardInterrupt):
        dj.train(lambda: Faulty("Ctrl-C"), **SHORT, host_order=order)


class Asked(Counter):
    """Asks for a stop at one step of its life, after those of any trial."""

    at = 40

    def step(self, action: np.ndarray) -> Any:
        if len(self.diary) == self.at:
            stopping.set()
        return super().step(action)


@pytest.mark.parametrize("order", ["textbook", "overlapped"])
@pytest.mark.usefixtures("never_stopped")
def test_a_stop_ends_each_member_after_its_step_and_leaves_no_trace(order: str) -> None:
    """Members are at different steps then; all go on from their own."""
    fields = {**SHORT, "steps": 60, "warmup_steps": 10, "num_envs": 1, "eval_every": 60, "host_order": order}
    experiment, hyper = dj.configure({**fields, "env": "Counter"})

    def run(make: Any) -> tuple[Any, list[Any]]:
        program = dj.make_program(experiment, [dj.Member(seed, hyper) for seed in (0, 1, 2)], make)
        ticks, state = [], program.start()
        for tick in dj.run_blocks(program, experiment, state):
            stopping.clear()
            ticks.append(tick)
            state = tick.state
        saved = program.save(state)[0]
        program.close()
        return saved, ticks

    found, ticks = run(Asked)
    expected, _ = run(Counter)
    stopped = [tick for tick in ticks if len(set(tick.journal.reached or [])) > 1]
    assert stopped, "a member was stopped before the others"
    assert all(tick.iteration == min(tick.journal.reached) for tick in stopped)
    for one, two in zip(jax.tree.leaves(found.train), jax.tree.leaves(expected.train), strict=True):
        np.testing.assert_array_equal(one, two)
    assert ticks[-1].rows[0]["train_return_mean"] > 0


class Slow(Counter):
    """50 ms a step; its evaluation takes half a minute."""

    def step(self, action: np.ndarray) -> Any:
        time.sleep(0.05)
        obs, reward, *_ = super().step(action)
        return obs, reward, False, len(self.diary) % 600 == 0, {}


@pytest.mark.parametrize("what", ["learn", "evaluate"])
@pytest.mark.usefixtures("never_stopped")
def test_a_stop_is_obeyed_within_a_step(what: str) -> None:
    experiment, hyper = dj.configure({**SHORT, "env": "Slow", "num_envs": 1, "steps": 4_000})
    program = dj.make_program(experiment, [dj.Member(0, hyper)], Slow)
    state, active = program.start(), np.ones(1, bool)
    program.memory()  # compiles
    if what == "learn":
        state, _, _ = program.advance(state, 0, 8, active=active)
    timer = threading.Timer(1.0, stopping.set)
    timer.start()
    since = time.monotonic()
    if what == "learn":
        _, metrics, _ = program.advance(state, 8, 4_000, active=active)
        assert metrics.done < 500
    else:
        with pytest.raises(Interrupted):
            program.evaluate(state, 0)
    assert time.monotonic() - since < 3.0
    program.close()


def test_ctrl_c_ends_training_from_python_within_a_step() -> None:
    """Here in a long evaluation, which is what the 40th of the steps is in."""
    since: list[float] = []

    class Hand(Slow):
        def step(self, action: np.ndarray) -> Any:
            since.append(time.monotonic())
            if len(since) == 40:
                signal.raise_signal(signal.SIGINT)
            return super().step(action)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            dj.train(Hand, **{**SHORT, "num_envs": 1, "steps": 9})
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - since[39] < 5.0
    assert not stopping.is_set()


class Mathematician(Counter):
    """Computes with JAX in `step`, much at once."""

    def __init__(self) -> None:
        super().__init__()
        self.product = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ x), x).sum())

    def step(self, action: np.ndarray) -> Any:
        assert np.isfinite(float(self.product(jnp.ones((300, 300)) * 1e-3)))
        return super().step(action)


@pytest.mark.parametrize("order", ["textbook", "overlapped"])
def test_an_environment_may_compute_with_jax(order: str) -> None:
    dj.train(Mathematician, **{**SHORT, "steps": 40}, host_order=order)


class Threaded(Counter):
    """Knows in which threads it was asked for something."""

    threads: set[int] = set()  # noqa: RUF012

    def reset(self, **options: Any) -> Any:
        self.threads.add(threading.get_ident())
        return super().reset(**options)

    def step(self, action: np.ndarray) -> Any:
        self.threads.add(threading.get_ident())
        return super().step(action)


def test_overlapped_steps_are_all_in_the_thread_that_trains() -> None:
    Threaded.threads.clear()
    dj.train(Threaded, **{**SHORT, "steps": 40}, host_order="overlapped")
    assert Threaded.threads == {threading.get_ident()}


def test_two_runs_in_two_threads_do_not_mix() -> None:
    found: dict[int, Any] = {}

    def run(seed: int) -> None:
        found[seed] = dj.train("Pendulum-v1", backend="host", **{**SHORT, "steps": 200}, seed=seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        alone = dj.train("Pendulum-v1", backend="host", **{**SHORT, "steps": 200}, seed=seed)
        np.testing.assert_array_equal(found[seed].returns, alone.returns)


def test_hundreds_of_environments_are_stepped_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls, step = itertools.count(), [], callback._step
    monkeypatch.setattr(callback, "_step", lambda *given: (calls.append(1), step(*given)))
    run = dj.train(lambda: Counter(next(made)), **{**SHORT, "num_envs": 300, "steps": 900, "updates_per_step": 1 / 300})
    assert np.isfinite(run.returns).all()
    assert next(made) <= 302
    assert len(calls) == 3


def test_evaluation_steps_nothing_after_the_last_episode_and_reuses_its_environments() -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    dj.train(make, **{**SHORT, "eval_episodes": 25})
    played = made[2:]  # two were trained in
    assert len(played) == 10
    ends = sum(row[4] for env in played for row in env.diary)
    assert ends == 25
    assert all(env.diary[-1][4] for env in played), "none was stepped after the end of its last episode"
    assert sum(env.episode for env in played) == 25, "nor reset, except in the trial"


@pytest.mark.parametrize("placement", ["map", "vmap"])
def test_a_sweep_is_its_runs_one_by_one(placement: str) -> None:
    fields = {**SHORT, "steps": 120, "warmup_steps": 20, "eval_every": 60, "backend": "host"}
    sweep = dj.sweep("Pendulum-v1", seeds=3, placement=placement, **fields)
    for seed in range(3):
        alone = dj.train("Pendulum-v1", seed=seed, **fields)
        np.testing.assert_allclose(sweep.returns[0, seed], alone.returns, rtol=1e-3 if placement == "vmap" else 1e-6)


def test_an_accelerator_would_call_by_way_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**SHORT, "steps": 60, "backend": "host"}
    expected = dj.train("Pendulum-v1", **fields)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    found = dj.train(lambda: gymnasium.make("Pendulum-v1"), **fields)
    np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-5)


def test_the_replay_is_written_in_place() -> None:
    experiment, hyper = dj.configure({"backend": "host", "replay_capacity": 1_000_000, "hidden": (16,)})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    assert program.memory() < 1.1 * bytes_of(program.shapes())
    program.close()


def test_programs_with_host_environments_are_kept_on_disk_for_every_seed(
    cache: Path, command_line: None, tmp_path: Path
) -> None:
    """A second start, with another seed and other numbers, compiles nothing of what takes long."""
    from tests.runs import command, run

    for seed, kept in ((0, None), (1, 0)):
        before = len(list(cache.rglob("*-cache")))
        words = command(tmp_path / str(seed), "--seed", str(seed), "--tau", f"0.0{seed + 1}", backend="host")
        functions_of.cache_clear()
        jax.clear_caches()
        assert run(*words) == 0
        assert kept is None or len(list(cache.rglob("*-cache"))) - before == kept
    names = Counted(path.name.partition("-")[0] for path in cache.rglob("*-cache"))
    assert names["jit_mapped"] >= 2, "to fill and to learn"
    assert names["jit_evaluate"] >= 1


def test_environments_of_a_module_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:Id` imports the module from the current folder, and a wrong half of the name is told apart."""
    (tmp_path / "mine_here.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
        "gymnasium.register('Mine-v0', PendulumEnv, max_episode_steps=7)\n"
    )
    monkeypatch.chdir(tmp_path)
    env = make_host("mine_here:Mine-v0")
    assert (env.spec.name, env.spec.max_steps) == ("mine_here:Mine-v0", 7)
    with pytest.raises(dj.ConfigError, match=r"needs the module mine_there"):
        make_host("mine_there:Mine-v0")
    with pytest.raises(dj.ConfigError, match=r"nearest are Mine-v0"):
        make_host("mine_here:Mine-v1")


def test_a_step_that_does_not_come_back_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that waits for a thread of XLA would otherwise wait without a word."""
    monkeypatch.setattr("ddpg_jax.envs.host.callback.LONG_STEP", 0.2)

    naps = iter([0.5])

    class Sluggish(Counter):
        def step(self, action: np.ndarray) -> Any:
            in_program = threading.current_thread() is not threading.main_thread()  # and not in the trial before it
            time.sleep(next(naps, 0.0) if in_program else 0.0)
            return super().step(action)

    with pytest.warns(UserWarning, match="has been in one step for 0 s; if it computes with JAX") as told:
        dj.train(Sluggish, **{**SHORT, "steps": 20})
    assert sum("in one step" in str(one.message) for one in told) == 1


def test_an_environment_whose_module_imports_jax_is_given_threads(tmp_path: Path) -> None:
    """By the command line, for a run and for a sweep. With too few, these would not end."""
    (tmp_path / "thinker.py").write_text(THINKER)
    few = ["--steps", "40", "--warmup-steps", "20", "--batch-size", "8", "--hidden", "8", "--eval-episodes", "1"]
    for command in (["train", "thinker:Thinker-v0"], ["sweep", "thinker:Thinker-v0", "--seeds", "2"]):
        words = [sys.executable, "-m", "ddpg_jax", *command, *few, "--out", command[0]]
        environment = {name: value for name, value in os.environ.items() if name not in ("PJRT_NPROC", "XLA_FLAGS")}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


THINKER = """
import gymnasium, jax, numpy as np

product = jax.jit(lambda x: (x @ x).sum())

class Thinker(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.clip(np.float32(product(np.full((200, 200), action[0]))), -1, 1).reshape(1), 0.0, False, False, {}

gymnasium.register("Thinker-v0", Thinker, max_episode_steps=10)
"""
