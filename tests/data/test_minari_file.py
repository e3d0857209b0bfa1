"""Datasets that Minari itself opens, with all that was in the episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict

import ddpg_jax as dj
from ddpg_jax.data import Episode
from ddpg_jax.data import minari_file as file

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
ACTIONS = Box(-2, 2, (1,), np.float32)


@pytest.fixture(autouse=True)
def _own_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def episodes(obs: Any) -> list[Episode]:
    rng = np.random.default_rng(0)
    pairs = ((3, True), (5, False), (1, True))
    return [Episode(obs(t + 1), rng.uniform(-2, 2, (t, 1)).astype(np.float32), rng.normal(size=t), end, t) for t, end in pairs]


@pytest.mark.parametrize("goals", [False, True])
def test_minari_gives_back_what_was_written(goals: bool) -> None:
    rng = np.random.default_rng(1)
    sizes = {"observation": 3, "achieved_goal": 2, "desired_goal": 2}
    space: Any = (
        Dict({name: Box(-9, 9, (n,), np.float64) for name, n in sizes.items()}) if goals else Box(-9, 9, (3,), np.float32)
    )

    def obs(length: int) -> Any:
        if goals:
            return {name: rng.normal(size=(length, n)) for name, n in sizes.items()}
        return rng.normal(size=(length, 3)).astype(np.float32)

    given = episodes(obs)
    spec = None if goals else gymnasium.spec("Pendulum-v1")
    target = file.target_of("some/things/mine-v2")
    about = {"description": "Three episodes."}
    file.write_minari(target, given, observation_space=space, action_space=ACTIONS, env_spec=spec, about=about)
    found = minari.load_dataset("some/things/mine-v2")
    assert list(minari.list_local_datasets()) == ["some/things/mine-v2"]
    assert found.spec.total_steps == 9
    assert found.observation_space == space
    assert found.storage.metadata["description"] == "Three episodes."
    assert goals or found.recover_environment().spec.id == "Pendulum-v1"
    for one, other in zip(given, found.iterate_episodes(), strict=True):
        np.testing.assert_equal(other.observations, one.obs)
        np.testing.assert_array_equal(other.actions, one.action)
        np.testing.assert_array_equal(other.rewards, one.reward)
        assert other.terminations.tolist() == [False] * (one.length - 1) + [one.terminated]
        assert other.truncations.tolist() == [False] * (one.length - 1) + [not one.terminated]


def test_a_folder_is_a_dataset_too(tmp_path: Path) -> None:
    given = episodes(lambda length: np.zeros((length, 3), np.float32))
    target = file.target_of(str(tmp_path / "my data"))
    about = {"algorithm_name": "DDPG"}
    file.write_minari(target, given, observation_space=Box(-1, 1, (3,)), action_space=ACTIONS, env_spec=None, about=about)
    found = minari.MinariDataset(tmp_path / "my data" / "data")
    assert (found.total_episodes, found.id) == (3, "my_data-v0")
    assert not (tmp_path / "minari").exists()


def test_a_folder_is_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari itself measures a new dataset only under an absolute path."""
    monkeypatch.chdir(tmp_path)
    given = episodes(lambda length: np.zeros((length, 3), np.float32))
    target = file.target_of("./mine")
    file.write_minari(target, given, observation_space=Box(-1, 1, (3,)), action_space=ACTIONS, env_spec=None, about={})
    assert minari.MinariDataset("mine/data").total_episodes == 3


def test_an_environment_that_json_cannot_describe_is_left_out() -> None:
    """Gymnasium registers classes and functions, too, but Minari keeps specs as JSON."""
    made: Any = gymnasium.Env
    spec = EnvSpec("Mine-v0", entry_point=made)
    given = episodes(lambda length: np.zeros((length, 3), np.float32))
    target = file.target_of("mine-v0")
    file.write_minari(target, given, observation_space=Box(-1, 1, (3,)), action_space=ACTIONS, env_spec=spec, about={})
    assert minari.load_dataset("mine-v0").env_spec is None


def test_what_exists_is_kept_and_what_fails_is_gone(tmp_path: Path) -> None:
    target = file.target_of(str(tmp_path / "new"))
    wrong = [Episode({"a": np.zeros((3, 3))}, np.zeros((2, 1), np.float32), np.zeros(2), True)]
    with pytest.raises(AssertionError):  # Minari's own
        file.write_minari(target, wrong, observation_space=Box(-1, 1, (3,)), action_space=ACTIONS, env_spec=None, about={})
    assert not (tmp_path / "new").exists()
    (target.path / "data").mkdir(parents=True)  # by another process meanwhile
    with pytest.raises(FileExistsError):
        file.write_minari(target, wrong, observation_space=Box(-1, 1, (3,)), action_space=ACTIONS, env_spec=None, about={})
    assert (target.path / "data").exists()
    (tmp_path / "minari" / "old-v0").mkdir(parents=True)
    for out, sentence in (
        (str(tmp_path), "exists already, so name another dataset or remove it"),
        ("old-v0", "exists already, so name another dataset or remove it"),
        (str(tmp_path / "none" / "new"), "it must be a Minari id, such as pend/mine-v0, or a new folder in an existing one"),
    ):
        with pytest.raises(dj.ConfigError, match=sentence):
            file.target_of(out)
