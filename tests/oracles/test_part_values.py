"""What each optional part computes, against NumPy: independent of the library, of autodiff and of optax."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import ddpg_jax as dj
from ddpg_jax.agent.ddpg import every_period, smoothed
from ddpg_jax.agent.losses import huber, pre_tanh_l2, squared, value_l2, weight_l2
from ddpg_jax.agent.optimizers import descend, with_clipping
from ddpg_jax.experiment.build import make_optimizer
from ddpg_jax.exploration import gaussian, none, with_smoothing, with_uniform
from tests.agents import mlp_agent

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
def test_huber_is_squared_inside_and_linear_outside(delta: float) -> None:
    """Twice Huber's own, whose slope is at most delta: 2 delta here. Value and slope are continuous at delta."""
    td = np.linspace(-3.0, 3.0, 101, dtype=np.float32)
    hyper = dj.Hyperparams(huber_delta=delta)
    expected = [2 * (0.5 * x**2 if abs(x) <= delta else delta * (abs(x) - 0.5 * delta)) for x in td.tolist()]
    np.testing.assert_allclose(huber(jnp.asarray(td), hyper), expected, rtol=1e-5, atol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: huber(x, hyper)))(jnp.asarray(td))
    np.testing.assert_allclose(slope, np.clip(2 * td, -2 * delta, 2 * delta), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(squared(jnp.asarray(td), hyper), td**2, rtol=1e-6)
    np.testing.assert_allclose(huber(jnp.asarray(td), dj.Hyperparams()), td**2, rtol=1e-6)  # 0 is off


def test_penalties_of_the_critic() -> None:
    """Squares of all weights of all critics, summed, without biases or LayerNorm; squared values, mean over the batch."""
    agent = mlp_agent(3, 2, hidden=(8, 6), num_critics=2, layer_norm=True)
    critics = jax.tree.map(np.asarray, agent.init(KEY, dj.Hyperparams()).params.critic)
    weights = [critics[f"critic_{e}"][layer]["kernel"] for e in range(2) for layer in ("hidden_0", "hidden_1", "value")]
    assert sum(np.size(w) for w in weights) == 2 * (5 * 8 + 8 * 6 + 6)
    (q,) = arrays((2, 7))
    hyper = dj.Hyperparams(critic_l2=0.3, q_l2=0.7)
    np.testing.assert_allclose(weight_l2(critics, jnp.asarray(q), hyper), 0.3 * sum(np.sum(w**2) for w in weights), rtol=1e-5)
    own = {"mine": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}  # of a network that calls its weights otherwise
    np.testing.assert_allclose(weight_l2(own, jnp.asarray(q), hyper), 0.3 * 6)
    np.testing.assert_allclose(
        value_l2(critics, jnp.asarray(q), hyper), 0.7 * (np.mean(q[0] ** 2) + np.mean(q[1] ** 2)), rtol=1e-5
    )


def test_penalty_of_the_actor_is_on_what_its_tanh_gets() -> None:
    """Not on its actions, of which a saturated actor would feel nothing."""
    (pre,) = arrays((5, 2))
    np.testing.assert_allclose(
        pre_tanh_l2(jnp.asarray(pre), dj.Hyperparams(action_penalty=0.3)), 0.3 * np.mean(pre**2), rtol=1e-5
    )

    agent = mlp_agent(3, 2, hidden=(), actor_penalties=(pre_tanh_l2,))
    hyper = dj.Hyperparams(action_penalty=0.3)
    state = agent.init(KEY, hyper)
    kernel, bias = arrays((3, 2), (2,))
    layers = {"action": {"kernel": jnp.asarray(20 * kernel), "bias": jnp.asarray(20 * bias)}}
    state = state.replace(params=state.params._replace(actor=layers))  # pyright: ignore[reportAttributeAccessIssue]
    obs, next_obs, action, reward = (jnp.asarray(x) for x in arrays((9, 3), (9, 3), (9, 2), (9,)))
    batch = dj.Transition(obs, action, reward, jnp.ones(9), jnp.zeros(9, bool), next_obs)
    free = mlp_agent(3, 2, hidden=()).update(KEY, state, batch, jnp.ones(9), hyper, jnp.int32(0))[2]
    held = agent.update(KEY, state, batch, jnp.ones(9), hyper, jnp.int32(0))[2]
    before_tanh = np.asarray(obs) @ (20 * kernel) + 20 * bias
    np.testing.assert_allclose(held["actor_loss"] - free["actor_loss"], 0.3 * np.mean(before_tanh**2), rtol=1e-4)


def test_clipping_is_of_the_norm_of_the_whole_gradient() -> None:
    """Its direction stays, which an elementwise clip changes; a gradient inside the bound is left alone, and 0 is no bound."""
    one, other = arrays((4, 3), (3,))
    norm = math.sqrt(np.sum(one**2) + np.sum(other**2))
    plain = with_clipping(lambda hyper, t: optax.sgd(1.0), lambda hyper: hyper.critic_clip)
    grads = {"a": jnp.asarray(one), "b": jnp.asarray(other)}
    zeros = jax.tree.map(jnp.zeros_like, grads)
    for bound in (0.5 * norm, 2.0 * norm, 0.0):
        tx = plain(dj.Hyperparams(critic_clip=bound), jnp.int32(0))
        moved, _ = descend(tx, grads, tx.init(zeros), zeros)
        for name, grad in (("a", one), ("b", other)):
            np.testing.assert_allclose(moved[name], -min(1.0, bound / norm or 1.0) * grad, rtol=1e-5)


def adamw_numpy(start: np.ndarray, grads: list[np.ndarray], lr: float, decay: float) -> np.ndarray:
    """Loshchilov and Hutter 2019, Algorithm 2, with the step size as factor of both terms, as everybody has it."""
    x, m, v = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - lr * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * x)
    return x


