"""What is measured besides, against values known by hand; and that it is a part like the others: off, it is not there."""

import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.agent import diagnostics
from ddpg_jax.replay.hindsight import final, hindsight
from ddpg_jax.replay.ring import make_ring
from ddpg_jax.replay.samplers import REPLAYS, with_age
from tests.agents import mlp_agent
from tests.runs import run


def test_columns_are_what_they_say() -> None:
    """Norm over all leaves, the share of components at a bound, quantiles of sizes."""
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    actor = diagnostics.measure_actor(grads, jnp.array([[1.0, -0.995], [0.5, 0.0]]))
    critic = diagnostics.measure_critic(grads, jnp.arange(-50.0, 51.0))
    assert {name: pytest.approx(float(x), abs=1e-5) for name, x in {**actor, **critic}.items()} == {
        "actor_grad_norm": 5.0, "saturation": 0.5, "critic_grad_norm": 5.0, "td_q10": 5.0, "td_q50": 25.0, "td_q90": 45.0,
    }  # fmt: skip
    assert set(diagnostics.COLUMNS) == {*actor, *critic, "replay_age"}


@pytest.mark.parametrize("relabels", [False, True])
@pytest.mark.parametrize("kind", REPLAYS)
@pytest.mark.parametrize(("capacity", "num_envs"), [(5, 1), (11, 3)])
def test_replay_age_equals_that_of_lists(capacity: int, num_envs: int, kind: str, relabels: bool) -> None:
    """Batch by batch, while the ring fills and goes round four times: each transition tells by its observation and action when
    and where it was stored, and lists tell what has been stored there since. Some steps are not stored, so that lanes differ.
    """
    goal = dj.Goal(1, lambda achieved, desired: (jnp.zeros(achieved.shape[:-1]), jnp.ones(achieved.shape[:-1])))
    ring = hindsight(goal, final) if relabels else make_ring
    replay, hyper = (
        with_age(REPLAYS[kind](3, 1, capacity, batch_size=16, num_envs=num_envs, n_step=2, ring=ring)),
        dj.Hyperparams(),
    )
    add, sample, feedback, measure = (jax.jit(part) for part in (replay.add, replay.sample, replay.feedback, replay.measure))
    rng, state, stored, ages = np.random.default_rng(0), replay.init(), [[] for _ in range(num_envs)], []
    for k in range(4 * capacity // num_envs):
        valid, last = rng.random((2, num_envs)) < np.array([[0.8], [0.2]])
        valid |= k == 0
        obs, action = np.full((num_envs, 3), k, np.float32), np.arange(num_envs, dtype=np.float32)[:, None]
        one: Any = dj.Transition(*map(jnp.asarray, (obs, action, 0.0 * action[:, 0], 1.0 - last, last, obs + 1)))
        state = add(state, one, valid)
        for n in np.flatnonzero(valid):
            stored[n].append(k)
        batch, _, index = sample(jax.random.key(k), state, hyper, jnp.int32(k))
        lanes, clocks = np.asarray(batch.action[:, 0], int), np.asarray(batch.obs[:, 0], int)
        since = [sum(other > clock for other in stored[n]) for n, clock in zip(lanes, clocks, strict=True)]
        ages.append(num_envs * np.mean(since))
        assert float(measure(state, index)["replay_age"]) == pytest.approx(ages[-1])
        state = feedback(state, index, rng.random(16).astype(np.float32), hyper)
    assert max(ages) > 0.3 * capacity, "nothing of some age was ever drawn"


def test_replay_age_is_that_of_its_own_member() -> None:
    """Two members share a call: each reports for itself, in steps of all of its environments."""
    fields = {"num_envs": 2, "replay_capacity": 8, "batch_size": 8, "warmup_steps": 8, "steps": 80, "hidden": (4,)}
    quick = {"diagnostics": True, "placement": "vmap", "updates_per_step": 0.5, "eval_episodes": 1, "eval_every": 80}
    sweep = dj.sweep("Pendulum-v1", seeds=2, **fields, **quick)
    one, other = (row["replay_age"] for row in sweep.rows)
    assert one != other
    assert [one, other] == pytest.approx([2 * 1.5] * 2, abs=0.4), "4 rows a lane have 1.5 newer ones on average"


@pytest.mark.parametrize("backend", ["device", "host"])
def test_they_are_columns_of_the_metrics_and_change_nothing(backend: str, tmp_path: Path, command_line: None) -> None:
    """With a delayed actor, whose measurements are missing at every second update."""
    words = ["train", "Pendulum-v1", "--backend", backend, "--steps", "40", "--warmup-steps", "20", "--batch-size", "8"]
    words += ["--hidden", "8", "--policy-delay", "2", "--eval-episodes", "1", "--eval-every", "20", "--replay-capacity", "8"]
    tables = {}
    for name, more in (("off", []), ("on", ["--diagnostics", "true"])):
        assert run(*words, "--out", str(tmp_path / name), *more) == 0
        tables[name] = list(csv.DictReader((tmp_path / name / "metrics.csv").open()))
    assert [set(tables["on"][0]) - set(tables["off"][0])] == [set(diagnostics.COLUMNS)]
    assert all(0.0 <= float(tables["on"][-1][name]) < 1e4 for name in diagnostics.COLUMNS)
    assert float(tables["on"][-1]["replay_age"]) == pytest.approx(3.5, abs=0.8), "8 rows have 3.5 newer ones on average"
    same = [name for name in tables["off"][0] if name not in ("updates_per_second", "seconds")]
    np.testing.assert_allclose(
        *([float(row[name] or "nan") for row in tables[k] for name in same] for k in ("off", "on")), rtol=2e-4
    )


def test_overestimation_against_a_critic_that_knows() -> None:
    """An environment that always pays 1 for five steps: returns are geometric sums, and values what the critic is told."""
    env = dj.envs.make_device("probe/truncation")
    agent = mlp_agent(env.spec.obs_dim, env.spec.action_dim, hidden=(4,))
    agent = agent._replace(q_values=lambda params, obs, action: jnp.stack([jnp.full(obs.shape[0], q) for q in (7.0, 5.0)]))
    state = agent.init(jax.random.key(0), dj.Hyperparams())
    values, returns, left = diagnostics.overestimation(env, agent, state, jax.random.key(1), dj.Hyperparams(gamma=0.5), 3)
    assert values.shape == returns.shape == left.shape == (env.spec.max_steps, 3)
    np.testing.assert_allclose(values, 5.0)
    steps = np.asarray(left)
    assert (steps[0] == 5).all()
    np.testing.assert_allclose(returns, np.where(steps > 0, 2.0 * (1.0 - 0.5**steps), 0.0), rtol=1e-6)
    # with scaled rewards, in the critic's units
    _, scaled, _ = diagnostics.overestimation(
        env, agent, state, jax.random.key(1), dj.Hyperparams(gamma=0.5, reward_scale=0.1), 3
    )
    np.testing.assert_allclose(scaled, 0.1 * returns, rtol=1e-6)
    timeless = env._replace(spec=env.spec._replace(max_steps=None))
    with pytest.raises(dj.ConfigError, match="has no time limit"):
        diagnostics.overestimation(timeless, agent, state, jax.random.key(1), dj.Hyperparams())
