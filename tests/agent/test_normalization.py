"""Running moments against NumPy, and that they are applied wherever something is read and learned by nobody."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.agent.normalization import (
    NET,
    OBS,
    REWARD,
    init_moments,
    normalize_rewards,
    normalized_reward,
    standardize,
    update_moments,
    variance,
)
from tests.agents import mlp_agent

TINY = {"steps": 60, "warmup_steps": 20, "batch_size": 8, "hidden": (8,), "eval_every": 60, "eval_episodes": 1}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=3, max_size=3), min_size=2, max_size=8))
def test_moments_are_those_of_all_valid_values_whatever_the_portions(portions: list[list[tuple[float, bool]]]) -> None:
    moments, seen = init_moments(1), []
    for portion in portions:
        values, valid = (np.array(column) for column in zip(*portion, strict=True))
        moments = update_moments(moments, jnp.asarray(values[:, None], jnp.float32), jnp.asarray(valid))
        seen += list(values[valid])
    if len(seen) > 1:  # the little weight of the start does not matter then
        np.testing.assert_allclose(moments["mean"], np.mean(seen), rtol=1e-3, atol=0.02)
        np.testing.assert_allclose(variance(moments), np.var(seen), rtol=1e-2, atol=0.2)
    else:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments))


def test_nothing_seen_changes_next_to_nothing() -> None:
    """A run without a warm-up acts before anything was measured."""
    np.testing.assert_allclose(standardize(init_moments(2), jnp.array([0.5, -2.0])), [0.5, -2.0], rtol=1e-3)


@pytest.mark.parametrize("reward", [-1.0, 0.0, 300.0])
def test_rewards_that_are_always_the_same_are_of_size_one(reward: float) -> None:
    """Their deviation is 0, and no measure of their size; what has not been seen yet, as hindsight's, is bounded."""
    moments = init_moments()
    for _ in range(20):
        moments = update_moments(moments, jnp.full(100, reward), jnp.ones(100, bool))
    found = normalized_reward({REWARD: moments}, jnp.array([reward, 1e6, -1e6]))
    np.testing.assert_allclose(found, [np.sign(reward), 10.0, -10.0], rtol=1e-3)
    sums = normalized_reward({REWARD: moments}, jnp.array([20.0 * reward, 1e6]), size=20)
    np.testing.assert_allclose(sums, [20.0 * np.sign(reward), 200.0], rtol=1e-3, err_msg="the bound of so many")


def test_a_factor_on_rewards_scales_what_is_learned_from_and_its_bound() -> None:
    """Else all rewards beyond a tenth of the factor would look alike."""
    inner = mlp_agent(1, 1, (4,))._replace(update=lambda key, state, batch, weight, hyper, t_update: (state, batch.reward, {}))
    agent = normalize_rewards(inner, n_step=2)
    hyper, reward = dj.Hyperparams(reward_scale=20.0), jnp.array([-1.0, -2.0, -3.0, -0.5])
    state = agent.init(jax.random.key(0), hyper)
    zeros = jnp.zeros((4, 1))
    batch = dj.Transition(zeros, zeros, reward, jnp.ones(4), jnp.zeros(4, bool), zeros)
    state = agent.observe(state, batch, jnp.ones(4, bool))
    _, learned, _ = agent.update(
        jax.random.key(0), state, batch._replace(reward=20.0 * reward), jnp.ones(4), hyper, jnp.int32(0)
    )
    np.testing.assert_allclose(learned, 20.0 * reward / np.sqrt(np.mean(np.square(reward))), rtol=1e-3)


def test_what_is_not_valid_leaves_no_trace() -> None:
    """Not even NaN, which a loop of one's own may have where an environment gave nothing."""
    some = jnp.array([[1.0], [jnp.nan], [3.0]])
    seen = update_moments(init_moments(1), some, jnp.array([True, False, True]))
    whole = update_moments(init_moments(1), some[jnp.array([0, 2])], jnp.ones(2, bool))
    for name in seen:
        np.testing.assert_array_equal(seen[name], whole[name])


def test_moments_forget_rather_than_stop_to_count() -> None:
    """float32 counts to 2**24 and no further; a mean that moves on is followed."""
    moments = {**init_moments(), "count": jnp.float32(2.0**24), "spread": jnp.float32(2.0**24)}
    for _ in range(40):
        moments = update_moments(moments, jnp.full(2**20, 2.0), jnp.ones(2**20, bool))
    assert float(moments["mean"]) > 1.9
    assert float(variance(moments)) < 0.5