@pytest.mark.parametrize("net", ["actor", "critic"])
def test_weight_decay_is_decoupled_and_of_its_own_network(net: str) -> None:
    """AdamW: decay does not pass through the moments. Each network has its own rate, decay and bound."""
    fields = {"actor_lr": 0.01, "critic_lr": 0.02, "actor_decay": 0.5, "critic_decay": 0.25}
    experiment, hyper = dj.configure(fields)
    tx = make_optimizer(net, experiment)(hyper, jnp.int32(0))
    start, *grads = arrays((5,), *[(5,)] * 8)
    params, opt = jnp.asarray(start), tx.init(jnp.asarray(start))
    for grad in grads:
        params, opt = descend(tx, jnp.asarray(grad), opt, params)
    expected = adamw_numpy(start, grads, fields[f"{net}_lr"], fields[f"{net}_decay"])
    np.testing.assert_allclose(params, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "part", [{}, {"critic_decay": 1e-30}, {"critic_clip": 1e9}, {"critic_decay": 1e-30, "critic_clip": 1e9}]
)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("constant", lambda p: 1.0),
        ("linear", lambda p: 1.0 - 0.8 * p),
        ("exponential", lambda p: 0.2**p),
        ("cosine", lambda p: 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * p))),
    ],
)
def test_learning_rates_follow_their_schedule_whatever_else_is_on(name: str, shape: Any, part: dict[str, float]) -> None:
    """Under a constant gradient of either sign, the step of Adam is its rate: seen where it counts, in the parameters."""
    fields = {"lr_schedule": name, "lr_final": 0.2, "lr_decay_updates": 100, "warmup_steps": 64, "critic_lr": 0.01}
    experiment, hyper = dj.configure({**fields, **part})
    make, grad, zero = make_optimizer("critic", experiment), jnp.array([2.0, -3.0]), jnp.zeros(2)

    for t in (0, 30, 60, 100, 700):
        tx = make(hyper, jnp.int32(t))
        step, _ = descend(tx, grad, tx.init(zero), zero)
        expected = 0.01 * shape(min(t / 100, 1.0))
        np.testing.assert_allclose(step, [-expected, expected], rtol=1e-4)


