"""The equations of the paper, each against what it says: a slow loop, a hand-made gradient or a known number."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj

WINDOWS = 4


def given_q(params: jax.Array, obs: jax.Array, action: jax.Array) -> jax.Array:
    """A critic whose values [E, B] are its parameters."""
    del obs, action
    return params


def test_td_target_bootstraps_by_the_discount_alone() -> None:
    """Discount 0, a termination, leaves the reward; otherwise reward plus discounted value."""
    target = dj.td_target(jnp.array([1.0, 1.0, -2.0]), jnp.array([0.0, 0.9, 0.81]), jnp.array([7.0, 10.0, 100.0]))
    np.testing.assert_allclose(target, [1.0, 10.0, 79.0], rtol=1e-6)


def test_no_gradient_flows_through_the_target() -> None:
    """Semi-gradient: the target is a constant to whoever differentiates."""
    reward, discount, next_q = jnp.ones(3), jnp.full(3, 0.9), jnp.arange(3.0)
    grads = jax.grad(lambda *args: dj.td_target(*args).sum(), argnums=(0, 1, 2))(reward, discount, next_q)
    assert not np.any(np.stack(grads))


@pytest.mark.parametrize("n", [1, 2, 5])
@hypothesis.given(data=st.data(), gamma=st.floats(0.0, 1.0, width=32))
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_n_step_return_equals_a_slow_loop(n: int, data: st.DataObject, gamma: float) -> None:
    """Rewards behind the end of a window do not count, and the discount has one factor for each step inside."""
    steps = np.array(data.draw(st.lists(st.integers(1, n), min_size=WINDOWS, max_size=WINDOWS)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    reward = np.random.default_rng(seed).normal(size=(n, WINDOWS)).astype(np.float32)
    alive = (np.arange(n)[:, None] < steps).astype(np.float32)
    total, discount = jax.jit(dj.n_step_return)(reward, alive, gamma)
    for b in range(WINDOWS):
        expected = sum(gamma**k * float(reward[k, b]) for k in range(steps[b]))
        assert float(total[b]) == pytest.approx(expected, abs=1e-5)
        assert float(discount[b]) == pytest.approx(gamma ** int(steps[b]), abs=1e-5)


def test_critic_loss_is_the_weighted_mean_summed_over_critics() -> None:
    """Mean over the batch, weights inside the mean, sum over critics; TD errors and mean value are the first critic's."""
    rng = np.random.default_rng(0)
    q, target, weight = rng.normal(size=(2, 5)), rng.normal(size=5), rng.uniform(size=5)
    nothing = jnp.zeros((5, 1))
    arguments = [jnp.asarray(x, jnp.float32) for x in (q, target, weight)]
    (loss, (td, q_mean)), grad = jax.value_and_grad(dj.critic_loss, has_aux=True)(
        arguments[0], given_q, nothing, nothing, *arguments[1:]
    )
    np.testing.assert_allclose(loss, sum(np.mean(weight * (target - q[e]) ** 2) for e in range(2)), rtol=1e-5)
    np.testing.assert_allclose(td, target - q[0], rtol=1e-5)
    np.testing.assert_allclose(q_mean, q[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(grad, -2 * weight * (target - q) / 5, rtol=1e-5, atol=1e-7)


def test_critic_loss_hands_observations_and_actions_to_the_critic() -> None:
    """Obs and action arrive unmixed, each in its place."""
    obs, action = jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [20.0]])
    loss, _ = dj.critic_loss(None, lambda _, o, a: (2 * o + a).T, obs, action, jnp.array([12.0, 27.0]), jnp.ones(2))
    assert float(loss) == pytest.approx((0.0 + 9.0) / 2)


def test_actor_descends_towards_better_actions() -> None:
    """The loss is -Q, so that descent on it climbs Q: the gradient points away from the best action."""

    def q_values(best: jax.Array, obs: jax.Array, action: jax.Array) -> jax.Array:
        first = -jnp.square(action - best)[:, 0]
        return jnp.stack([first, 1_000.0 * action[:, 0]])  # the second critic has no say

    def act(params: jax.Array, obs: jax.Array) -> jax.Array:
        return jnp.broadcast_to(params, (obs.shape[0], 1))

    obs = jnp.zeros((4, 1))
    loss = dj.actor_loss(jnp.float32(0.0), jnp.float32(0.5), act, q_values, obs)
    assert float(loss) == pytest.approx(0.25)
    for start, expected in ((0.0, -1.0), (0.5, 0.0), (1.0, 1.0)):  # 2 (a - best)
        grad = jax.grad(dj.actor_loss)(jnp.float32(start), jnp.float32(0.5), act, q_values, obs)
        assert float(grad) == pytest.approx(expected)


@pytest.mark.parametrize(("tau", "expected"), [(0.0, [4.0, 8.0]), (1.0, [2.0, -2.0]), (0.25, [3.5, 5.5])])
def test_soft_update_moves_the_target_by_tau(tau: float, expected: list[float]) -> None:
    """Tau is the share of the online parameters: 0 keeps the target, 1 copies, to the bit; also when it is traced."""
    params = {"w": jnp.array([2.0]), "b": [jnp.array([-2.0])]}
    target = {"w": jnp.array([4.0]), "b": [jnp.array([8.0])]}
    for update in (dj.soft_update, jax.jit(dj.soft_update)):
        moved = update(params, target, tau)
        assert [moved["w"].item(), moved["b"][0].item()] == expected
