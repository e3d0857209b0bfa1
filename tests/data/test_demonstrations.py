"""Every format of demonstrations gives the same transitions, and every mistake in one is a sentence."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.data import demonstrations
from ddpg_jax.data.demonstrations import load_store, read_episodes, transitions_of
from ddpg_jax.data.episodes import Episode
from ddpg_jax.data.minari_file import target_of, write_minari
from ddpg_jax.data.npz_file import NEEDED, read_npz, write_npz
from ddpg_jax.envs.extras import installed

SPEC = dj.EnvSpec("Some", (2,), (1,), action_low=(0.0,), action_high=(10.0,), max_steps=None)
GOALS = SPEC._replace(obs_shape=(5,))
needs_minari = pytest.mark.skipif(not (installed("minari") and installed("h5py")), reason="needs the extra data")


@pytest.fixture(autouse=True)
def _own_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def made(lengths: list[int], terminated: list[bool], *, goals: bool = False) -> list[Episode]:
    """Episodes whose steps can all be told apart; the first observation is the number of the step."""
    episodes, count = [], 0
    for length, ended in zip(lengths, terminated, strict=True):
        number = np.arange(count, count + length + 1, dtype=np.float32)
        obs: Any = np.stack([number, -number], axis=-1)
        if goals:
            obs = {"achieved_goal": obs, "desired_goal": obs + 9, "observation": number[:, None]}
        action = (number[:-1, None] % 10).astype(np.float32)
        episodes.append(Episode(obs, action, number[:-1] / 8, ended))
        count += length + 1
    return episodes


def wanted(episodes: list[Episode], spec: dj.EnvSpec) -> dj.Transition:
    """The transitions, one step after the other."""
    rows: list[tuple[Any, ...]] = []
    for episode in episodes:
        obs = episode.obs
        if isinstance(obs, dict):
            obs = np.concatenate([obs[name] for name in ("observation", "achieved_goal", "desired_goal")], axis=1)
        for t in range(episode.length):
            last = t + 1 == episode.length
            unit = 2 * (episode.action[t] - spec.action_low) / (np.array(spec.action_high) - spec.action_low) - 1
            rows.append((obs[t], unit, episode.reward[t], 1.0 - (last and episode.terminated), last, obs[t + 1]))
    return dj.Transition(*(np.stack(column) for column in zip(*rows, strict=True)))  # pyright: ignore[reportArgumentType]


def as_npz(episodes: list[Episode], folder: Path) -> str:
    write_npz(folder / "one.npz", episodes)
    return str(folder / "one.npz")


def _minari(episodes: list[Episode], out: str) -> str:
    space: Any = Box(-np.inf, np.inf, (2,), np.float32)
    if isinstance(episodes[0].obs, dict):
        one = Box(-np.inf, np.inf, (1,), np.float32)
        space = Dict({"observation": one, "achieved_goal": space, "desired_goal": space})
    spaces: Any = {"observation_space": space, "action_space": Box(0, 10, (1,), np.float32)}
    write_minari(target_of(out), episodes, **spaces, env_spec=None, about={})
    return out


def as_folder(episodes: list[Episode], folder: Path) -> str:
    return _minari(episodes, str(folder / "mine"))


def as_id(episodes: list[Episode], folder: Path) -> str:
    del folder
    return _minari(episodes, "some/mine-v0")


FORMATS = [as_npz, *(pytest.param(write, marks=needs_minari) for write in (as_folder, as_id))]


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("goals", [False, True])
def test_what_is_written_is_read(write: Callable[..., str], goals: bool, tmp_path: Path) -> None:
    """Actions in [-1, 1], true successors, terminations apart from truncations, and the ends of episodes."""
    episodes, spec = made([3, 1, 4], [True, False, False], goals=goals), GOALS if goals else SPEC
    found, expected = transitions_of(read_episodes(write(episodes, tmp_path), spec), spec), wanted(episodes, spec)
    for name, got, other in zip(found._fields[:6], found, expected, strict=False):
        np.testing.assert_allclose(got, other, atol=1e-6, err_msg=name)
    assert found.obs.dtype == found.action.dtype == found.reward.dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4), st.booleans())
def test_files_of_others_without_successors(tmp_path_factory: Any, shape: list[tuple[int, bool]], open_end: bool) -> None:
    """The last step of a truncated episode is left out, as nobody knows its successor; all others are as they were."""
    episodes = made([length for length, _ in shape], [ended for _, ended in shape])
    path = tmp_path_factory.mktemp("npz") / "one.npz"
    write_npz(path, episodes)
    arrays = dict(np.load(path))
    del arrays["next_observations"]
    if open_end:
        arrays["truncations"][-1] = False  # the file just ends
    np.savez(path, **arrays)
    kept = [e if e.terminated else Episode(e.obs[:-1], e.action[:-1], e.reward[:-1], False) for e in episodes]
    kept = [episode for episode in kept if episode.length]
    if not kept:
        with pytest.raises(dj.ConfigError, match="has no step whose successor is known; add next_observations"):
            read_npz(path)
        return
    found = read_npz(path)
    assert [episode.length for episode in found] == [episode.length for episode in kept]
    got, other = transitions_of(found, SPEC), wanted(kept, SPEC)
    over = np.asarray(other.discount) == 0  # where the successor does not matter, and is not known
    for name in ("obs", "action", "reward", "discount", "last"):
        np.testing.assert_allclose(getattr(got, name), getattr(other, name), atol=1e-6)
    np.testing.assert_allclose(got.next_obs[~over], other.next_obs[~over])


def test_an_episode_is_divided_where_rows_do_not_follow(tmp_path: Path) -> None:
    """Else a window of n steps would jump over what is missing."""
    write_npz(tmp_path / "one.npz", made([6], [True]))
    arrays = {name: np.delete(array, 2, axis=0) for name, array in np.load(tmp_path / "one.npz").items()}
    np.savez(tmp_path / "gap.npz", **arrays)
    found = transitions_of(read_npz(tmp_path / "gap.npz"), SPEC)
    assert np.asarray(found.last).tolist() == [False, True, False, False, True]
    assert np.asarray(found.discount).tolist() == [1, 1, 1, 1, 0]


def test_hindsight_needs_the_states_after_terminations(tmp_path: Path) -> None:
    """The goals that they achieved are those of steps before; without terminations, nothing is missing."""
    spec = dj.envs.make_device("point-reach").spec
    obs = np.linspace(0, 1, 4 * spec.obs_dim, dtype=np.float32).reshape(4, spec.obs_dim)
    for ended, path in ((True, tmp_path / "ended.npz"), (False, tmp_path / "open.npz")):
        write_npz(path, [Episode(obs, np.zeros((3, 2)), np.zeros(3), ended)])
        load_store(str(path), spec, hindsight=True)
        np.savez(path, **{name: array for name, array in np.load(path).items() if name != "next_observations"})
        load_store(str(path), spec, hindsight=False)
    load_store(str(tmp_path / "open.npz"), spec, hindsight=True)
    with pytest.raises(dj.ConfigError, match="has terminations without next_observations, which hindsight needs; add them"):
        load_store(str(tmp_path / "ended.npz"), spec, hindsight=True)


def test_a_run_folder_named_like_a_file_can_be_relabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dj.envs.make_device("point-reach").spec
    folder = tmp_path / "run.npz"
    folder.mkdir()
    (folder / "manifest.json").touch()
    episode = Episode(np.zeros((3, spec.obs_dim), np.float32), np.zeros((2, 2)), np.zeros(2), False)
    monkeypatch.setattr(demonstrations, "read_run", lambda path, spec: [episode])
    load_store(str(folder), spec, hindsight=True)


def damaged(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def first(name: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        arrays[name] = arrays[name].astype(float)
        arrays[name].flat[0] = value
        return arrays

    return change


MISTAKES: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (damaged(rewards=None), "has no array rewards; it must have observations, actions, rewards, terminations, truncations"),
    (damaged(rewards=np.zeros(3)), r"arrays of different lengths \(observations 5, actions 5, rewards 3,"),
    (damaged(rewards=np.zeros((5, 1))), "that are no vectors; they must have one dimension"),
    (damaged(next_observations=np.zeros((5, 3))), r"next_observations of shape \(5, 3\); it must be that of observations"),
    (damaged(observations=np.zeros((5, 3)), next_observations=None), r"observations of shape \(3,\); those of env=Some have"),
    (damaged(actions=np.zeros((5, 2))), r"actions of shape \(2,\); those of env=Some have \(1,\)"),
    (first("observations", np.nan), "it has observations that are not finite"),
    (first("rewards", np.inf), "it has rewards that are not finite"),
    (first("rewards", 1e300), "it has rewards that are not finite"),
    (first("actions", np.nan), "it has actions that are not finite"),
    (first("actions", 11.0), r"actions from 1 to 11 in dimension 0; they must be within 0 and 10, the bounds of env=Some"),
    (lambda arrays: {name: array[:0] for name, array in arrays.items()}, "it is empty; it must hold at least one step"),
    (damaged(observations=np.array([{}] * 5)), "cannot be read as a .npz file"),
    (damaged(observations=np.full((5, 2), "a")), "has observations of type <U1; they must be numbers"),
    (damaged(rewards=np.zeros(5, complex)), "has rewards of type complex128; they must be numbers"),
    (damaged(terminations=np.full(5, "False")), "has terminations of type <U5; they must be booleans, or numbers 0 and 1"),
    (damaged(truncations=np.full(5, np.nan)), "has truncations other than 0 and 1; they must be booleans, or numbers 0 and 1"),
]


@pytest.mark.parametrize(("change", "sentence"), MISTAKES)
def test_mistakes_in_a_file(change: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    write_npz(path, made([3, 2], [True, False]))
    np.savez(path, **change(dict(np.load(path))))
    with pytest.raises(dj.ConfigError, match=sentence) as error:
        load_store(str(path), SPEC, hindsight=False)
    assert str(error.value).startswith(f"demonstrations={path}: ")
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.npz").write_text("hello")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        for name in NEEDED:
            archive.writestr(f"{name}.npy", "hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    for name, sentence in (
        ("text.npz", "cannot be read as a .npz file"),
        ("array.npz", "cannot be read as a .npz file"),
        ("zip.npz", "has observations of type"),
        ("none.npz", "cannot be read as a .npz file: .*No such file"),
        ("none", "there is nothing of this name; it must be a Minari id"),
        ("run", "manifest.json cannot be read"),
    ):
        with pytest.raises(dj.ConfigError, match=sentence):
            load_store(str(tmp_path / name), SPEC, hindsight=False)
    monkeypatch.setattr("ddpg_jax.data.minari_file.installed", lambda module: False)
    with pytest.raises(dj.ConfigError, match="demonstrations=a/b-v0 needs the extra data, which is not installed"):
        load_store("a/b-v0", SPEC, hindsight=False)


@needs_minari
def test_mistakes_in_datasets_of_minari(tmp_path: Path) -> None:
    name = as_folder(made([2], [True]), tmp_path)
    with pytest.raises(dj.ConfigError, match=r"bounded by \[0.0\] and \[10.0\]; those of env=Some are bounded by \[-1.0\]"):
        load_store(name, SPEC._replace(action_low=(-1.0,)), hindsight=False)
    with pytest.raises(dj.ConfigError, match="has no dataset of this name here; `minari download no/such-v3` fetches"):
        load_store("no/such-v3", SPEC, hindsight=False)
    spaces: Any = {"observation_space": Box(-9, 9, (2,)), "action_space": Discrete(11)}
    [one] = made([2], [True])
    counted = Episode(one.obs, np.arange(2), one.reward, True)
    write_minari(target_of(str(tmp_path / "counted")), [counted], **spaces, env_spec=None, about={})
    with pytest.raises(dj.ConfigError, match=r"it has Discrete actions; those of env=Some are bounded by \[0.0\] and \[10.0\]"):
        load_store(str(tmp_path / "counted"), SPEC, hindsight=False)
    (tmp_path / "other").mkdir()
    with pytest.raises(dj.ConfigError, match="cannot be read as a Minari dataset"):
        load_store(str(tmp_path / "other"), SPEC, hindsight=False)
