"""Gymnasium environments on the host: whatever the autoreset mode, only what really happened is told and stored."""

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.phys2d.pendulum import PendulumFunctional
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ddpg_jax as dj
from ddpg_jax.envs.host import HostEnv, HostStep, make_host, vectorize
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.host_program import host_program, poll
from ddpg_jax.host_training import make_host_training, pack_step
from ddpg_jax.replay import unpack
from ddpg_jax.schedules import linear
from ddpg_jax.training import RunState, make_training, stream

MODES = list(AutoresetMode)
Row = tuple[Any, ...]
"""`(obs, action, reward, terminated, last, next_obs)` of one step."""


class Counter(gymnasium.Env[np.ndarray, np.ndarray]):
    """Its observation is (lane, episode, step), so that every transition can be told; it keeps a diary of what happened.

    Episodes last 3, 1 and 4 steps in turn and are terminated, truncated, or both at once, in turn.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, lane: int = 0):
        self.lane, self.episode, self.clock = lane, -1, 0
        self.diary: list[Row] = []

    def observe(self) -> np.ndarray:
        return np.array([self.lane, self.episode, self.clock], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.clock = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.clock = self.observe(), self.clock + 1
        ended = self.clock == (3, 1, 4)[self.episode % 3]
        terminated, truncated = ended and self.episode % 3 != 1, ended and self.episode % 3 != 0
        reward = float(action[0]) + self.clock
        self.diary.append((before, action.copy(), reward, terminated, ended, self.observe()))
        return self.observe(), reward, terminated, truncated, {}


def host_env(make: list[Callable[[], Any]], mode: AutoresetMode = AutoresetMode.SAME_STEP) -> HostEnv:
    return HostEnv(SyncVectorEnv(make, autoreset_mode=mode), "Test")


def counters(lanes: int, mode: AutoresetMode) -> HostEnv:
    return host_env([functools.partial(Counter, lane) for lane in range(lanes)], mode)


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


@pytest.mark.parametrize("mode", MODES)
def test_every_autoreset_mode_tells_what_a_plain_loop_tells(mode: AutoresetMode) -> None:
    env = counters(2, mode)
    obs = env.reset([0, 1])
    lanes: list[list[Row]] = [[], []]
    resting = np.zeros(2, bool)
    for _ in range(40):
        action = action_at(obs)
        step = env.step(action)
        np.testing.assert_array_equal(step.valid, ~resting)
        for n in np.flatnonzero(step.valid):
            lanes[n].append((obs[n], action[n], step.reward[n], step.terminated[n], step.last[n], step.next_obs[n]))
            if not step.last[n]:
                np.testing.assert_array_equal(step.obs[n], step.next_obs[n])
            elif mode is not AutoresetMode.NEXT_STEP:
                np.testing.assert_array_equal(step.obs[n], [n, obs[n, 1] + 1, 0])
        for n in np.flatnonzero(resting):
            np.testing.assert_array_equal(step.obs[n], [n, obs[n, 1] + 1, 0])
            assert not step.last[n]
        resting = step.last if mode is AutoresetMode.NEXT_STEP else np.zeros(2, bool)
        obs = step.obs
    for n, rows in enumerate(lanes):
        assert len(rows) >= 25
        assert_same_rows(rows, plain_loop(n, len(rows)))


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_in_the_middle_leaves_no_memory(mode: AutoresetMode) -> None:
    """As between two evaluations: an episode has ended, and then all start anew."""
    env = counters(1, mode)
    env.reset([0])
    while not env.step(np.zeros((1, 1))).last[0]:
        pass
    env.reset([0])
    step = env.step(np.zeros((1, 1)))
    assert step.valid[0]
    assert step.next_obs[0, 2] == 1


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
    env = host_env([lambda: shaped])
    env.reset([0])
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
    env = host_env([lambda: Shaped(np.float32)] * 2)
    assert (env.spec.obs_dim, env.spec.action_dim) == (6, 4)
    obs = env.reset([0, 1])
    step = env.step(np.zeros((2, 4), np.float32))
    for array, shift in ((obs, 0.0), (step.next_obs, 1 / 3), (step.obs, 0.0)):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.tile(np.arange(6.0) + shift, (2, 1)).astype(np.float32))


def test_a_policy_takes_and_gives_the_shapes_of_the_environment() -> None:
    env = host_env([lambda: Shaped(np.float32)])
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(4, (8,)), 6))(jax.random.key(0))
    policy = dj.Policy(env.spec, (8,), "relu", False, params)
    assert policy(np.zeros((5, 2, 3))).shape == (5, 2, 2)
    action = policy(np.ones((2, 3)))
    assert env.vector_env.single_action_space.contains(action)
    unit = np.asarray(policy.unit_action(params, jnp.ones(6)))
    np.testing.assert_allclose(action, env.native(unit[None])[0], rtol=1e-6)  # as it trained


def test_a_policy_keeps_to_bounds_that_are_no_float32() -> None:
    """The float32 nearest to -.1 is below it, that nearest to 10.1 above."""
    space = Box(np.array([-0.1, 0.0]), np.array([0.7, 10.1]), dtype=np.float64)
    spec = spec_of("Fine", Box(-1.0, 1.0, (1,)), space, max_steps=None)
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(2, (8,)), 1))(jax.random.key(0))
    for bias in (-50.0, 50.0):
        params["action"]["bias"] = jnp.array([bias, -bias])
        action = dj.Policy(spec, (8,), "relu", False, params)(np.zeros(1))
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

    env = vectorize(Bounded, "Bounded", 1)
    params = jax.jit(lambda key: dj.init_actor(key, dj.Actor(1, (8,), final_bound=None), 6))(jax.random.key(0))
    policy = dj.Policy(env.spec, (8,), "relu", False, params)
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
    env = vectorize(Buffered, "Buffered", 1)
    obs = env.reset([0])
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
    env, fresh = (vectorize(make, "Tied", 2) for _ in range(2))
    env.reset([0, 1])
    play(env, 5, seed=0)
    snapshot = env.snapshot()
    assert snapshot is not None
    truth = play(env, 20, seed=1)
    fresh.reset([2, 3])
    fresh.restore(snapshot)
    again = fresh.snapshot()
    assert again is not None, "what was read can be written"
    fresh.restore(again)
    for step, true in zip(play(fresh, 20, seed=1), truth, strict=True):
        for part, true_part in zip(step, true, strict=True):
            np.testing.assert_array_equal(part, true_part)
    with pytest.raises(dj.EnvironmentFailure, match="cannot be put back to where it was"):
        vectorize(Counter, "Counter", 1).restore(snapshot)


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
    env = vectorize(Talkative, "Talkative", 2)
    env.reset([0, 0])
    assert all((step.next_obs < 9).all() for step in play(env, 12, seed=0))


def play(env: HostEnv, steps: int, seed: int) -> list[HostStep]:
    actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, env.num_envs, env.spec.action_dim))
    return [env.step(action) for action in actions.astype(np.float32)]


class Faulty(Counter):
    """A `Counter` that does something wrong at the third step of its first episode, or where it is reset after that."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed)
        if self.episode > 0 and self.fault == "reset raises":
            raise ValueError("the doors are shut")
        return (obs * np.nan if self.episode > 0 and self.fault == "reset gives NaN" else obs), info

    def step(self, action: np.ndarray) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.clock == 3:
            if self.fault == "raises":
                raise ValueError("the motor is on fire")
            reward = {"NaN reward": np.nan, "infinite reward": np.inf}.get(self.fault, reward)
            obs = {"NaN observation": obs * np.nan, "other shape": obs[:2]}.get(self.fault, obs)
            reward = {"two rewards": np.zeros(2), "no reward": None}.get(self.fault, reward)
            if self.fault == "old step":
                return obs, reward, terminated, info
        return obs, reward, terminated, truncated, info


