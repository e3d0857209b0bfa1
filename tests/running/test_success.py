"""The rate of successes in evaluations, of environments that tell it and of those that do not."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app import plot as plots
from ddpg_jax.app.cli import main
from ddpg_jax.envs.host.lanes import success_of
from ddpg_jax.running.rows import SUCCESS
from ddpg_jax.training.rollout import rollout

TINY: dict[str, Any] = {"steps": 60, "warmup_steps": 20, "eval_every": 30, "hidden": (8,), "batch_size": 8}


class Told(gymnasium.Env):
    """Tells at the ends of three of four episodes whether they are successes, and at other steps the opposite."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    outcomes = (True, np.float32(0.0), None, True)

    def __init__(self) -> None:
        self.t, self.episode = 0, -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return np.zeros(1, np.float32), {"is_success": False}

    def step(self, action: Any) -> Any:
        self.t += 1
        outcome = self.outcomes[self.episode % 4]
        told = {} if outcome is None else {"is_success": outcome if self.t == 3 else not outcome}
        return np.zeros(1, np.float32), 1.0, self.t == 3, False, told


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"is_success": True, "success": False}, 1.0),
        ({"is_success": np.array([0])}, 0.0),
        ({"success": 1.0}, 1.0),
        ({"is_success": math.nan}, None),
        ({"success": None}, None),
        ({"success": "yes"}, None),
        ({"success": np.ones(2)}, None),
        ({}, None),
        (None, None),
    ],
)
def test_what_info_tells(info: Any, expected: float | None) -> None:
    found = success_of(info)
    assert math.isnan(found) if expected is None else found == expected


@pytest.mark.filterwarnings("ignore:env=Told has no time limit")
@pytest.mark.parametrize(("episodes", "expected"), [(10, [0.0, math.nan, 1.0]), (30, [1 / 2, 1 / 2, 2 / 3])])
def test_the_rate_is_that_of_the_last_steps_of_the_episodes_that_tell_it(episodes: int, expected: list[float]) -> None:
    """In each of ten environments, the first evaluation begins with the second episode, after the trial."""
    run = dj.train(Told, **{**TINY, "steps": 90}, eval_episodes=episodes)
    np.testing.assert_array_equal([row[SUCCESS] for row in run.rows], expected)


def test_an_environment_in_jax_tells_it_by_a_function() -> None:
    env = dj.envs.make_device("point-reach")

    def act(gain: Any, obs: Any) -> Any:  # towards the goal, more or less quickly
        return jnp.clip(gain * (obs[..., 4:] - obs[..., :2]), -1.0, 1.0)

    for gain, rate in ((10.0, 1.0), (0.0, 0.0)):
        found = rollout(env, act, jax.random.key(0), actor_params=jnp.float32(gain), episodes=8)
        assert found.successes.mean() == rate
        assert (found.lengths == 50).all()
    silent = rollout(env._replace(success=None), act, jax.random.key(0), actor_params=jnp.float32(10.0), episodes=8)
    assert jnp.isnan(silent.successes).all()
    np.testing.assert_array_equal(silent.returns, rollout(env, act, jax.random.key(0), actor_params=10.0, episodes=8).returns)


def test_a_function_of_another_shape_is_refused() -> None:
    env = dj.envs.make_device("point-reach")._replace(success=lambda transition: transition.next_obs > 0)
    with pytest.raises(dj.ConfigError, match=r"returns success of shape \(6,\) and type bool; it must be \(\) and bool"):
        dj.envs.check(env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("success") / "run"
    assert command("train", out) == 0
    return out


def command(what: str, out: Path, *more: str) -> int:
    words = [word for name, value in TINY.items() if name != "hidden" for word in (f"--{name.replace('_', '-')}", str(value))]
    return main([what, "point-reach", *words, "--hidden", "8", "--eval-episodes", "4", "--out", str(out), *more])


def rates(out: Path) -> list[float]:
    return [float(row[SUCCESS]) for row in csv.DictReader((out / "metrics.csv").open())]


def test_a_run_folder_tells_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(0.0 <= rate <= 1.0 for rate in rates(folder))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["points"][0]["final_success_rate"] == rates(folder)[-1]
    assert main(["eval", str(folder), "--episodes", "3"]) == 0
    assert " % successes\n" in capsys.readouterr().out


def test_a_run_of_an_older_version_gets_the_column(folder: Path, tmp_path: Path) -> None:
    """Its rows have none, and its checkpoint has the digest of these rows."""
    env = ("--env-kwargs", "max_episode_steps=20")
    words = ["Pendulum-v1", *env, "--warmup-steps", "20", "--batch-size", "8", "--hidden", "8", "--eval-every", "30"]
    assert main(["train", *words, "--steps", "60", "--out", str(tmp_path / "old")]) == 0
    table = tmp_path / "old" / "metrics.csv"
    table.write_text("".join(line.rpartition(",")[0] + "\n" for line in table.read_text().splitlines()))
    for steps in ("60", "90"):  # it has finished, and then becomes longer
        assert main(["train", *words, "--steps", steps, "--out", str(tmp_path / "old"), "--resume"]) == 0
    assert all(math.isnan(rate) for rate in rates(tmp_path / "old"))
    assert len(rates(tmp_path / "old")) == 3


def test_any_column_can_be_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots.figures, "learning_curves", lambda panels, out, **given: drawn.append((panels, given["what"])))
    for column in (SUCCESS, "q_mean"):
        assert main(["plot", str(folder), "--column", column, "--out", str(tmp_path / "x.png")]) == 0
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        panels, what = drawn.pop()
        (panel,) = panels["point-reach"].values()
        assert what == column
        np.testing.assert_array_equal(panel[0, :, 1], [float(row[column]) for row in rows])
    capsys.readouterr()
    assert main(["plot", str(folder), "--column", "seed", "--out", str(tmp_path / "x.png")]) == 2
    assert "column=seed is not in" in capsys.readouterr().err
