"""Environments written in JAX: the Pendulum is Gymnasium's, and all, those of other libraries too, keep one contract."""

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.phys2d.pendulum import PendulumFunctional
from gymnasium.spaces import Box, Dict, Discrete

import ddpg_jax as dj
from ddpg_jax.envs.registry import DEVICE, make_device
from ddpg_jax.envs.spaces import spec_of
from ddpg_jax.types import STEP_FIELDS
from tests.families import GYMNAX, PHYSICS, family_env

LANES = 2


def roll(env: dj.Env, seed: int, steps: int) -> tuple[jax.Array, dj.Transition, jax.Array]:
    """`LANES` environments under random actions: first observations `[N, O]`, transitions `[T, N]`, observations to act on."""
    return compiled_roll(env, steps)(jax.random.split(jax.random.key(seed), 3))


@functools.lru_cache(maxsize=1)
def compiled_roll(env: dj.Env, steps: int) -> Any:
    """`(keys) -> what roll gives`, compiled at the first call."""

    def step(keys: jax.Array, carry: Any, t: jax.Array) -> Any:
        env_state, obs = carry
        action = jax.random.uniform(jax.random.fold_in(keys[1], t), (LANES, env.spec.action_dim), minval=-1.0, maxval=1.0)
        lanes = jax.random.split(jax.random.fold_in(keys[2], t), LANES)
        env_state, obs, transition = jax.vmap(env.step)(lanes, env_state, obs, action)
        return (env_state, obs), (transition, obs)

    @jax.jit
    def whole(keys: jax.Array) -> Any:
        env_state, first = jax.vmap(env.reset)(jax.random.split(keys[0], LANES))
        return first, *jax.lax.scan(functools.partial(step, keys), (env_state, first), jnp.arange(steps))[1]

    return whole


def episode_lengths(last: np.ndarray) -> np.ndarray:
    """Lengths of the finished episodes of one lane, `last` `[T]`."""
    return np.diff(np.flatnonzero(last), prepend=-1)


@pytest.mark.parametrize("seed", range(3))  # 3 x 2 lanes, an episode each
def test_pendulum_steps_as_gymnasiums_does(seed: int) -> None:
    _, transition, _ = roll(make_device("Pendulum-v1"), seed, 200)
    transition = jax.tree.map(np.asarray, transition)
    for lane in range(LANES):
        twin = gymnasium.make("Pendulum-v1")
        twin.reset(seed=0)
        unwrapped: Any = twin.unwrapped
        for t in range(200):
            before, action, reward, discount, last, after = (np.asarray(x[t, lane]) for x in transition[:6])
            # From the same state at every step: over an episode two free runs in float32 and float64 part by 1e-4.
            unwrapped.state = np.array([np.arctan2(before[1], before[0]), before[2]], np.float64)
            expected_obs, expected_reward, terminated, truncated, _ = twin.step(2.0 * action)
            np.testing.assert_allclose(after, expected_obs, atol=1e-5)
            np.testing.assert_allclose(reward, expected_reward, atol=1e-4)  # pyright: ignore[reportArgumentType, reportCallIssue]
            assert bool(last) == (terminated or truncated)
            assert discount == 1.0 - terminated


def test_pendulum_is_truncated_at_200_and_starts_anew() -> None:
    first, transition, obs = roll(make_device("Pendulum-v1"), 0, 401)
    last = np.asarray(transition.last)
    assert [np.flatnonzero(last[:, lane]).tolist() for lane in range(LANES)] == [[199, 399]] * LANES
    assert (np.asarray(transition.discount) == 1.0).all()
    starts = np.concatenate([first, obs[199], obs[399]])
    assert len(np.unique(starts, axis=0)) == 3 * LANES  # a new start after every reset, and another in every lane
    assert (np.abs(starts[:, 2]) <= 1.0).all()
    successors = np.asarray(transition.next_obs)
    assert (successors[last] != np.asarray(obs)[last]).any(axis=-1).all()
    jump = np.abs(successors - np.asarray(transition.obs))[last]
    assert (jump[:, :2] <= 8 * 0.05 + 1e-5).all()  # what speed 8 does in a step
    assert (jump[:, 2] <= (15.0 + 6.0) * 0.05 + 1e-5).all()  # what gravity and torque 2 do


@pytest.mark.parametrize("name", [*DEVICE, *GYMNAX, *PHYSICS])
def test_every_device_environment_keeps_the_contract(name: str) -> None:
    with family_env(name) as env:
        keeps_the_contract(env, name)
        dj.envs.check(env)