FAULTS = {
    "raises": r"raised ValueError: the motor is on fire",
    "NaN reward": r"gave nan as reward",
    "infinite reward": r"gave inf as reward",
    "NaN observation": r"gave nan as observation",
    "other shape": r"^gave an observation of shape \(2,\); its space says \(3,\)",
    "two rewards": r"^gave a reward of shape \(2,\); it must be one number",
    "no reward": r"^gave None as reward; it must be a number|gave nan as reward",
    "old step": r"^gave 4 values from step; it must give obs, reward, terminated|raised ValueError: not enough values",
    "reset raises": r"raised ValueError: the doors are shut",
    "reset gives NaN": r"gave nan as observation",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_environment_is_named(fault: str, mode: AutoresetMode) -> None:
    env = host_env([lambda: Faulty(fault)], mode)
    env.reset([0])
    with pytest.raises(dj.EnvironmentFailure, match=FAULTS[fault] if "gave a" not in FAULTS[fault] else "shape|sequence"):
        play(env, 4, seed=0)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named_alike_where_environments_are_made_here(fault: str) -> None:
    env = vectorize(lambda: Faulty(fault), "Faulty", 2)
    env.reset([0, 0])
    with pytest.raises(dj.EnvironmentFailure, match=FAULTS[fault]):
        play(env, 4, seed=0)


SHORT = {"steps": 8, "warmup_steps": 8, "batch_size": 4, "num_envs": 2, "hidden": (8,), "eval_episodes": 1}


def test_training_names_the_step_at_which_an_environment_failed() -> None:
    with pytest.raises(
        dj.EnvironmentFailure,
        match=r"^env=<lambda> raised ValueError: the motor is on fire \(test_envs_host.py, line \d+\) at step 6$",
    ):
        dj.train(lambda: Faulty("raises"), **SHORT)  # the third step of each of two


MAKERS: dict[str, tuple[Any, str]] = {
    "nothing": (lambda: None, r"^env=<lambda> makes a NoneType; it must make a gymnasium.Env$"),
    "several": (lambda: gymnasium.make_vec("Pendulum-v1", 2), r"makes a SyncVectorEnv; it must make a gymnasium.Env$"),
    "no spaces": (gymnasium.Env, r"^env=Env has no observation_space"),
    "fails": (lambda: 1 / 0, r"^env=<lambda> cannot be made: ZeroDivisionError.*\(test_envs_host.py, line \d+\)$"),
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


def test_a_process_whose_members_have_all_diverged_waits_for_the_others() -> None:
    """It learns nothing more, as on the device, and what it measures is nothing."""
    experiment, hyper = dj.configure({**SHORT, "backend": "host"})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    state, _, _ = program.advance(program.start(), 0, 4, np.ones(1, bool))
    after, metrics, _ = program.advance(state, 4, 9, np.zeros(1, bool))
    assert after is state
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
        return made[-1]

    with pytest.raises(dj.EnvironmentFailure, match=r"^env=make raised ValueError: the motor is on fire.* step 8\b"):
        dj.train(make, **SHORT)


def test_an_evaluation_without_end_asks_for_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Counter):
        def step(self, action: np.ndarray) -> Any:
            obs, reward, *_ = super().step(action)
            return obs, reward, False, False, {}

    monkeypatch.setattr("ddpg_jax.host_program.LONGEST", 30)
    with pytest.raises(dj.EnvironmentFailure, match=r"needs a time limit, max_episode_steps=N .*: 30 steps ended no"):
        dj.train(Endless, **SHORT)
    dj.train(Counter, **SHORT)  # it has no time limit, but ends


def short(name: str) -> HostEnv:
    return host_env([lambda: gymnasium.make(name, max_episode_steps=50)] * 2)


@pytest.mark.parametrize("name", ["Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5"])
def test_a_snapshot_goes_on_exactly(name: str) -> None:
    if name != "Pendulum-v1":
        pytest.importorskip("mujoco")
    env = short(name)
    env.reset([3, 4])
    play(env, 30, seed=0)
    snapshot = env.snapshot()
    assert snapshot is not None
    truth = play(env, 90, seed=1)  # over the time limit and the resets after it
    assert sum(step.last.sum() for step in truth) >= 2

    fresh = short(name)
    fresh.reset([5, 6])
    for other in (env, fresh):
        other.restore(snapshot)
        for step, true in zip(play(other, 90, seed=1), truth, strict=True):
            for part, true_part in zip(step, true, strict=True):
                np.testing.assert_array_equal(part, true_part)


@pytest.mark.parametrize(
    "what", [threading.Lock(), np.array([None, 1, 2])[:1], np.ma.array([1.0, 2.0])], ids=["lock", "objects", "mask"]
)
def test_what_cannot_be_written_has_no_snapshot(what: Any) -> None:
    """Locks, and views that would not be views any more."""
    env = Counter()
    env.what = what  # pyright: ignore[reportAttributeAccessIssue]
    host = host_env([lambda: env])
    host.reset([0])
    assert host.snapshot() is None


@pytest.mark.parametrize("mode", MODES)
def test_training_stores_what_happened_and_nothing_else(mode: AutoresetMode) -> None:
    """Two members with two environments each; the environments' own diaries are the truth."""
    fields = {"steps": 300, "warmup_steps": 100, "eval_every": 300, "num_envs": 2, "hidden": (16, 16), "eval_episodes": 1}
    experiment, hyper = dj.configure({**fields, "env": "Counter", "backend": "host", "replay_capacity": 400})
    env = counters(4, mode)
    program = host_program(experiment, [dj.Member(seed, hyper) for seed in (0, 1)], env, counters(2, mode))
    state, rows = program.start(), []
    for tick in dj.drive(program, experiment, state):
        state, rows = tick.state, rows + tick.rows
    assert [row["eval_length_mean"] for row in rows] == [3.0, 3.0]
    assert all(np.isfinite(row["critic_loss"]) for row in rows)

    for m in range(2):
        replay = jax.tree.map(lambda leaf, m=m: leaf[m], program.save(state)[0].replay)
        for n in range(2):
            diary = env.vector_env.envs[2 * m + n].diary
            size = int(replay.size[n])
            assert size == len(diary) < 200  # the ring has not come round
            assert (size < 150) == (mode is AutoresetMode.NEXT_STEP)  # the resets took some of the 150 steps
            stored = unpack(replay.rows[n :: experiment.num_envs][:size], 3, 1)
            terminated = 1.0 - np.asarray(stored.discount)
            parts = (stored.obs, stored.action, stored.reward, terminated, stored.last, stored.next_obs)
            assert_same_rows(list(zip(*(np.asarray(part) for part in parts), strict=True)), diary)


def test_host_and_device_training_are_one_algorithm() -> None:
    """The device's environment, driven by hand through the host's functions, with the device's keys."""
    env = dj.envs.from_functional(PendulumFunctional(), "Short", max_steps=15)
    num_envs, warmup, total = 2, 40, 80
    agent = dj.make_agent(3, 1, hidden=(16,))
    replay = dj.replay.uniform(3, 1, capacity=200, batch_size=16, num_envs=num_envs)
    parts = (agent, replay, dj.exploration.ornstein_uhlenbeck(1, linear), dj.exploration.uniform(1))
    key, hyper = jax.random.key(0), dj.Hyperparams(actor_lr=1e-3, noise_decay_steps=100.0)

    device = make_training(env, *parts, num_envs=num_envs)
    host = make_host_training(*parts, obs_dim=3, action_dim=1, num_envs=num_envs)

    @jax.jit
    def begin() -> tuple[RunState, RunState]:
        on_device = device.init(key, hyper)
        return on_device, host.init(key, hyper, on_device.obs)

    expected, state = begin()
    env_state = expected.env
    expected, _ = jax.jit(device.fill)(key, expected, hyper, 0, warmup)
    expected, _ = jax.jit(device.learn)(key, expected, hyper, warmup, total)

    calls = {name: jax.jit(getattr(host, name)) for name in ("warm", "explore", "fill", "learn")}
    step = jax.jit(jax.vmap(env.step))
    for i in range(total):
        keys = jax.random.split(stream(key, "env", i), num_envs)
        env_state, obs, t = step(keys, env_state, state.obs, state.env)
        packet = pack_step(t.reward, 1.0 - t.discount, t.last, np.ones(num_envs), state.obs, state.env, t.next_obs)
        state, _ = calls["learn" if i >= warmup else "fill"](key, state, hyper, jnp.asarray(packet), jnp.int32(i))
        choose = calls["explore" if i + 1 >= warmup else "warm"]  # behind the update: the order of the textbook
        seen = jnp.concatenate([obs, t.last[:, None]], axis=-1)
        action, noise = choose(key, state.train.params.actor, state.noise, seen, hyper, jnp.int32(i + 1))
        state = replace(state, env=action, noise=noise, obs=obs)

    assert (expected.replay.size == total).all()
    for name in ("replay", "train", "obs", "returns"):
        for one, other in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(expected, name)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("order", "spare"), [("overlapped", False), ("textbook", False), ("overlapped", True)])
