"""What is measured besides, against values known by hand; and that it is a part like the others: off, it is not there."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax import diagnostics
from tests.runs import run


def test_columns_are_what_they_say() -> None:
    """Norm over all leaves, the share of components at a bound, quantiles of sizes."""
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    actor = diagnostics.of_actor(grads, jnp.array([[1.0, -0.995], [0.5, 0.0]]))
    critic = diagnostics.of_critic(grads, jnp.arange(-50.0, 51.0))
    assert {name: pytest.approx(float(x), abs=1e-5) for name, x in {**actor, **critic}.items()} == {
        "actor_grad_norm": 5.0, "saturation": 0.5, "critic_grad_norm": 5.0, "td_q10": 5.0, "td_q50": 25.0, "td_q90": 45.0,
    }  # fmt: skip
    assert set(diagnostics.COLUMNS) == {*actor, *critic}


@pytest.mark.parametrize("backend", ["device", "host"])
def test_they_are_columns_of_the_metrics_and_change_nothing(backend: str, tmp_path: Path, command_line: None) -> None:
    """With a delayed actor, whose measurements are missing at every second update."""
    words = ["train", "Pendulum-v1", "--backend", backend, "--steps", "40", "--warmup-steps", "20", "--batch-size", "8"]
    words += ["--hidden", "8", "--policy-delay", "2", "--eval-episodes", "1", "--eval-every", "20"]
    tables = {}
    for name, more in (("off", []), ("on", ["--diagnostics", "true"])):
        assert run(*words, "--out", str(tmp_path / name), *more) == 0
        tables[name] = list(csv.DictReader((tmp_path / name / "metrics.csv").open()))
    assert [set(tables["on"][0]) - set(tables["off"][0])] == [set(diagnostics.COLUMNS)]
    assert all(0.0 <= float(tables["on"][-1][name]) < 1e4 for name in diagnostics.COLUMNS)
    same = [name for name in tables["off"][0] if name != "updates_per_second"]
    np.testing.assert_allclose(
        *([float(row[name] or "nan") for row in tables[k] for name in same] for k in ("off", "on")), rtol=2e-4
    )


def test_overestimation_against_a_critic_that_knows() -> None:
    """An environment that always pays 1 for ten steps: returns are geometric sums, and values what the critic is told."""
    env = dj.envs.make_device("probe/constant-reward")
    agent = dj.make_agent(env.spec.obs_dim, env.spec.action_dim, hidden=(4,))
    agent = agent._replace(q_values=lambda params, obs, action: jnp.stack([jnp.full(obs.shape[0], q) for q in (7.0, 5.0)]))
    state = agent.init(jax.random.key(0), dj.Hyperparams())
    values, returns, left = diagnostics.overestimation(env, agent, state, jax.random.key(1), gamma=0.5, episodes=3)
    assert values.shape == returns.shape == left.shape == (env.spec.max_steps, 3)
    np.testing.assert_allclose(values, 5.0)
    steps = np.asarray(left)
    assert (steps[0] >= 1).all()
    np.testing.assert_allclose(returns, np.where(steps > 0, 2.0 * (1.0 - 0.5**steps), 0.0), rtol=1e-6)
