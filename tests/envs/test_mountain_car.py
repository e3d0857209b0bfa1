"""The twin of MountainCarContinuous-v0 written in JAX does what Gymnasium's does, at its walls and at its goal too."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.envs.native.mountain_car import mountain_car
from ddpg_jax.envs.registry import make_device

NAME = "MountainCarContinuous-v0"
STATES = {
    "anywhere": np.random.default_rng(0).uniform([-1.2, -0.07], [0.6, 0.07], (500, 2)),
    "left wall": np.random.default_rng(1).uniform([-1.2, -0.07], [-1.15, 0.01], (300, 2)),
    "goal": np.random.default_rng(2).uniform([0.40, -0.02], [0.60, 0.07], (300, 2)),
    "right wall": np.random.default_rng(3).uniform([0.55, 0.0], [0.60, 0.07], (200, 2)),
}


def steps_of(env: dj.Env, states: np.ndarray, actions: np.ndarray) -> dj.Transition:
    """A step from each state `[K, 2]` with each action `[K, 1]` in [-1, 1]."""

    def step(state: jax.Array, action: jax.Array) -> dj.Transition:
        return env.step(jax.random.key(0), (state, jnp.zeros((), jnp.int32)), state, action)[2]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(step))(jnp.asarray(states, jnp.float32), jnp.asarray(actions)))


@pytest.mark.parametrize("goal_velocity", [0.0, 0.03])
@pytest.mark.parametrize("where", STATES)
def test_each_step_is_gymnasiums_from_the_same_state(where: str, goal_velocity: float) -> None:
    """500 states all over, and more where something happens: velocity is lost at the left wall and not at the right one."""
    states = STATES[where].astype(np.float32)
    actions = np.random.default_rng(4).uniform(-1.0, 1.0, (len(states), 1)).astype(np.float32)
    original: Any = gymnasium.make(NAME, goal_velocity=goal_velocity).unwrapped
    twin = steps_of(mountain_car(goal_velocity), states, actions)
    for k, (state, action) in enumerate(zip(states, actions, strict=True)):
        original.state = state.copy()
        obs, reward, terminated, _, _ = original.step(action)
        np.testing.assert_allclose(twin.next_obs[k], obs, atol=2e-7)
        np.testing.assert_allclose(twin.reward[k], reward, atol=1e-5)
        assert (twin.discount[k] == 0.0) == terminated
    stopped = (twin.next_obs[:, 0] == np.float32(-1.2)) & (twin.next_obs[:, 1] == 0.0)
    ended = twin.discount == 0.0
    assert (stopped.sum() > 50) == (where == "left wall")
    assert not (twin.next_obs[:, 0] == np.float32(-1.2))[~stopped].any()
    assert (ended.sum() > 50) == (where in ("goal", "right wall"))
    slow = (twin.next_obs[:, 0] >= 0.45) & (twin.next_obs[:, 1] < goal_velocity)
    assert not (slow & ended).any()  # at the goal, and too slow


def test_an_episode_runs_as_gymnasiums_to_its_end() -> None:
    """Pushing with the velocity reaches the goal: one free run, in float32 on both sides, ends at the same step."""
    env, original = make_device(NAME), gymnasium.make(NAME)
    obs, _ = original.reset(seed=3)
    (_, clock), _ = env.reset(jax.random.key(0))
    env_state, seen = (jnp.asarray(obs), clock), jnp.asarray(obs)
    step, total, t = jax.jit(env.step), 0.0, 0
    for t in range(999):
        action = np.sign(obs[1:] + 1e-9).astype(np.float32)
        obs, _, terminated, truncated, _ = original.step(action)
        env_state, seen, transition = step(jax.random.key(t), env_state, seen, jnp.asarray(action))
        np.testing.assert_allclose(transition.next_obs, obs, atol=1e-5)
        assert (bool(transition.discount == 0), bool(transition.last)) == (terminated, terminated or truncated)
        total += float(transition.reward)
        if terminated:
            break
    assert 50 < t < 200
    assert total == pytest.approx(100.0 - 0.1 * (t + 1), abs=1e-3)
    assert -0.6 <= float(seen[0]) <= -0.4  # a start
    assert float(seen[1]) == 0.0


def test_its_spec_is_gymnasiums() -> None:
    spec, original = make_device(NAME).spec, gymnasium.make(NAME)
    space: Any = original.action_space
    assert original.spec is not None
    assert (spec.max_steps, spec.reward_threshold) == (original.spec.max_episode_steps, original.spec.reward_threshold)
    assert (spec.obs_shape, spec.action_shape) == (original.observation_space.shape, space.shape)
    assert (spec.action_low, spec.action_high) == (tuple(space.low.tolist()), tuple(space.high.tolist()))


def test_starts_are_uniform_between_their_bounds_and_at_rest() -> None:
    states = np.asarray(jax.vmap(make_device(NAME).reset)(jax.random.split(jax.random.key(0), 2_000))[1])
    assert (states[:, 1] == 0.0).all()
    assert -0.6 <= states[:, 0].min() < -0.595
    assert -0.405 < states[:, 0].max() <= -0.4
    assert abs(states[:, 0].mean() + 0.5) < 0.005
