"""A trained policy is evaluated in its environment, or in another one of the same shapes and bounds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.app.cli import main
from ddpg_jax.types import EnvOptions


class Echo(gymnasium.Env):
    """Pays `scale` times the action for each of four steps, and counts how many are open."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-3.0, 1.0, (1,))
    open = 0

    def __init__(self, scale: float = 1.0, *, fails: bool = False):
        type(self).open += 1
        self.scale, self.fails, self.t = scale, fails, 0

    def _obs(self) -> np.ndarray:
        return np.array([self.t / 4, 0.5], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.fails and self.t == 3:
            raise RuntimeError("the arm is stuck")
        return self._obs(), self.scale * float(action[0]), self.t == 4, False, {}

    def close(self) -> None:
        type(self).open -= 1


@pytest.fixture(scope="module")
def policy() -> dj.Policy:
    return dj.train(Echo, steps=100, warmup_steps=64, hidden=(8,), eval_episodes=1).policy


def test_returns_are_those_of_a_loop_written_by_hand(policy: dj.Policy) -> None:
    actions = policy(np.array([[t / 4, 0.5] for t in range(4)], np.float32))
    before = Echo.open
    returns, lengths, successes = dj.evaluate(policy, lambda: Echo(scale=2.0), episodes=3)
    np.testing.assert_allclose(returns, np.repeat(2.0 * actions.sum(), 3), rtol=1e-6)
    assert lengths.tolist() == [4, 4, 4]
    assert np.isnan(successes).all(), "the environment tells none"
    assert Echo.open == before, "environments are closed"


def test_the_environment_may_be_one_in_jax(policy: dj.Policy) -> None:
    spec = dj.EnvSpec("Echo", (2,), (1,), action_low=(-3.0,), action_high=(1.0,), max_steps=4)
    env = dj.envs.make_env(
        spec,
        lambda key: jnp.int32(0),
        lambda key, t, action: (t + 1, action[0], False),
        observe=lambda t: jnp.array([t / 4, 0.5]),
    )
    here, there = dj.evaluate(policy, env, episodes=2), dj.evaluate(policy, Echo, episodes=2)
    np.testing.assert_allclose(here.returns, there.returns, rtol=1e-6)
    assert here.lengths.tolist() == there.lengths.tolist()


def test_a_failure_of_the_environment_is_told_and_it_is_closed(policy: dj.Policy) -> None:
    before = Echo.open
    with pytest.raises(dj.EnvironmentFailure, match="the arm is stuck"):
        dj.evaluate(policy, lambda: Echo(fails=True), episodes=1)
    assert Echo.open == before


def test_by_default_it_is_the_environment_of_the_training(tmp_path: Path) -> None:
    """With its options, which a policy that is saved keeps; those that are given take their place."""
    run = dj.train("Pendulum-v1", steps=1_000, warmup_steps=999, hidden=(8,), eval_episodes=1)
    usual = dj.evaluate(run.policy, episodes=2, seed=3).returns
    again = dj.evaluate(run.policy, "Pendulum-v1", episodes=2, seed=3).returns
    light = dj.evaluate(run.policy, env_kwargs={"g": 0.1}, episodes=2, seed=3).returns
    np.testing.assert_array_equal(usual, again)
    assert not np.allclose(usual, light)
    assert not np.array_equal(usual, dj.evaluate(run.policy, episodes=2, seed=4).returns)
    dataclasses.replace(run.policy, options=EnvOptions(env_kwargs='{"g": 0.1}')).save(tmp_path)
    kept = dj.load_policy(tmp_path)
    np.testing.assert_array_equal(dj.evaluate(kept, episodes=2, seed=3).returns, light)
    np.testing.assert_array_equal(dj.evaluate(kept, episodes=2, seed=3, env_kwargs={}).returns, usual)
    np.testing.assert_array_equal(dj.evaluate(kept, "Pendulum-v1", episodes=2, seed=3).returns, usual)


def test_a_run_tells_its_policies_how_its_environment_was_made() -> None:
    short = {"steps": 60, "warmup_steps": 50, "batch_size": 8, "hidden": (4,), "eval_episodes": 1}
    run = dj.train("Pendulum-v1", env_kwargs={"g": 0.1}, **short)
    assert run.policy.options == EnvOptions(env_kwargs='{"g": 0.1}')


@pytest.mark.parametrize("options", [3, {"env_kwargs": 3}, {"wrappers": "x"}, {"imports": [1]}, {"more": []}])
def test_options_in_a_file_are_those_of_an_environment(options: Any, policy: dj.Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    about = json.loads((tmp_path / "policy.json").read_text())
    del about["own_sha256"]
    (tmp_path / "policy.json").write_text(json.dumps({**about, "options": options}))
    with pytest.raises(
        dj.ConfigError, match=r"options=.* is not allowed; it must be texts, of the fields imports, env_kwargs, "
    ):
        dj.load_policy(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"env": "Pendulum-v1"}, r"env=Pendulum-v1 is not allowed .* obs_shape is \(3,\) .* \(2,\)"),
        ({"env": Echo, "episodes": 0}, "episodes=0 is not allowed"),
        ({"env": Echo, "seed": -1}, "seed=-1 is not allowed"),
        ({"env": Echo, "tau": 0.1}, "tau=0.1 is not allowed in evaluate; it must be one of backend"),
        (
            {"env": Echo, "env_kwargs": {"scale": 2.0}},
            "env_kwargs=.* is not allowed with an environment that is given as an obj",
        ),
        (
            {"env": Echo, "backend": "device"},
            "backend=device is not allowed .* for the host; it must be host or auto",
        ),
        ({"env": dj.envs.make_device("probe/lqr"), "backend": "host"}, "backend=host is not allowed .* for the device"),
        ({}, "Echo"),  # a name that Gymnasium does not know
    ],
    ids=str,
)
def test_what_cannot_be_evaluated_is_refused(policy: dj.Policy, given: dict[str, Any], words: str) -> None:
    with pytest.raises(dj.ConfigError, match=words):
        dj.evaluate(policy, **given)


def test_a_policy_that_has_diverged_is_refused(policy: dj.Policy) -> None:
    lost = dj.Policy(policy.spec, {**policy.params, "lost": np.array(np.nan)}, policy.network, policy.fields)
    with pytest.raises(dj.ConfigError, match="policy has diverged"):
        dj.evaluate(lost, Echo)


def test_the_best_of_a_sweep_over_environments_is_that_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Returns of different tasks cannot be compared."""
    short = {"steps": 60, "warmup_steps": 50, "batch_size": 8, "hidden": (4,), "eval_episodes": 1}
    sweep = dj.sweep("probe/lqr", grid={"env": ["probe/lqr", "probe/observation"]}, **short)
    with pytest.raises(dj.ConfigError, match="env=None is not allowed; it must be one of probe/lqr, probe/observation"):
        sweep.best()
    assert [sweep.best(env)["point"] for env in ("probe/lqr", "probe/observation")] == [0, 1]
    words = "sweep probe/lqr --grid env=probe/lqr,probe/observation --steps 60 --warmup-steps 50 --batch-size 8 --hidden 4"
    assert main([*words.split(), "--out", str(tmp_path / "s"), "--eval-episodes", "1"]) == 0
    assert main(["eval", str(tmp_path / "s"), "--episodes", "1"]) == 2
    assert "name a member with --member, such as 0 in probe/lqr, 1 in probe/observation" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "s"), "--episodes", "1", "--member", "1"]) == 0
