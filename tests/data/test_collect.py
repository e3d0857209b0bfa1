"""Episodes are what the environment did: successors, ends, units, and the same again for the same seed."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.data import collect
from ddpg_jax.data.collect import AT_ONCE, greedy, noisy, uniform
from ddpg_jax.envs.host import make_host
from ddpg_jax.envs.host.factories import from_function
from ddpg_jax.envs.host.make import maker
from ddpg_jax.types import EnvOptions

SPEC = dj.EnvSpec("Walk", (1, 1), (1,), action_low=(-2.0,), action_high=(2.5,), max_steps=12)


def walk() -> dj.Env:
    """It ends where |x| exceeds 6, and its reward is the sum of where it was and what was done."""

    def advance(key: Any, x: Any, action: Any) -> Any:
        return x + action[None], x[0, 0] + action[0], jnp.abs(x[0, 0] + action[0]) > 6.0

    return dj.envs.make_env(SPEC, lambda key: jax.random.normal(key, (1, 1)), advance, observe=lambda x: x)


def test_episodes_in_jax_are_whole_and_in_the_units_of_the_environment() -> None:
    count = AT_ONCE["device"] + 3
    episodes = collect(walk(), uniform(1), episodes=count, seed=0)
    assert len(episodes) == count
    for episode in episodes:
        x, action = episode.obs[:, 0, 0], episode.action[:, 0]
        np.testing.assert_allclose(x[1:], x[:-1] + action, atol=1e-5)
        np.testing.assert_allclose(episode.reward, x[:-1] + action, atol=1e-5)
        assert (np.abs(x[1:-1]) <= 6.0).all()
        assert episode.terminated == (abs(x[-1]) > 6.0)
        assert episode.terminated or episode.length == 12
    assert {episode.terminated for episode in episodes} == {True, False}
    assert len({episode.obs[0, 0, 0] for episode in episodes}) == count  # other starts, in all parts
    again, other = (collect(walk(), uniform(1), episodes=count, seed=seed) for seed in (0, 1))
    assert all(np.array_equal(one.obs, two.obs) for one, two in zip(episodes, again, strict=True))
    assert again[0].obs[0] != other[0].obs[0]


def test_what_cannot_be_played_is_told() -> None:
    """NaN in a dataset would be found by whoever learns from it, if at all."""
    with pytest.raises(dj.ConfigError, match="episodes=0 is not allowed"):
        collect(walk(), uniform(1), episodes=0, seed=0)
    with pytest.raises(dj.EnvironmentFailure, match="gave a number that is not finite"):
        collect(walk(), lambda key, obs: jnp.full((obs.shape[0], 1), jnp.nan), episodes=1, seed=0)


def test_ways_to_act() -> None:
    obs, key = jnp.ones((4_000, 1)), jax.random.key(0)

    def mu(obs: Any) -> Any:
        return jnp.full((obs.shape[0], 2), 0.5)

    np.testing.assert_array_equal(greedy(mu)(key, obs), mu(obs))
    action = noisy(mu, 0.2)(key, obs)
    assert abs(float(action.mean()) - 0.5) < 0.01
    assert abs(float(action.std()) - 0.2) < 0.01
    assert float(jnp.abs(noisy(mu, 2.0)(key, obs)).max()) == 1.0
    action = uniform(2)(key, obs)
    assert action.shape == (4_000, 2)
    assert -1.0 <= float(action.min()) < -0.99
    assert 0.99 < float(action.max()) <= 1.0


def test_episodes_on_the_host_are_those_of_the_environment_itself() -> None:
    """Reset with its seed and given the same actions, Gymnasium's own environment does the same, to the last bit."""
    options = EnvOptions(env_kwargs='{"max_episode_steps": 7}')
    env, make = make_host("Pendulum-v1", options), maker("Pendulum-v1", options)
    episodes = collect(env, uniform(1), episodes=12, seed=3, make=make)  # more than play side by side
    assert len({episode.seed for episode in episodes}) == 12
    for episode in episodes[::5]:
        own = gymnasium.make("Pendulum-v1")
        obs, _ = own.reset(seed=episode.seed)
        for t in range(7):
            np.testing.assert_array_equal(episode.obs[t], obs)
            obs, reward, *_ = own.step(episode.action[t])
            assert episode.reward[t] == reward
        np.testing.assert_array_equal(episode.obs[7], obs)
        assert episode.action.dtype == np.float32
        assert episode.length == 7
        assert not episode.terminated
    again = collect(env, uniform(1), episodes=12, seed=3, make=make)
    np.testing.assert_array_equal([e.reward for e in again], [e.reward for e in episodes])


class Broken(gymnasium.Env[Any, Any]):
    """Raises at its third step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, **_: Any) -> Any:
        self.t = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t == 3:
            raise ValueError("a joint is out of reach")
        return np.zeros(2), 0.0, False, False, {}


def test_a_failing_environment_is_reported_with_the_step() -> None:
    env = from_function(Broken, "Broken")
    with pytest.raises(dj.EnvironmentFailure, match=r"ValueError: a joint is out of reach .* in an episode at step 3"):
        collect(env, uniform(1), episodes=1, seed=0, make=Broken)