def test_host_order_is_what_it_says(order: str, spare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program beside its pure parts, called one after the other in the order that `host_training` describes; however it
    waits for actions."""
    monkeypatch.setattr("ddpg_jax.host_program.spare_core", lambda: spare)
    fields = {"steps": 45, "warmup_steps": 20, "batch_size": 8, "hidden": (8,), "actor_lr": 0.05, "replay_capacity": 50}
    experiment, hyper = dj.configure({**fields, "env": "Pendulum-v1", "backend": "host", "host_order": order})
    program = host_program(experiment, [dj.Member(3, hyper)])
    state = program.start()
    start = jax.tree.map(np.array, program.save(state)[0])
    for begin, end in ((0, 20), (20, 45)):
        state, _, _ = program.advance(state, begin, end, np.ones(1, bool))
    found = program.save(state)[0]
    program.close()

    parts = dj.build(experiment, program.spec)
    host = make_host_training(parts.agent, parts.replay, parts.explorer, parts.warmup, obs_dim=3, action_dim=1)
    calls = {name: jax.jit(getattr(host, name)) for name in ("warm", "explore", "fill", "learn")}
    key, env = jax.random.key(3), make_host("Pendulum-v1", 1)
    env.reset([int(np.random.SeedSequence([3, 0, 0, 0]).generate_state(1)[0])])
    expected: RunState = jax.tree.map(jnp.asarray, start)
    for i in range(45):
        step = env.step(np.asarray(expected.env))
        rows = (step.reward, step.terminated, step.last, step.valid, expected.obs, expected.env, step.next_obs)
        before = expected.train.params.actor
        expected, _ = calls["learn" if i >= 20 else "fill"](key, expected, hyper, jnp.asarray(pack_step(*rows)), jnp.int32(i))
        actor = before if order == "overlapped" else expected.train.params.actor
        seen = jnp.concatenate([step.obs, step.last[:, None]], axis=-1)
        choose = calls["explore" if i + 1 >= 20 else "warm"]
        action, noise = choose(key, actor, expected.noise, seen, hyper, jnp.int32(i + 1))
        expected = replace(expected, env=action, noise=noise, obs=step.obs)
    # The program packs its arrays and so is compiled otherwise: 25 steps of Adam at a rate of .05 are up to 1.4e-6 apart.
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_polling_ends_when_the_array_is_there_or_has_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Array:
        asked = 0

        def __init__(self, there_after: int):
            self.there_after = there_after

        def is_ready(self) -> bool:
            self.asked += 1
            return self.asked > self.there_after

    soon, never = Array(3), Array(10**9)
    with monkeypatch.context() as patch:
        patch.setattr("ddpg_jax.host_program.AWAKE_SECONDS", 60.0)  # whatever else the machine does
        assert poll(soon) is soon
    assert soon.asked == 4
    assert poll(never) is never
    assert never.asked > 1
    rows = np.zeros(2)
    assert poll(rows) is rows


def test_environments_of_a_module_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:Id` imports the module from the current folder, and a wrong half of the name is told apart."""
    (tmp_path / "mine_here.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
        "gymnasium.register('Mine-v0', PendulumEnv, max_episode_steps=7)\n"
    )
    monkeypatch.chdir(tmp_path)
    env = make_host("mine_here:Mine-v0", 1)
    assert (env.spec.name, env.spec.max_steps) == ("mine_here:Mine-v0", 7)
    with pytest.raises(dj.ConfigError, match=r"needs the module mine_there"):
        make_host("mine_there:Mine-v0", 1)
    with pytest.raises(dj.ConfigError, match=r"nearest are Mine-v0"):
        make_host("mine_here:Mine-v1", 1)
