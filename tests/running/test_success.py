"""The rate of successes in evaluations, of environments that tell it and of those that do not."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
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
        ({"success": [[1], [1, 2]]}, None),
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


class Coin(gymnasium.Env):
    """Its episodes have one step or three, and pay 1 at the end if they are successes; both are drawn."""

    observation_space = gymnasium.spaces.Box(0.0, 3.0, (3,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    heads, length, t = 0, 1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.heads, long = map(int, self.np_random.integers(2, size=2))
        self.length, self.t = 1 + 2 * long, 0
        return np.array([self.heads, self.length, 0], np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        obs, ended = np.array([self.heads, self.length, self.t], np.float32), self.t == self.length
        return obs, float(self.heads * ended), ended, False, {"success": self.heads}


def coin(success: Any = lambda transition: transition.next_obs[0] > 0) -> dj.Env:
    """The same in JAX. Its environments are stepped until the last of them has ended, in new episodes with other successes."""
    spec = dj.EnvSpec("Coin", (3,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=5)

    def start(key: Any) -> Any:
        heads, long = jax.random.bernoulli(key, shape=(2,)).astype(jnp.int32)
        return heads, 1 + 2 * long, jnp.int32(0)

    def advance(key: Any, state: Any, action: Any) -> Any:
        heads, length, t = state
        ended = t + 1 == length
        return (heads, length, t + 1), 1.0 * heads * ended, ended

    return dj.envs.make_env(spec, start, advance, observe=lambda state: jnp.stack(state).astype(float), success=success)


@pytest.mark.parametrize(
    ("env", "fields"),
    [
        (coin(), {"placement": "vmap"}),
        (coin(), {"placement": "map"}),
        (Coin, {}),
        (Coin, {"eval_env": "shared"}),
    ],
    ids=["vmap", "map", "host", "shared"],
)
@pytest.mark.filterwarnings("ignore:env=Coin has no time limit")
def test_every_member_has_its_own_rate(env: Any, fields: dict[str, Any]) -> None:
    sweep = dj.sweep(env, seeds=2, **TINY, eval_episodes=12, **fields)
    assert len({row[SUCCESS] for row in sweep.rows}) > 1
    for row in sweep.rows:
        np.testing.assert_allclose(row[SUCCESS], row["eval_return_mean"])


def test_without_a_function_nothing_is_told() -> None:
    run = dj.train(coin(success=None), **TINY, eval_episodes=2)
    assert np.isnan(run.column(SUCCESS)).all()
    told = dj.evaluate(run.policy, coin(), episodes=8)
    assert told.successes.tolist() == told.returns.tolist() != [told.returns[0]] * 8, "as in the environment that is played"


def test_columns_are_those_of_the_rows() -> None:
    sweep = dj.sweep(coin(), seeds=2, grid={"tau": [0.1, 0.2]}, **TINY, eval_episodes=2)
    q_mean = sweep.column("q_mean")
    assert q_mean.shape == sweep.returns.shape == (2, 2, 2)
    assert q_mean[1, 0, 1] == next(row["q_mean"] for row in sweep.rows if (row["member"], row["step"]) == (2, 60))
    alone = dj.train(coin(), **TINY, eval_episodes=2, tau=0.2)
    np.testing.assert_array_equal(alone.column("q_mean"), q_mean[1, 0])
    for name in ("step", "tau", "diverged_step", "nothing"):
        with pytest.raises(dj.ConfigError, match=f"column={name} is not in this sweep; it must be one of eval_return_mean, "):
            sweep.column(name)


def test_point_reach_is_a_success_where_it_ends_at_its_goal() -> None:
    env = dj.envs.make_device("point-reach")

    def act(gain: Any, obs: Any) -> Any:  # towards the goal, or nowhere
        return jnp.clip(gain * (obs[..., 4:] - obs[..., :2]), -1.0, 1.0)

    for gain in (10.0, 0.0):
        found = rollout(env, act, jax.random.key(0), actor_params=jnp.float32(gain), episodes=8)
        assert found.successes.tolist() == [float(gain > 0)] * 8


@pytest.mark.parametrize(
    ("success", "words"),
    [
        (lambda transition: transition.next_obs > 0, r"returns a success of shape \(3,\) from success; it must be \(\)"),
        (lambda transition: -transition.reward, "returns a success of type float32; it must be bool"),
    ],
)
def test_a_function_of_something_else_is_refused(success: Any, words: str) -> None:
    with pytest.raises(dj.ConfigError, match=words):
        dj.train(coin(success), **TINY)
    with pytest.raises(dj.ConfigError, match=words):
        dj.envs.check(coin(success))
    own = coin()._replace(success=success)  # of an Env that was not made by make_env
    with pytest.raises(dj.ConfigError, match="returns success of shape"):
        dj.envs.check(own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in an environment that is registered under the name `coin`."""
    dj.envs.DEVICE["coin"] = coin
    out = tmp_path_factory.mktemp("success") / "run"
    words = [word for name, value in TINY.items() if name != "hidden" for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["train", "coin", *words, "--hidden", "8", "--eval-episodes", "4", "--out", str(out)]) == 0
    yield out
    del dj.envs.DEVICE["coin"]


def rates(out: Path) -> list[float]:
    return [float(row[SUCCESS]) for row in csv.DictReader((out / "metrics.csv").open())]


def test_a_run_folder_tells_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = rates(folder)[-1]
    assert last > 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["points"][0]["final_success_rate"] == last
    assert main(["eval", str(folder), "--episodes", "8"]) == 0
    said = re.match(r"return (\S+) .*; 8 episodes, success rate (\d+) %\n", capsys.readouterr().out)
    assert said is not None
    assert abs(float(said[1]) - int(said[2]) / 100) < 0.1
    assert main(["report", str(folder), "--out", str(tmp_path / "page.md")]) == 0
    cells = [line.split(" | ") for line in (tmp_path / "page.md").read_text().splitlines()]
    head, *_, row = next(cells[i : i + 3] for i, cell in enumerate(cells) if "success rate (mean)" in cell)
    assert row[head.index("success rate (mean)")] == f"{last:.2f}"


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
        (panel,) = panels["coin"].values()
        assert what == column
        np.testing.assert_array_equal(panel[0, :, 1], [float(row[column]) for row in rows])
    capsys.readouterr()
    assert main(["plot", str(folder), "--column", "train_return_mean", "--out", str(tmp_path / "x.png")]) == 0
    assert main(["plot", str(folder), "--column", "seed", "--out", str(tmp_path / "x.png")]) == 2
    assert "column=seed is not in" in capsys.readouterr().err
