"""Exploration noise against its theory, the schedules of its scale, and what every explorer has to keep."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.exploration import EXPLORERS, gaussian, ornstein_uhlenbeck, sigma, uniform, with_spread
from ddpg_jax.schedules import SCHEDULES, progress

N, ACTION = 2_048, 2
OBS = jnp.zeros((N, 1))
KEY = jax.random.key(0)


def still(params: Any, obs: jax.Array) -> jax.Array:
    """A policy whose every action is `params`."""
    return jnp.full((obs.shape[0], ACTION), params)


def walk(explorer: dj.Explorer, hyper: dj.Hyperparams, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The last two actions [N, A] of many steps from rest, with the policy at 0."""

    def body(carry: tuple[Any, jax.Array], i: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        noise, previous = carry
        action, noise = explorer.explore(jax.random.fold_in(KEY, i), noise, still, 0.0, OBS, hyper, i)
        return (noise, action), previous

    start = (explorer.init(N, 0.0), jnp.zeros((N, ACTION)))
    (_, last), previous = jax.jit(lambda: jax.lax.scan(body, start, jnp.arange(steps)))()
    return np.asarray(previous[-1]), np.asarray(last)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


@pytest.mark.parametrize(("theta", "sigma", "dt"), [(0.15, 0.1, 1.0), (0.5, 0.15, 0.5), (2.0, 0.2, 0.04)])
def test_ornstein_uhlenbeck_is_what_theory_says(theta: float, sigma: float, dt: float) -> None:
    """Stationary variance and lag-1 autocorrelation of the discretized process, and its independent dimensions."""
    decay = 1.0 - theta * dt
    hyper = dj.Hyperparams(noise_sigma=sigma, ou_theta=theta, ou_dt=dt)
    before, after = walk(ornstein_uhlenbeck(ACTION), hyper, steps=round(5 / (theta * dt)))
    assert after.std() == pytest.approx(sigma * np.sqrt(dt / (1.0 - decay**2)), rel=0.05)
    assert abs(after.mean()) < 0.05 * after.std()
    assert correlation(before, after) == pytest.approx(decay, abs=0.03)
    assert correlation(after[:, 0], after[:, 1]) == pytest.approx(0.0, abs=0.08)
    assert correlation(after[1:], after[:-1]) == pytest.approx(0.0, abs=0.08)


def test_gaussian_noise_has_no_memory() -> None:
    """Normal with deviation sigma; no correlation with the step before, the other dimension or the next environment."""
    before, after = walk(gaussian(ACTION), dj.Hyperparams(noise_sigma=0.2), steps=2)
    assert scipy.stats.kstest(after.ravel() / 0.2, "norm").pvalue > 1e-3
    for x, y in ((before, after), (after[:, 0], after[:, 1]), (after[1:], after[:-1])):
        assert correlation(x, y) == pytest.approx(0.0, abs=0.08)


def colored_sequences(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Pink noise as Timmer and Koenig 1995 make it, and Eberhard et al. 2023 use it: white coefficients over root frequency."""
    frequency = np.maximum(np.fft.rfftfreq(length), 1 / length)
    coefficients = rng.normal(size=(2, count, len(frequency))) / np.sqrt(frequency)
    return np.fft.irfft(coefficients[0] + 1j * coefficients[1], n=length)


def octaves(series: np.ndarray) -> np.ndarray:
    """The shares of the power of series `[K, T]` in the octaves from 1/2 downwards."""
    length = series.shape[1]
    power = np.mean(np.abs(np.fft.rfft(series)) ** 2, axis=0)
    bands = [power[length >> (j + 2) : length >> (j + 1)].sum() for j in range(8)]
    return np.array(bands) / np.sum(bands)


def test_pink_noise_has_the_spectrum_of_pink_noise() -> None:
    """Beside sequences made from their spectrum in NumPy; and the same power in every octave, which no other colour has."""
    steps, lanes = 1_024, 256
    hyper, explorer = dj.Hyperparams(noise_sigma=0.1), EXPLORERS["pink"](action_dim=ACTION, schedule=SCHEDULES["constant"])

    def body(noise: Any, i: jax.Array) -> Any:
        action, noise = explorer.explore(jax.random.fold_in(KEY, i), noise, still, 0.0, OBS[:lanes], hyper, i)
        return noise, action

    _, actions = jax.jit(lambda: jax.lax.scan(body, explorer.init(lanes, 0.0), jnp.arange(steps)))()
    series = np.asarray(actions, np.float64).transpose(1, 2, 0)  # [N, A, T]
    found = octaves(series.reshape(-1, steps))
    np.testing.assert_allclose(found, octaves(colored_sequences(np.random.default_rng(0), 512, steps)), rtol=0.25)
    np.testing.assert_allclose(found, 1 / 8, rtol=0.25)
    for t in (0, 1, 30, steps - 1):
        assert series[..., t].std() == pytest.approx(0.1, rel=0.1), "it is not stationary from the first step on"
    assert scipy.stats.kstest(series[:, :, 0].ravel() / 0.1, "norm").pvalue > 1e-3
    first, second = series[:, 0].ravel(), series[:, 1].ravel()
    assert correlation(first, second) == pytest.approx(0.0, abs=0.05)
    assert correlation(series[1:], series[:-1]) == pytest.approx(0.0, abs=0.05)


def test_pink_noise_starts_anew_where_an_episode_ended() -> None:
    explorer = EXPLORERS["pink"](action_dim=ACTION, schedule=SCHEDULES["constant"])
    hyper, levels = dj.Hyperparams(noise_sigma=0.01), jnp.full((2, ACTION, 5), 40.0)
    noise = explorer.reset(explorer.init(2, 0.0).replace(levels=levels, fresh=jnp.zeros(2)), jnp.array([False, True]))
    action, after = explorer.explore(KEY, noise, still, 0.0, OBS[:2], hyper, jnp.int32(0))
    assert np.abs(action[0]).min() > 0.5, "the first environment has lost its noise"
    assert np.abs(action[1]).max() < 0.05, "the second one has kept it"
    assert not np.any(after.fresh)


@pytest.mark.parametrize(
    ("name", "schedule"), [*((name, "exponential") for name in EXPLORERS), *(("gaussian", name) for name in SCHEDULES)]
)
def test_a_spread_gives_environments_evenly_spaced_scales(name: str, schedule: str) -> None:
    """With every explorer and schedule: each environment acts as it would among others of its own scale."""
    plain = EXPLORERS[name](action_dim=ACTION, schedule=SCHEDULES[schedule])
    hyper = dj.Hyperparams(noise_sigma=0.1, noise_sigma_final=0.05, noise_decay_steps=20.0, noise_spread=0.9)
    arguments = (still, 0.1, OBS[:4])
    drawn, after = with_spread(plain).explore(KEY, plain.init(4, 0.1), *arguments, hyper, jnp.int32(5))
    for n, factor in enumerate([0.1, 0.7, 1.3, 1.9]):
        own = hyper._replace(noise_sigma=0.1 * factor, noise_sigma_final=0.05 * factor)
        expected, noise = plain.explore(KEY, plain.init(4, 0.1), *arguments, own, jnp.int32(5))
        np.testing.assert_allclose(drawn[n], expected[n], rtol=1e-4, atol=1e-6)
        jax.tree.map(lambda x, y, n=n: np.testing.assert_allclose(x[n], y[n], rtol=1e-4, atol=1e-6), after, noise)
    alone = with_spread(plain).explore(KEY, plain.init(1, 0.1), still, 0.1, OBS[:1], hyper, jnp.int32(5))[0]
    np.testing.assert_array_equal(alone, plain.explore(KEY, plain.init(1, 0.1), still, 0.1, OBS[:1], hyper, jnp.int32(5))[0])


@pytest.mark.parametrize("name", ["ou", "gaussian", "pink"])
def test_every_environment_and_dimension_has_noise_of_its_own(name: str) -> None:
    """A single draw shared by environments or dimensions would explore far less than it seems to."""
    explorer = EXPLORERS[name](ACTION, SCHEDULES["constant"])
    action, _ = explorer.explore(KEY, explorer.init(5, 0.0), still, 0.0, OBS[:5], dj.Hyperparams(), jnp.int32(0))
    assert len(np.unique(np.asarray(action))) == 5 * ACTION


def test_reset_zeroes_only_the_environments_that_ended() -> None:
    """An episode starts without the noise of the one before; the others go on undisturbed."""
    noise = jnp.arange(1.0, 7.0).reshape(3, 2)
    fresh = ornstein_uhlenbeck(ACTION).reset(noise, jnp.array([False, True, False]))
    assert np.asarray(fresh).tolist() == [[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]]
    assert not np.any(ornstein_uhlenbeck(ACTION).init(3, 0.0))


SCALES = {  # at the start, halfway, at the end and beyond, for a decay from .4 to .1 over 1,000 steps
    "constant": [0.4, 0.4, 0.4, 0.4],
    "linear": [0.4, 0.25, 0.1, 0.1],
    "exponential": [0.4, 0.2, 0.1, 0.1],
    "cosine": [0.4, 0.25, 0.1, 0.1],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_from_first_to_final_scale_and_stay(name: str) -> None:
    """The scale at four times, by itself and as explorers apply it."""
    hyper = dj.Hyperparams(noise_sigma=0.4, noise_sigma_final=0.1, noise_decay_steps=1_000.0)
    times = jnp.array([0, 500, 1_000, 50_000])
    scales = [float(sigma(SCHEDULES[name], t, hyper)) for t in times]
    assert scales == pytest.approx(SCALES[name], rel=1e-5)
    for explorer in (gaussian(ACTION, SCHEDULES[name]), ornstein_uhlenbeck(ACTION, SCHEDULES[name])):
        drawn = [explorer.explore(KEY, explorer.init(8, 0.0), still, 0.0, OBS[:8], hyper, t)[0] for t in times]
        drawn = np.array(drawn)
        inside = np.abs(drawn[0]) < 1.0
        for scale, action in zip(SCALES[name], drawn, strict=True):
            np.testing.assert_allclose(action[inside], drawn[0][inside] * scale / 0.4, rtol=1e-4)


@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0), st.floats(1.0, 1e6), st.floats(0.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_schedules_at_any_time(start: float, end: float, duration: float, share: float) -> None:
    """Beside their formulas in NumPy, from any start to any end; behind the duration they stay."""
    t = np.float32(share * duration)
    x = min(float(t) / duration, 1.0)
    expected = {
        "constant": start,
        "linear": (1.0 - x) * start + x * end,
        "exponential": np.exp((1.0 - x) * np.log(start) + x * np.log(end)),
        "cosine": start + (end - start) * np.sin(0.5 * np.pi * x) ** 2,
    }
    found = {name: float(shape(start, end, progress(jnp.asarray(t), duration))) for name, shape in SCHEDULES.items()}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6 * max(start, end, 1.0))  # float32, of the larger of the two


@pytest.mark.parametrize("name", ["ou", "gaussian"])
def test_actions_are_clipped_to_the_unit_box(name: str) -> None:
    """Noise pushes up to both bounds and not beyond; the memory of the process itself is not clipped."""
    explorer = EXPLORERS[name](ACTION, SCHEDULES["constant"])
    hyper = dj.Hyperparams(noise_sigma=3.0)
    action, noise = explorer.explore(KEY, explorer.init(N, 0.0), still, 0.5, OBS, hyper, jnp.int32(0))
    assert np.asarray(action).min() == -1.0
    assert np.asarray(action).max() == 1.0
    if name == "ou":
        assert np.abs(np.asarray(noise)).max() > 2.0


def test_warm_up_covers_the_action_range_uniformly() -> None:
    """U(-1, 1) in every dimension, independent of each other and of the policy, which is not even asked."""

    def refuse(params: Any, obs: jax.Array) -> jax.Array:
        raise AssertionError("the warm-up asked the policy")

    explorer = uniform(ACTION)
    action, _ = explorer.explore(KEY, explorer.init(N, 0.0), refuse, None, OBS, dj.Hyperparams(), jnp.int32(0))
    action = np.asarray(action)
    assert np.abs(action).max() <= 1.0
    for a in range(ACTION):
        assert action[:, a].min() < -0.99
        assert action[:, a].max() > 0.99
        assert scipy.stats.kstest(action[:, a], "uniform", (-1.0, 2.0)).pvalue > 1e-3
    assert correlation(action[:, 0], action[:, 1]) == pytest.approx(0.0, abs=0.08)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", EXPLORERS)
def test_every_explorer_keeps_the_contract(name: str, schedule: str) -> None:
    """Pure, of fixed shapes, mapped over a hyperparameter, and never compiled again for another value or time."""
    explorer = EXPLORERS[name](ACTION, SCHEDULES[schedule])
    sigmas = jnp.array([0.0, 0.1, 0.2])

    def explore(sigma: jax.Array, theta: jax.Array, key: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
        hyper = dj.Hyperparams(noise_sigma=sigma, noise_sigma_final=0.1, noise_decay_steps=10.0, ou_theta=theta)
        return explorer.explore(key, explorer.init(4, 0.25), still, 0.25, OBS[:4], hyper, t)

    mapped: Any = jax.jit(jax.vmap(explore, in_axes=(0, None, None, None)))
    action, noise = mapped(sigmas, 0.15, KEY, jnp.int32(0))
    assert action.shape == (3, 4, ACTION)
    np.testing.assert_array_equal(action[0], np.full((4, ACTION), 0.25, np.float32), "without noise: the policy's own")
    np.testing.assert_allclose(action[2] - 0.25, 2 * (action[1] - 0.25), rtol=1e-4)
    assert np.any(action[1] != action[0]) == (name != "none")

    state = jax.tree.map(lambda x: x[0], noise)
    shapes = jax.tree.map(jnp.shape, explorer.init(4, 0.25))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, explorer.reset(state, jnp.ones(4, bool))) == shapes
    mapped(sigmas + 0.5, 0.3, jax.random.key(1), jnp.int32(7))
    assert mapped._cache_size() == 1