def keeps_the_contract(env: dj.Env, name: str) -> None:
    spec = env.spec
    assert spec.name == name
    assert spec.max_steps is not None
    steps = 2 * spec.max_steps + 1
    first, transition, obs = roll(env, 1, steps)

    shapes = ((spec.obs_dim,), (spec.action_dim,), (), (), (), (spec.obs_dim,))
    for field, array, shape in zip(STEP_FIELDS, transition, shapes, strict=False):
        assert array.shape == (steps, LANES, *shape), field
        assert array.dtype == (bool if field == "last" else np.float32), field
        assert np.isfinite(array).all(), field
    assert first.dtype == obs.dtype == np.float32
    assert obs.shape == (steps, LANES, spec.obs_dim)

    last, discount = np.asarray(transition.last), np.asarray(transition.discount)
    np.testing.assert_array_equal(transition.obs, np.concatenate([first[None], obs[:-1]]))
    np.testing.assert_allclose(np.asarray(transition.next_obs)[~last], np.asarray(obs)[~last], rtol=1e-5, atol=1e-6)
    assert set(np.unique(discount)) <= {0.0, 1.0}
    assert last[discount == 0.0].all()
    for lane in range(LANES):
        lengths, ends = episode_lengths(last[:, lane]), discount[last[:, lane], lane]
        assert len(lengths) >= 2
        assert (lengths <= spec.max_steps).all()
        assert (lengths[ends == 1.0] == spec.max_steps).all()  # what does not terminate is cut at the limit, not before


@pytest.mark.parametrize("name", [*DEVICE, *GYMNAX])
def test_a_step_by_hand_is_the_compiled_step(name: str) -> None:
    with family_env(name) as env:
        steps_as_compiled(env)


