"""Gymnasium's continuous environments: each of them steps here as Gymnasium itself steps it, and can be trained on."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.envs.choosing import device_env
from ddpg_jax.envs.extras import EXTRAS
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.callback import HostEnvs
from ddpg_jax.envs.host.make import maker
from ddpg_jax.types import EnvOptions
from tests.hosts import Vector

MUJOCO = (
    "HalfCheetah-v5 Hopper-v5 Walker2d-v5 Ant-v5 Humanoid-v5 Reacher-v5 Pusher-v5 Swimmer-v5 InvertedPendulum-v5 "
    "InvertedDoublePendulum-v5"
)
NAMES = {
    "": "Pendulum-v1 MountainCarContinuous-v0",
    "box2d": "LunarLanderContinuous-v3 BipedalWalker-v3",
    "mujoco": MUJOCO,
    "goals": "PointMaze_UMaze-v3 PointMaze_MediumDense-v3",
}
EVERY = [pytest.param(name, extra, id=name) for extra, names in NAMES.items() for name in names.split()]
LIMIT = 60
"""So that every episode ends a few times in 200 steps, be it with a time limit."""
SHORT = EnvOptions(env_kwargs=f'{{"max_episode_steps": {LIMIT}}}')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MuJoCo writes its log into the current folder."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def flat(obs: Any) -> np.ndarray:
    parts = [obs[part] for part in ("observation", "achieved_goal", "desired_goal")] if isinstance(obs, dict) else [obs]
    return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])


def assert_spec_is_gymnasiums(envs: HostEnvs, original: Any) -> None:
    spec, space = envs.spec, original.action_space
    assert spec.max_steps == original.spec.max_episode_steps
    assert spec.reward_threshold == original.spec.reward_threshold
    assert (spec.action_low, spec.action_high) == (tuple(space.low.ravel().tolist()), tuple(space.high.ravel().tolist()))
    ones = np.ones((1, spec.action_dim), np.float32)
    np.testing.assert_array_equal(envs.native(ones)[0], space.high)
    np.testing.assert_array_equal(envs.native(-ones)[0], space.low)


@pytest.mark.parametrize(("name", "extra"), EVERY)
def test_an_environment_steps_as_gymnasium_steps_it(name: str, extra: str) -> None:
    """Over 200 random actions: observations to float32, rewards, terminations, truncations, and what comes after them."""
    if extra:
        pytest.importorskip(EXTRAS[extra])
    host = Vector(maker(name, SHORT))
    original: Any = gymnasium.make(name, max_episode_steps=LIMIT)
    envs = make_host(name, SHORT).outside
    assert isinstance(envs, HostEnvs)
    assert_spec_is_gymnasiums(envs, original)
    assert make_host(name).spec.max_steps == gymnasium.spec(name).max_episode_steps

    obs, generator, ends = host.reset(7), np.random.default_rng(0), 0
    words = jax.random.key_data(jax.random.split(jax.random.key(7), 1))[0]
    (seed,) = np.random.SeedSequence(words.tolist()).generate_state(1).tolist()
    np.testing.assert_array_equal(obs[0], flat(original.reset(seed=seed)[0]))
    for _ in range(200):
        action = generator.uniform(-1.0, 1.0, (1, host.spec.action_dim)).astype(np.float32)
        step = host.step(action)
        expected, reward, terminated, truncated, _ = original.step(envs.native(action)[0])
        np.testing.assert_array_equal(step.next_obs[0], flat(expected))  # the true successor, at the end of an episode too
        np.testing.assert_allclose(step.reward[0], reward, rtol=1e-6)
        assert (step.terminated[0], step.last[0]) == (terminated, terminated or truncated)
        if step.last[0]:
            expected, ends = original.reset()[0], ends + 1
            assert not np.array_equal(step.obs, step.next_obs)
        np.testing.assert_array_equal(step.obs[0], flat(expected))
    assert ends >= 3


@pytest.mark.parametrize("extra", NAMES)
def test_an_environment_of_each_kind_can_be_trained_on(extra: str) -> None:
    """One of each, as all that differs within a kind are shapes, and each shape is compiled anew."""
    name = NAMES[extra].split()[0]
    if extra:
        pytest.importorskip(EXTRAS[extra])
    fields = {"warmup_steps": 200, "batch_size": 8, "hidden": (8,), "replay_capacity": 300, "eval_episodes": 1}
    run = dj.train(name, steps=300, backend="host", env_kwargs={"max_episode_steps": LIMIT}, **fields)
    (row,) = run.rows
    assert np.isfinite([row["eval_return_mean"], row["critic_loss"], row["actor_loss"], row["q_mean"]]).all()
    assert 1 <= row["eval_length_mean"] <= LIMIT


def test_bare_names_take_the_twin_and_backend_host_gymnasiums() -> None:
    for name in NAMES[""].split():
        assert device_env("auto", name) is not None
        assert device_env("host", name) is None
    assert device_env("auto", "HalfCheetah-v5") is None
