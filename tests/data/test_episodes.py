"""The episodes in a replay are those that went in, as far as they are still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.data.episodes import Episode, from_ring, shaped_obs
from ddpg_jax.data.npz_file import read_npz, write_npz
from ddpg_jax.replay.ring import pack

SPEC = dj.EnvSpec("Some", (2,), (1,), action_low=(0.0,), action_high=(10.0,), max_steps=None)
SPACE = Box(-np.inf, np.inf, (2,), np.float32)


def stream(lengths: list[int], lane: int) -> list[tuple[Any, ...]]:
    """Steps of episodes of these lengths, every other one terminated: obs, action, reward, terminated, last, next_obs."""
    steps = []
    for e, length in enumerate(lengths):
        for t in range(length):
            obs, after = ((np.array([100 * lane + e, t + k], np.float32)) for k in (0, 1))
            last = t + 1 == length
            steps.append((obs, t / 100, float(t), last and e % 2 == 0, last, after))
    return steps


def ring_of(lanes: list[list[tuple[Any, ...]]], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a ring of `length` rows a lane holds after these steps, written one by one."""
    rows, width = np.zeros((length * len(lanes), 2 * 2 + 1 + 3), np.float32), len(lanes)
    head, size = np.zeros(width, int), np.zeros(width, int)
    for n, steps in enumerate(lanes):
        for obs, unit, reward, terminated, last, after in steps:
            numbers = {"reward": jnp.array([reward]), "discount": jnp.array([1.0 - terminated]), "last": jnp.array([last])}
            arrays = {"obs": jnp.array([obs]), "action": jnp.array([[unit]]), "next_obs": jnp.array([after])}
            step = dj.Transition(**arrays, **numbers)
            rows[head[n] * width + n] = pack(step)[0]
            head[n], size[n] = (head[n] + 1) % length, min(size[n] + 1, length)
    return rows, head, size


def expected(steps: list[tuple[Any, ...]], length: int) -> list[list[tuple[Any, ...]]]:
    """The steps that are still there, an episode at a time."""
    episodes: list[list[tuple[Any, ...]]] = [[]]
    for step in steps[-length:]:
        episodes[-1].append(step)
        if step[4]:
            episodes.append([])
    return [episode for episode in episodes if episode]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=2), st.integers(3, 9))
def test_the_ring_gives_back_its_episodes(lengths: list[list[int]], length: int) -> None:
    lanes = [stream(own, n) for n, own in enumerate(lengths)]
    found = from_ring(*ring_of(lanes, length), spec=SPEC, space=SPACE)
    wanted = [episode for steps in lanes for episode in expected(steps, length)]
    assert [episode.length for episode in found] == [len(steps) for steps in wanted]
    for episode, steps in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(episode.obs, np.stack([*(step[0] for step in steps), steps[-1][5]]))
        np.testing.assert_allclose(episode.action[:, 0], [5.0 + 5.0 * step[1] for step in steps], rtol=1e-6)
        np.testing.assert_array_equal(episode.reward, [step[2] for step in steps])
        assert episode.terminated == steps[-1][3]


def test_a_file_of_one_step_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_npz(tmp_path / "one.npz", [Episode(np.zeros((2, 3)), np.zeros((1, 1)), np.ones(1), True)])
    [episode] = read_npz(tmp_path / "one.npz")
    assert (episode.length, episode.obs.shape, episode.terminated) == (1, (2, 3), True)


def test_successors_that_were_rounded_are_still_successors(tmp_path: Path) -> None:
    obs = np.random.default_rng(0).normal(size=(6, 2))
    arrays = {
        "actions": np.zeros((5, 1)),
        "rewards": np.zeros(5),
        "terminations": np.zeros(5),
        "truncations": np.arange(5) == 4,
    }
    np.savez(tmp_path / "a.npz", observations=obs[:-1], next_observations=obs[1:].astype(np.float32), **arrays)
    assert [episode.length for episode in read_npz(tmp_path / "a.npz")] == [5]


def test_an_empty_or_foreign_ring_is_refused() -> None:
    rows, head, size = ring_of([stream([3], 0)], 5)
    with pytest.raises(dj.ConfigError, match="the replay is empty; train longer"):
        from_ring(rows, head * 0, size * 0, spec=SPEC, space=SPACE)
    with pytest.raises(dj.ConfigError, match=r"the replay has rows of shape \(8,\), where those of env=Some have \(10,\)"):
        from_ring(rows, head, size, spec=SPEC._replace(obs_shape=(3,)), space=SPACE)


def test_observations_with_goals_become_dicts_again() -> None:
    sizes = {"observation": 3, "achieved_goal": 2, "desired_goal": 2}
    space = Dict({name: Box(-9, 9, (n,), np.float64) for name, n in reversed(sizes.items())})
    flat = np.arange(14, dtype=np.float32).reshape(2, 7)
    parts = shaped_obs(flat, space)
    assert {name: part.shape for name, part in parts.items()} == {name: (2, n) for name, n in sizes.items()}
    np.testing.assert_array_equal(np.concatenate([parts[name] for name in sizes], axis=1), flat)
    assert parts["observation"].dtype == np.float64
    assert shaped_obs(flat, Box(-9, 9, (7, 1), np.float32)).shape == (2, 7, 1)


def test_the_length_of_an_episode_is_its_number_of_steps() -> None:
    one = Episode(np.zeros((4, 2)), np.zeros((3, 1)), np.zeros(3), True)
    assert one._replace(terminated=False).length == 3
