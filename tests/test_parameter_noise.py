"""Adaptive parameter-space noise: what is moved, when, how far, and that a run with it resumes."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from ddpg_jax.exploration import EXPLORERS, Perturbation, parameter, sigma
from ddpg_jax.schedules import SCHEDULES
from tests.agents import mlp_agent
from tests.runs import assert_same_arrays

OBS, ACTION, N = 3, 2, 16
KEY = jax.random.key(0)
FIELDS: dict[str, Any] = {
    "env": "Pendulum-v1",
    "exploration": "parameter",
    "steps": 260,
    "warmup_steps": 40,
    "batch_size": 8,
    "hidden": (8,),
    "num_envs": 2,
    "replay_capacity": 400,
    "updates_per_step": 0.5,
    "eval_every": 260,
}


def actor(layer_norm: bool = True) -> tuple[Any, Any]:
    """`act` and parameters whose actions are well inside (-1, 1) and differ between observations."""
    agent = mlp_agent(OBS, ACTION, (16, 16), layer_norm=layer_norm, init="fan_in")
    return agent.act, agent.init(KEY, dj.Hyperparams()).params.actor


@jax.jit
def observations(i: jax.Array) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(jax.random.key(9), i), (N, OBS))


def test_a_restart_keeps_the_scale_that_was_found() -> None:
    """Episodes start again after each evaluation in a shared environment."""
    experiment, hyper = dj.configure(FIELDS)
    env = dj.envs.make_device("Pendulum-v1")
    parts = dj.build(experiment, env.spec)
    training = dj.make_training(
        env, parts.agent, parts.replay, explorer=parts.explorer, warmup=parts.warmup, num_envs=experiment.num_envs
    )
    state = training.init(KEY, hyper)
    state = replace(state, noise=replace(state.noise, ratio=jnp.full(2, 0.25), fresh=jnp.zeros(2)))
    noise = training.restart(KEY, state, jnp.int32(5)).noise
    assert noise.ratio.tolist() == [0.25, 0.25]
    assert noise.fresh.tolist() == [1.0, 1.0]


def test_one_direction_for_each_environment_and_episode() -> None:
    """Drawn where an episode starts and only there; nothing that LayerNorm has learned is moved."""
    explorer, (act, params) = parameter(ACTION), actor()

    @jax.jit
    def step(noise: Perturbation, last: jax.Array, i: jax.Array) -> Perturbation:
        noise = explorer.reset(noise, last)
        return explorer.explore(jax.random.fold_in(KEY, i), noise, act, params, observations(i), dj.Hyperparams(), i)[1]

    first = step(explorer.init(N, params), jnp.zeros(N, bool), jnp.int32(0))
    second = step(first, jnp.zeros(N, bool), jnp.int32(1))
    third = step(second, jnp.arange(N) == 3, jnp.int32(2))
    for path, leaf in jax.tree.leaves_with_path(first.direction):
        if "norm" in jax.tree_util.keystr(path):
            assert not np.any(leaf)
        else:
            assert len(np.unique(np.asarray(leaf))) == leaf.size, "one draw has been used twice"
            assert abs(float(jnp.std(leaf)) - 1.0) < 0.5
    assert_same_arrays(first.direction, second.direction)
    for before, after in zip(jax.tree.leaves(second.direction), jax.tree.leaves(third.direction), strict=True):
        changed = np.asarray(before != after).reshape(N, -1).any(axis=1)
        assert np.flatnonzero(changed).tolist() in ([3], []), "others than the one whose episode has ended"
    assert not np.array_equal(third.direction["action"]["kernel"][3], second.direction["action"]["kernel"][3])


def test_the_same_observation_gets_the_same_action_within_an_episode() -> None:
    """The point of it: the disturbed policy is a policy. Once the scale has settled, at most 1 % moves in a step."""
    explorer, (act, params) = parameter(ACTION), actor()
    obs, hyper, noise = observations(jnp.int32(0)), dj.Hyperparams(noise_sigma=0.1), explorer.init(N, params)
    actions = []
    for i in range(2):
        action, noise = explorer.explore(jax.random.key(i), noise, act, params, obs, hyper, jnp.int32(i))
        actions.append(action)
    difference = np.abs(actions[1] - actions[0])
    assert difference.max() < 0.03 * np.abs(actions[0] - act(params, obs)).max()
    assert len(np.unique(np.round(actions[0] - act(params, obs), 5))) == N * ACTION, "every environment has its own"


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("target", [0.05, 0.2])
def test_the_distance_of_actions_follows_the_target(target: float, layer_norm: bool) -> None:
    """Root mean square over states and episodes, from a scale that is far off; a scale in parameters would not do."""
    explorer, (act, params) = parameter(ACTION), actor(layer_norm)
    params = jax.tree.map(lambda p: 2.0 * p, params)

    def step(noise: Perturbation, i: jax.Array) -> tuple[Perturbation, jax.Array]:
        obs, hyper = observations(i), dj.Hyperparams(noise_sigma=target)
        noise = explorer.reset(noise, jax.random.bernoulli(jax.random.fold_in(jax.random.key(5), i), 0.01, (N,)))
        action, noise = explorer.explore(jax.random.fold_in(KEY, i), noise, act, params, obs, hyper, i)
        return noise, jnp.mean(jnp.square(action - act(params, obs)))

    _, squared = jax.jit(lambda: jax.lax.scan(step, explorer.init(N, params), jnp.arange(3_000)))()
    assert float(jnp.sqrt(squared[1_000:].mean())) == pytest.approx(target, rel=0.15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_target_has_the_schedule_of_the_other_explorers(name: str) -> None:
    """At equal directions and ratios, parameters move in proportion to the scheduled scale."""
    explorer, hyper = EXPLORERS["parameter"](1, SCHEDULES[name]), dj.Hyperparams(noise_sigma=0.4, noise_decay_steps=1_000.0)

    def linear(params: jax.Array, obs: jax.Array) -> jax.Array:
        return obs * params[0]

    start, obs = explorer.init(N, jnp.zeros(1)), 0.1 * jnp.ones((N, 1))
    moved = [explorer.explore(KEY, start, linear, jnp.zeros(1), obs, hyper, jnp.int32(t))[0] for t in (0, 500, 5_000)]
    for action, t in zip(moved, (0, 500, 5_000), strict=True):
        np.testing.assert_allclose(action, moved[0] * sigma(SCHEDULES[name], jnp.int32(t), hyper) / 0.4, rtol=1e-4)


def test_a_policy_that_nothing_moves_and_a_target_of_zero_stay_finite() -> None:
    """The ratio is bounded: 1.01 to the 20,000th is no number any more."""
    explorer, hyper = parameter(ACTION), dj.Hyperparams(noise_sigma=0.0)
    for sigma_target in (0.0, 0.2):
        hyper = hyper._replace(noise_sigma=sigma_target)
        body = jax.jit(
            lambda i, noise, hyper=hyper: explorer.explore(
                KEY, noise, lambda p, o: jnp.zeros((o.shape[0], ACTION)), jnp.zeros(2), jnp.zeros((N, OBS)), hyper, i
            )[1]
        )
        noise = jax.lax.fori_loop(0, 20_000, body, explorer.init(N, jnp.zeros(2)))
        assert np.isfinite(noise.ratio).all()


def test_nothing_is_drawn_where_no_episode_starts_even_under_vmap() -> None:
    """Random bits only inside of a branch, and the branch is still one when members are vmapped."""
    explorer, (act, params) = parameter(ACTION), actor()

    def explore(key: jax.Array, noise: Any, params: Any, obs: jax.Array) -> Any:
        return explorer.explore(key, noise, act, params, obs, dj.Hyperparams(), jnp.int32(0))

    members: Any = jax.tree.map(lambda x: jnp.stack([x, x]), (explorer.init(N, params), params, observations(jnp.int32(0))))
    keys = jax.random.split(KEY)
    jaxpr = jax.make_jaxpr(jax.vmap(explore))(keys, *members)
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert "cond" in names
    assert not any(name.startswith("random_") and name != "random_wrap" for name in names)
    together = jax.vmap(explore)(keys, *members)
    for m in range(2):
        alone = explore(keys[m], *jax.tree.map(lambda x, m=m: x[m], members))
        jax.tree.map(lambda x, y, m=m: np.testing.assert_allclose(x[m], y, rtol=1e-5, atol=1e-6), together, alone)


def test_a_member_does_not_draw_because_another_one_does() -> None:
    """The branch is taken for all; whose episode goes on keeps its direction."""
    explorer, (act, params) = parameter(ACTION), actor()
    noise = explorer.explore(KEY, explorer.init(N, params), act, params, observations(jnp.int32(0)), dj.Hyperparams(), 0)[1]
    fresh: Any = jax.tree.map(lambda x: jnp.stack([x, x]), noise)
    fresh = fresh.replace(fresh=fresh.fresh.at[0].set(1.0))
    keys = jax.random.split(jax.random.key(8))

    def explore(key: jax.Array, noise: Any) -> Any:
        return explorer.explore(key, noise, act, params, observations(jnp.int32(1)), dj.Hyperparams(), jnp.int32(1))[1]

    after = jax.vmap(explore)(keys, fresh).direction["action"]["kernel"]
    np.testing.assert_array_equal(after[1], noise.direction["action"]["kernel"])
    assert np.all(np.asarray(after[0] != noise.direction["action"]["kernel"]))


def members(count: int) -> list[dj.Member]:
    return [dj.Member(seed, dj.Hyperparams(noise_sigma=0.1 * (seed + 1))) for seed in range(count)]


@pytest.mark.parametrize("backend", ["device", "host"])
def test_a_run_with_it_resumes_bit_for_bit(backend: str) -> None:
    """Also in the middle of an episode: direction and scale are part of what is saved."""
    experiment, _ = dj.configure({**FIELDS, "backend": backend})
    everyone, runs = np.ones(1, bool), []
    for stop in (None, 70):
        program = dj.make_program(experiment, members(1))
        state = program.advance(program.start(), 0, 20, active=everyone)[0]
        if stop is not None:
            state = program.advance(state, 20, stop, active=everyone)[0]
            arrays, text = program.save(state)
            arrays = jax.tree.map(np.array, arrays)
            program.close()
            program = dj.make_program(experiment, members(1))
            state = program.load(jax.tree.map(jnp.asarray, arrays), text, stop)
        state = program.advance(state, stop or 20, 130, active=everyone)[0]
        runs.append(jax.tree.map(np.array, program.save(state)[0]))
        program.close()
    assert_same_arrays(*runs)
    assert np.any(runs[0].noise.ratio != 1.0)


def test_where_environments_could_not_be_kept_new_directions_are_drawn() -> None:
    """Zeros in place of the noise would stop exploration for good."""
    count = 2
    experiment, _ = dj.configure({**FIELDS, "backend": "host"})
    program = dj.make_program(experiment, members(count))
    everyone = np.ones(count, bool)
    state = program.advance(program.start(), 0, 20, active=everyone)[0]
    state = program.advance(state, 20, 60, active=everyone)[0]
    first = np.array(program.save(program.start())[0].obs)
    before = program.save(state)[0].noise.direction
    state = program.load(jax.tree.map(jnp.array, program.save(state)[0]), None, 60)
    assert not np.any(np.asarray(program.save(state)[0].obs) == first), "the starts of the run do not come once more"
    noise = program.save(program.advance(state, 60, 62, active=everyone)[0])[0].noise
    program.close()
    drawn = np.asarray(noise.direction["action"]["kernel"])
    assert np.all(drawn != np.asarray(before["action"]["kernel"]))
    assert np.all(drawn != 0.0)


@pytest.mark.parametrize(("backend", "placement"), [("device", "vmap"), ("host", "map")])
def test_members_explore_as_they_do_alone(backend: str, placement: str) -> None:
    """To rounding, before chaos enlarges it; each with its own target and its own directions."""
    experiment, _ = dj.configure({**FIELDS, "backend": backend, "placement": placement})
    found = []
    for some in (members(2), members(2)[1:]):
        program = dj.make_program(experiment, some)
        state = program.advance(program.start(), 0, 20, active=np.ones(len(some), bool))[0]
        state = program.advance(state, 20, 30, active=np.ones(len(some), bool))[0]
        found.append(jax.tree.map(np.array, program.save(state)[0].noise))
        program.close()
    together, alone = found
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-5), together, alone)
    assert np.all(together.direction["action"]["kernel"][0] != together.direction["action"]["kernel"][1])