@pytest.mark.parametrize("count", [2.0**21, 2.0**23])
def test_moments_follow_changes_that_are_smaller_than_their_rounding(count: float) -> None:
    """After millions of single values; beside float64, which forgets alike."""
    values = np.random.default_rng(0).normal(1.3, 0.05, 40_000).astype(np.float32)
    start = {**init_moments(), "count": jnp.float32(count), "mean": jnp.float32(1.1), "spread": jnp.float32(0.0025 * count)}

    def step(moments: Any, value: Any) -> Any:
        return update_moments(moments, value[None], jnp.ones(1, bool)), None

    found, _ = jax.jit(lambda start: jax.lax.scan(step, start, jnp.asarray(values)))(start)
    mean, spread = float(np.float32(1.1)), float(np.float32(0.0025 * count))
    for value in values.astype(np.float64):
        shift = value - mean
        mean += shift / (count + 1)
        spread = spread + shift**2 * count / (count + 1)
        forgotten = max(0.0, count + 1 - 2.0**23) / (count + 1)
        spread, count = spread * (1 - forgotten), min(count + 1, 2.0**23)
    np.testing.assert_allclose(float(found["mean"]) - 1.1, mean - 1.1, rtol=1e-3)
    np.testing.assert_allclose(float(variance(found)), spread / count, rtol=1e-5)


def test_moments_are_of_what_was_collected_and_learned_by_nobody() -> None:
    """They equal those of the replay's rows, in actor and critic, however large the steps of the optimizers are."""
    fields = {**TINY, "normalize_obs": True, "normalize_reward": True, "actor_lr": 0.1, "critic_lr": 0.1, "num_envs": 2}
    experiment, hyper = dj.configure({**fields, "env": "Pendulum-v1", "actor_decay": 0.1, "critic_decay": 0.1})
    program = dj.make_program(experiment, [dj.Member(0, hyper)])
    state = program.start()
    for tick in dj.run_blocks(program, experiment, state):
        state = tick.state
    arrays, _ = program.save(state)
    rows = dj.replay.unpack(arrays.replay.rows[:60], 3, 1)
    params = arrays.train.params
    for moments, values in (
        (params.actor[OBS], rows.obs),
        (params.critic[NET][OBS], rows.obs),
        (params.critic[REWARD], rows.reward),
    ):
        np.testing.assert_allclose(moments["mean"], np.mean(values, axis=0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(variance(moments), np.var(values, axis=0), rtol=1e-3)


def test_what_is_learned_is_the_plain_update_of_what_is_normalized() -> None:
    """By hand: normalize the batch, update the plain agent, put the moments back."""
    obs_dim, numbers = 2, dj.Hyperparams(actor_lr=1e-2, critic_lr=1e-2)
    plain = mlp_agent(obs_dim, 1, hidden=(4,))
    agent = dj.normalization.normalize_rewards(dj.normalization.normalize_observations(plain, obs_dim))
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(3.0, 5.0, shape), jnp.float32)

    batch = dj.Transition(draw(16, 2), jnp.tanh(draw(16, 1)), draw(16), jnp.full(16, 0.9), jnp.zeros(16, bool), draw(16, 2))
    state = agent.observe(agent.init(jax.random.key(0), numbers), batch, jnp.ones(16, bool))
    after, *_ = agent.update(jax.random.key(1), state, batch, jnp.ones(16), numbers, jnp.int32(0))

    obs, next_obs = np.asarray(batch.obs), np.asarray(batch.next_obs)
    mean, deviation = obs.mean(axis=0), obs.std(axis=0)
    by_hand = batch._replace(
        obs=jnp.asarray((obs - mean) / deviation),
        next_obs=jnp.asarray(np.clip((next_obs - mean) / deviation, -10, 10)),
        reward=batch.reward / np.sqrt(np.mean(np.square(batch.reward))),
    )
    expected, *_ = plain.update(
        jax.random.key(1), plain.init(jax.random.key(0), numbers), by_hand, jnp.ones(16), numbers, jnp.int32(0)
    )
    for found, wanted in ((after.params.actor[NET], expected.params.actor), (after.target, expected.target)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), found, wanted)
    np.testing.assert_allclose(
        agent.act(state.params.actor, batch.obs), plain.act(state.params.actor[NET], by_hand.obs), atol=1e-5
    )


@pytest.mark.parametrize("fields", [{"backend": "device"}, {"backend": "host"}, {"exploration": "parameter"}])
def test_a_saved_policy_normalizes_as_the_run_did(fields: dict[str, Any], tmp_path: Path) -> None:
    run = dj.train("Pendulum-v1", normalize_obs=True, **TINY, **fields)
    run.policy.save(tmp_path)
    obs = np.array([[0.3, -0.9, 4.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(dj.load_policy(tmp_path)(obs), run.policy(obs))
    moved = run.policy.params[OBS]
    assert float(moved["count"]) == pytest.approx(60.0, abs=0.01)
    net = run.policy.params[NET]
    seen = np.asarray(standardize(moved, jnp.asarray(obs, jnp.float32)))
    again = dataclasses.replace(run.policy, params=net)
    np.testing.assert_allclose(again(seen), run.policy(obs), rtol=1e-5)


def test_in_a_sweep_every_member_has_its_own() -> None:
    sweep = dj.sweep("Pendulum-v1", seeds=2, normalize_obs=True, placement="vmap", **TINY)
    alone = dj.train("Pendulum-v1", seed=1, normalize_obs=True, **TINY)
    first, second = (policy.params[OBS]["mean"] for policy in sweep.policies)
    np.testing.assert_allclose(second, alone.policy.params[OBS]["mean"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(first, second, rtol=1e-2)