def steps_as_compiled(env: dj.Env) -> None:
    key, action = jax.random.key(3), jnp.full(env.spec.action_dim, 0.3)
    env_state, obs = env.reset(key)
    plain, compiled = env.step(key, env_state, obs, action), jax.jit(env.step)(key, env_state, obs, action)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_actions_and_observations_have_the_units_and_the_shape_of_the_environment() -> None:
    """The observation here is the action, as the environment was given it; `[2, 2]`, with other bounds in every place."""
    low, high = np.array([[-1.0, 0.0], [0.1, -3.3]], np.float32), np.array([[3.0, 10.0], [0.7, -1.1]], np.float32)
    bounds = tuple(low.ravel().tolist()), tuple(high.ravel().tolist())
    spec = dj.EnvSpec("Mirror", (2, 2), (2, 2), *bounds, max_steps=9)

    def advance(key: jax.Array, x: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        assert action.shape == (2, 2)
        return action, jnp.zeros(()), False

    env = dj.envs.make_env(spec, lambda key: jnp.zeros((2, 2)), advance, observe=lambda x: x)
    env_state, obs = env.reset(jax.random.key(0))
    assert obs.shape == (4,)

    def seen(action: list[float]) -> np.ndarray:
        return np.asarray(env.step(jax.random.key(0), env_state, obs, jnp.array(action))[1]).reshape(2, 2)

    np.testing.assert_array_equal(seen([-1.0] * 4), low)
    np.testing.assert_allclose(seen([1.0] * 4), high, rtol=1e-6)  # float32: short of it by one rounding
    assert (seen([1.0] * 4) <= high).all()
    np.testing.assert_allclose(seen([0.0] * 4), (low + high) / 2, rtol=1e-6)
    np.testing.assert_allclose(seen([-1.0, 1.0, 0.0, -1.0]), [[-1.0, 10.0], [0.4, -3.3]], rtol=1e-6)


VECTOR = Box(-np.inf, np.inf, (3,))
ACTION = Box(-1.0, 1.0, (1,))
UNSUPPORTED = {
    "discrete": (VECTOR, Discrete(2), "Discrete actions", "Box actions with finite bounds"),
    "unbounded": (VECTOR, Box(-np.inf, np.inf, (1,)), "bounded by -inf and inf", "finite bounds"),
    "half-bounded": (VECTOR, Box(np.float32([-1, 0]), np.float32([1, np.inf])), "inf", "finite bounds"),  # pyright: ignore[reportArgumentType]
    "as-good-as-unbounded": (VECTOR, Box(-3e38, 3e38, (1,)), "bounded by -3", "finite bounds"),
    "no-range": (VECTOR, Box(1.0, 1.0, (1,)), "bounded by 1.0 and 1.0", "low < high"),
    "integer-actions": (VECTOR, Box(0, 5, (1,), np.int32), "actions of type int32", "a floating type"),
    "no-actions": (VECTOR, Box(-1.0, 1.0, (0,)), "actions of shape (0,)", "at least one number"),
    "no-observations": (Box(-1.0, 1.0, (0,)), ACTION, "observations of shape (0,)", "at least one number"),
    "dict": (Dict({"position": VECTOR}), ACTION, "Dict observations", "FlattenObservation"),
    "image": (Box(0, 255, (8, 8, 3), np.uint8), ACTION, "image observations", "vector observations"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_a_space_that_ddpg_cannot_work_with_is_refused_in_one_line(case: str) -> None:
    observation_space, action_space, found, supported = UNSUPPORTED[case]
    with pytest.raises(dj.ConfigError) as refusal:
        spec_of(case, observation_space, action_space, max_steps=None)
    sentence = str(refusal.value)
    assert sentence.startswith(f"env={case} has ")
    assert "\n" not in sentence
    offer = sentence.split("; it must have ", 1)
    assert len(offer) == 2, sentence
    assert found in offer[0]
    assert supported in offer[1]


def test_a_functional_environment_may_draw_its_observations() -> None:
    """What is acted on is what the transition before it says, and not another draw."""

    class Noisy(PendulumFunctional):
        def observation(self, state: Any, rng: Any, params: Any = None) -> jax.Array:
            return super().observation(state, rng) + 0.1 * jax.random.normal(rng, (3,))

    env = dj.envs.from_functional(Noisy(), "Noisy", max_steps=15)
    dj.envs.check(env)
    state, obs = env.reset(jax.random.key(0))
    true = PendulumFunctional().observation(state[0][0], None)
    assert 0.0 < float(jnp.abs(obs - true).max()) < 1.0


def test_noise_of_observations_is_not_that_of_starts() -> None:
    """A start that splits its key and an observation that uses its own: none of them may meet another."""

    class Noisy(PendulumFunctional):
        def initial(self, rng: Any, params: Any = None) -> jax.Array:
            return jnp.concatenate([jax.random.normal(key, (1,)) for key in jax.random.split(rng)])

        def observation(self, state: Any, rng: Any, params: Any = None) -> jax.Array:
            return jnp.concatenate([state, jax.random.normal(rng, (1,))])

    env = dj.envs.from_functional(Noisy(), "Noisy", max_steps=15)
    _, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 500))
    np.testing.assert_allclose(np.corrcoef(obs.T), np.eye(3), atol=0.15)


def test_a_box_of_another_name_is_a_box() -> None:
    class Cube(Box):
        pass

    cube = Cube(-1.0, 1.0, (3,))  # pyright: ignore[reportCallIssue]
    assert spec_of("cube", cube, ACTION, max_steps=None).obs_shape == (3,)


def test_a_registered_environment_with_discrete_actions_is_refused_before_training() -> None:
    with pytest.raises(dj.ConfigError, match=r"^env=CartPole-v1 has Discrete actions; it must have Box actions"):
        dj.train("CartPole-v1", steps=10)


def test_an_environment_without_time_limit_is_refused_on_the_device() -> None:
    spec = dj.EnvSpec("Endless", (1,), (1,), (-1.0,), (1.0,), max_steps=None)
    with pytest.raises(dj.ConfigError, match=r"env=Endless has max_steps=None"):
        dj.envs.make_env(spec, lambda key: jnp.zeros(1), lambda key, x, action: (x, jnp.zeros(()), False), observe=lambda x: x)


def test_a_reset_that_gives_no_number_ends_training() -> None:
    """What an episode starts from is no successor of anything, and counts too."""
    spec = dj.EnvSpec("Broken", (1,), (1,), (-1.0,), (1.0,), max_steps=5)

    def start(key: jax.Array) -> jax.Array:
        return jnp.where(jax.random.uniform(key, (1,)) < 2.0, jnp.zeros(1) / 0.0, 0.0)

    def observe(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(x), jnp.nan, x)

    env = dj.envs.make_env(spec, start, lambda key, x, action: (jnp.nan_to_num(x), jnp.zeros(()), False), observe=observe)
    with pytest.raises(dj.EnvironmentFailure, match=r"not finite at step 5$"):
        dj.train(env, steps=20, warmup_steps=20, batch_size=4, hidden=(8,), eval_episodes=1)


def test_a_number_that_is_not_finite_ends_training_and_names_the_step() -> None:
    spec = dj.EnvSpec("Broken", (1,), (1,), (-1.0,), (1.0,), max_steps=100)

    def advance(key: jax.Array, x: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        return x + 1.0, jnp.where(x[0] == 6.0, jnp.nan, 0.0), False  # the reward of step 7

    env = dj.envs.make_env(spec, lambda key: jnp.zeros(1), advance, observe=lambda x: x)
    with pytest.raises(dj.EnvironmentFailure, match=r"not finite at step 14$"):  # of two environments, step 7 of each
        dj.train(env, steps=20, warmup_steps=20, batch_size=4, num_envs=2, hidden=(8,), eval_episodes=1)


def test_a_number_that_is_not_finite_in_an_evaluation_ends_training_too() -> None:
    """Only the policy without noise gets there: with it, the actions of the warm-up are half a unit off."""
    spec = dj.EnvSpec("Broken", (1,), (1,), (-1.0,), (1.0,), max_steps=5)

    def advance(key: jax.Array, x: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        return x, jnp.where(jnp.abs(action[0]) < 0.01, jnp.nan, 0.0), False

    env = dj.envs.make_env(spec, lambda key: jnp.zeros(1), advance, observe=lambda x: x)
    with pytest.raises(dj.EnvironmentFailure, match=r"not finite in the evaluation at step 8$"):
        dj.train(env, steps=8, warmup_steps=8, batch_size=4, hidden=(8,), eval_episodes=1)