def test_hard_targets_are_copied_every_period_and_stay_in_between() -> None:
    """With tau=1; the clock is that of the updates."""
    agent = mlp_agent(2, 1, hidden=(4,), target_rate=every_period)
    hyper = dj.Hyperparams(tau=1.0, sync_period=3.0, actor_lr=0.1)
    obs, next_obs, action, reward = (jnp.asarray(x) for x in arrays((8, 2), (8, 2), (8, 1), (8,)))
    batch = dj.Transition(obs, action, reward, jnp.ones(8), jnp.zeros(8, bool), next_obs)
    update = jax.jit(agent.update)
    state = agent.init(KEY, hyper)
    for t in range(8):
        before = state.target
        state, *_ = update(KEY, state, batch, jnp.ones(8), hyper, jnp.int32(t))
        expected = state.params if t % 3 == 0 else before
        jax.tree.map(np.testing.assert_array_equal, state.target, expected)
        jax.tree.map(
            lambda p, q: np.testing.assert_raises(AssertionError, np.testing.assert_array_equal, p, q), state.params, before
        )


def test_target_smoothing_is_clipped_twice() -> None:
    """The noise at its own bound, the sum at the bounds of the actions; normal in between, anew for every transition."""
    start = jnp.tile(jnp.array([0.0, 0.9]), (20_000, 1))
    hyper = dj.Hyperparams(target_noise=0.2, target_noise_clip=0.3)
    noisy = np.asarray(smoothed(KEY, start, hyper))
    noise = noisy[:, 0]
    assert np.abs(noise).max() == pytest.approx(0.3)
    assert np.mean(np.abs(noise) == np.abs(noise).max()) == pytest.approx(2 * scipy.stats.norm.sf(1.5), abs=0.01)
    inside = noise[np.abs(noise) < 0.299] / 0.2
    assert scipy.stats.kstest(inside, scipy.stats.truncnorm(-1.495, 1.495).cdf).pvalue > 1e-3
    assert noisy[:, 1].max() == 1.0
    assert noisy[:, 1].min() == pytest.approx(0.6)
    assert abs(np.corrcoef(noise, np.minimum(noisy[:, 1], 1.0))[0, 1]) < 0.03


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_share_of_uniform_actions(epsilon: float) -> None:
    """For each environment by itself, in all its dimensions at once; the others do what they would have done."""
    n = 20_000
    obs, hyper = jnp.zeros((n, 1)), dj.Hyperparams(epsilon_uniform=epsilon, noise_sigma=0.05)

    def act(params: Any, obs: jax.Array) -> jax.Array:
        return jnp.full((obs.shape[0], 2), 0.5)

    arguments = (act, None, obs, hyper, jnp.int32(0))
    action = np.asarray(with_uniform(gaussian(2)).explore(KEY, (), *arguments)[0])
    alone = np.asarray(gaussian(2).explore(KEY, (), *arguments)[0])
    other = action != alone
    np.testing.assert_array_equal(other[:, 0], other[:, 1])
    assert other[:, 0].mean() == pytest.approx(epsilon, abs=0.02)
    if epsilon:
        drawn = action[other[:, 0]]
        assert scipy.stats.kstest(drawn.ravel(), "uniform", (-1.0, 2.0)).pvalue > 1e-3
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


def test_smoothing_is_a_recursion_that_starts_anew_with_every_episode() -> None:
    """A slow loop; environments end at different times, and the noise inside is reset too."""
    weight, policy = 0.7, RNG.uniform(-1, 1, size=(9, 3, 2)).astype(np.float32)
    last = RNG.random((9, 3)) < 0.3
    assert last.any(axis=0).all()
    explorer, hyper = with_smoothing(none(2), 2), dj.Hyperparams(action_smoothing=weight)
    noise, before = explorer.init(3, None), np.zeros((3, 2))
    for t in range(9):
        action, noise = explorer.explore(KEY, noise, lambda p, o, t=t: policy[t], None, jnp.zeros((3, 1)), hyper, jnp.int32(t))
        before = (1 - weight) * policy[t] + weight * before
        np.testing.assert_allclose(action, before, rtol=1e-5, atol=1e-6)
        before[last[t]] = 0.0
        noise = explorer.reset(noise, jnp.asarray(last[t]))
    inner = with_smoothing(dj.exploration.ornstein_uhlenbeck(2), 2)
    (walk, _) = inner.reset((jnp.ones((3, 2)), jnp.ones((3, 2))), jnp.array([True, False, True]))
    assert np.asarray(walk).tolist() == [[0, 0], [1, 1], [0, 0]]
