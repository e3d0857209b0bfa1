"""The command that records episodes and replays as datasets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpg_jax.agent.policy import load_policy
from ddpg_jax.data.run_replay import newest_ring
from tests.runs import BACKENDS, manifest, newest, run

NEEDS_MINARI = pytest.mark.skipif(not (find_spec("minari") and find_spec("h5py")), reason="the extra `data` is not installed")


@pytest.fixture(autouse=True)
def _own_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@NEEDS_MINARI
@pytest.mark.parametrize("backend", BACKENDS)
def test_episodes_of_the_policy_are_a_dataset(
    backend: str, whole_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import minari

    folder = whole_run(backend)
    capsys.readouterr()
    ways = {"own": [], "noisy": ["--noise", "0.5"], "random": ["--random"]} if backend == "host" else {"own": []}
    for name, words in ways.items():
        assert run("record", str(folder), "--episodes", "2", "--out", f"pend/{name}-v0", *words) == 0
        assert capsys.readouterr().out.startswith(f"pend/{name}-v0: 2 episodes, 400 steps, return -")
    policy = load_policy(folder)
    for name in ways:
        found = minari.load_dataset(f"pend/{name}-v0")
        assert found.env_spec is not None
        assert found.env_spec.id == "Pendulum-v1"
        for episode in found.iterate_episodes():
            assert len(episode) == 200
            assert episode.truncations[-1]
            assert np.allclose(episode.actions, policy(episode.observations[:-1]), atol=1e-4) == (name == "own")
            assert np.abs(episode.actions).max() <= 2.0


def test_episodes_of_the_best_policy_are_a_file(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    """Which needs no Minari, and holds the actions of that policy and of no other."""
    folder, out = whole_run(), tmp_path / "best.npz"
    assert run("record", str(folder), "--best", "--episodes", "2", "--out", str(out)) == 0
    file, best = np.load(out), load_policy(folder / "policy_best")
    assert file["observations"].shape == file["next_observations"].shape == (400, 3)
    np.testing.assert_allclose(file["actions"], best(file["observations"]), atol=1e-4)
    assert np.flatnonzero(file["truncations"]).tolist() == [199, 399]
    assert not file["terminations"].any()


@NEEDS_MINARI
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_replay_of_a_run_is_a_dataset_and_reading_changes_nothing(
    backend: str, copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    import minari

    folder = copy_of(backend)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run("record", str(folder), "--replay", "--out", str(tmp_path / "replay")) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    found = minari.MinariDataset(tmp_path / "replay" / "data")
    assert [len(episode) for episode in found.iterate_episodes()] == [200, 200, 200]
    kept: Any = newest(folder)
    obs = np.concatenate([episode.observations[:-1] for episode in found.iterate_episodes()])
    np.testing.assert_array_equal(obs, kept.arrays.replay.rows[:600, :3])


def test_the_replay_of_a_member_of_a_sweep(command_line: None, tmp_path: Path) -> None:
    words = "--steps 90 --warmup-steps 60 --batch-size 16 --eval-every 90 --hidden 8 --eval-episodes 1".split()
    folder = tmp_path / "sweep"
    assert run("sweep", "probe/observation", "--seeds", "3", *words, "--out", str(folder)) == 0
    rings = [newest_ring(folder, manifest(folder), m)[0][:90] for m in range(3)]
    assert not np.array_equal(rings[0], rings[1])
    assert not np.array_equal(rings[1], rings[2])
    alone = tmp_path / "alone"
    assert run("train", "probe/observation", "--seed", "2", *words, "--out", str(alone)) == 0
    np.testing.assert_array_equal(newest_ring(alone, manifest(alone))[0][:90], rings[2])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--random", "--replay"], "--random and --replay cannot be combined; give one of them"),
        (["--best", "--replay"], "--best and --replay cannot be combined; give one of them"),
        (["--out", "nowhere/one.npz"], "out=nowhere/one.npz is not allowed; it must be a file in an existing folder"),
        (["--noise", "-1"], "noise=-1 is not allowed; it must be a number of at least 0"),
        (["--episodes", "0"], "episodes=0 is not allowed; it must be a whole number of at least 1"),
        pytest.param(
            ["--out", "none/of these/new"],
            "it must be a Minari id, such as pend/mine-v0, or a new folder in an existing one",
            marks=NEEDS_MINARI,
        ),
        (["--member", "1"], "member=1 is not allowed"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], sentence: str, whole_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole_run()
    capsys.readouterr()
    assert run("record", str(folder), "--out", str(tmp_path / "some.npz"), *words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_a_replay_that_is_not_there_is_named(
    copy_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = copy_of(), ("--replay", "--out", str(tmp_path / "some.npz"))
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file() and "arrays" in path.parts:
            path.write_bytes(b"")
    assert run("record", str(folder), *words) == 2
    assert f"the newest checkpoint of {folder} cannot be read" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    assert run("record", str(folder), *words) == 2
    assert f"{folder} holds no checkpoint, and so no replay" in capsys.readouterr().err
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "processes": 2}))
    assert run("record", str(folder), *words) == 2
    assert "a run of several processes" in capsys.readouterr().err
