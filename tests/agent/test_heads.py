"""Distributional critics: projections and losses against slow arithmetic, and bandits whose returns are known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpg_jax as dj
from ddpg_jax.agent import heads

RNG = np.random.default_rng(0)


def slow_projection(returns: np.ndarray, probabilities: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017, written as it stands there."""
    found = np.zeros(len(atoms))
    step = atoms[1] - atoms[0]
    for value, probability in zip(returns, probabilities, strict=True):
        b = (np.clip(value, atoms[0], atoms[-1]) - atoms[0]) / step
        b = min(b, len(atoms) - 1.0)  # rounding
        low, high = int(np.floor(b)), int(np.ceil(b))
        if low == high:
            found[low] += probability
        else:
            found[low] += probability * (high - b)
            found[high] += probability * (b - low)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.floats(-20, 5), st.floats(0.5, 30), st.integers(0, 2**16))
def test_the_projection_is_that_of_the_paper(count: int, low: float, width: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = np.linspace(low, low + width, count)
    returns = rng.normal(low + width / 2, width, (3, 4))
    probabilities = rng.dirichlet(np.ones(4), 3)
    found = np.asarray(heads.project(*map(jnp.asarray, (returns, probabilities, atoms))), np.float64)
    expected = [slow_projection(*pair, atoms) for pair in zip(returns, probabilities, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-4)  # near -20, float32 rounds atoms to 1e-6 of at least .06


def test_gaussian_targets_have_their_mean_and_their_width() -> None:
    atoms = jnp.linspace(-4.0, 4.0, 81)
    y = jnp.array([-1.0, 0.03, 2.5])
    weights = np.asarray(heads.gaussian_histogram(y, atoms, jnp.float32(0.3)))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    mean = weights @ np.asarray(atoms)
    np.testing.assert_allclose(mean, y, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(weights @ np.asarray(atoms) ** 2 - mean**2), 0.3, atol=5e-3)


def test_the_quantile_loss_is_that_of_the_paper() -> None:
    """Equation 10 of Dabney et al. 2018, as loops."""
    quantiles, target = RNG.normal(0, 2, (1, 2, 3)), RNG.normal(0, 2, (2, 3))
    head = heads.quantile(3)
    arguments = [jnp.asarray(quantiles, jnp.float32), jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.asarray(target, jnp.float32)]
    loss, (td, q_mean) = head.loss(arguments[0], lambda q, obs, action: q, *arguments[1:], jnp.ones(2), support={}, hyper=None)
    expected = 0.0
    for b in range(2):
        for i in range(3):
            for j in range(3):
                u = target[b, j] - quantiles[0, b, i]
                huber = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
                expected += abs((i + 0.5) / 3 - (u < 0)) * huber / 3 / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(td, target.mean(axis=1) - quantiles[0].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(q_mean, quantiles.mean(), rtol=1e-5)


def trained(critic: str, updates: int = 1_500, **numbers: float) -> tuple[dj.Agent, Any]:
    """A critic of a bandit: one state and action, whose reward is 1 with chance .25, else -1."""
    experiment, hyper = dj.configure({"critic": critic, "num_atoms": 21, "hidden": (16,), "critic_lr": 3e-3, **numbers})
    spec = dj.envs.make_device("probe/lqr").spec
    agent = dj.build(experiment, spec).agent
    hyper: Any = jax.tree.map(jnp.float32, hyper)

    def step(state: Any, t: Any) -> Any:
        reward = jnp.where(jax.random.uniform(jax.random.fold_in(jax.random.key(1), t), (64,)) < 0.25, 1.0, -1.0)
        same, over = jnp.ones((64, 2)), jnp.zeros(64)
        batch = dj.Transition(same, jnp.zeros((64, 1)), reward, over, over > 0, same)
        return agent.update(jax.random.key(t), state, batch, jnp.ones(64), hyper, t)[0], None

    start = jax.jit(agent.init)(jax.random.key(0), hyper)
    return agent, jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(updates))[0])(start)


def test_a_categorical_critic_learns_the_distribution_of_a_bandit() -> None:
    """Atoms at -2, -1.8 .. 2: a quarter of the probability is at 1, the rest at -1."""
    from ddpg_jax.agent.networks import apply

    agent, state = trained("categorical", value_min=-2.0, value_max=2.0)
    obs, action = jnp.ones((1, 2)), jnp.zeros((1, 1))
    np.testing.assert_allclose(agent.q_values(state.params.critic, obs, action), [[-0.5]], atol=0.08)
    critic = dj.NETWORKS["mlp"](action_dim=1, hidden=(16,), outputs=21).critic
    probabilities = np.asarray(jax.nn.softmax(apply(critic, state.params.critic["critic_0"], obs, action)))[0]
    atoms = np.asarray(state.params.critic["support"]["atoms"])
    near = {at: probabilities[np.abs(atoms - at) < 0.05].sum() for at in (-1.0, 1.0)}
    assert near[-1.0] == pytest.approx(0.75, abs=0.05)
    assert near[1.0] == pytest.approx(0.25, abs=0.05)


def test_a_quantile_critic_learns_the_distribution_of_a_bandit() -> None:
    from ddpg_jax.agent.networks import apply

    agent, state = trained("quantile")
    obs, action = jnp.ones((1, 2)), jnp.zeros((1, 1))
    np.testing.assert_allclose(agent.q_values(state.params.critic, obs, action), [[-0.5]], atol=0.12)
    # With the Huber loss, the best prediction is not the quantile itself: it is searched for on a grid.
    grid, fraction = np.linspace(-1.2, 1.2, 481), (np.arange(21) + 0.5) / 21
    losses = 0.0
    for reward, chance in ((-1.0, 0.75), (1.0, 0.25)):
        error = reward - grid[None]
        huber = np.where(np.abs(error) <= 1, 0.5 * error**2, np.abs(error) - 0.5)
        losses = losses + chance * np.abs(fraction[:, None] - (error < 0)) * huber
    best = grid[np.argmin(losses, axis=1)]
    critic = dj.NETWORKS["mlp"](action_dim=1, hidden=(16,), outputs=21).critic
    quantiles = np.sort(np.asarray(apply(critic, state.params.critic["critic_0"], obs, action))[0])
    np.testing.assert_allclose(quantiles, best, atol=0.15)


def test_the_support_is_a_constant_that_nothing_learns() -> None:
    _, state = trained("categorical", updates=30, value_min=-2.0, value_max=2.0, critic_decay=0.1)
    np.testing.assert_allclose(state.params.critic["support"]["atoms"], np.linspace(-2, 2, 21), atol=1e-6)
    np.testing.assert_allclose(state.target.critic["support"]["atoms"], np.linspace(-2, 2, 21), atol=1e-5)
    assert "support" not in str(jax.tree.structure(state.opt))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"critic": "categorical", "value_min": 3.0, "value_max": 3.0},
            "value_min=3 is not allowed; it must be below value_max=3",
        ),
        ({"critic": "quantile", "num_atoms": 1}, "num_atoms=1 is not allowed; it must be a whole number from 2"),
        ({"critic": "c51"}, "critic=c51 is not allowed; allowed are scalar, categorical, quantile"),
        ({"critic": "quantile", "huber_delta": 1.0}, "huber_delta=1.0 is not allowed with critic=quantile"),
        ({"network": "residual", "hidden": (8, 16)}, "hidden=8-16 is not allowed with network=residual"),
        ({"network": "residual", "critic_hidden": (8, 16)}, "critic_hidden=8-16 is not allowed with network=residual"),
        ({"network": "residual", "batch_norm": True}, "batch_norm=True is not allowed with network=residual"),
    ],
)
def test_bad_input_is_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(dj.ConfigError, match=message) as told:
        dj.train("probe/lqr", **fields)
    assert "\n" not in str(told.value)


def test_a_residual_block_adds_to_its_input() -> None:
    """Against NumPy, layer by layer."""
    experiment, _ = dj.configure({"network": "residual", "hidden": (6, 6)})
    agent = dj.build(experiment, dj.envs.make_device("probe/lqr").spec).agent
    params = jax.tree.map(lambda x: x + 0.1, agent.init(jax.random.key(3), dj.Hyperparams()).params.actor)
    obs = RNG.normal(size=(5, 2)).astype(np.float32)
    net, last = jax.tree.map(np.float64, params["residual"]), jax.tree.map(np.float64, params["action"])

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ net[name]["kernel"] + net[name]["bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * net[name]["scale"] + net[name]["bias"]

    x = linear(obs, "embedding")
    for i in range(2):
        x = x + linear(np.maximum(linear(norm(x, f"norm_{i}"), f"wide_{i}"), 0.0), f"narrow_{i}")
    expected = np.tanh(norm(x, "norm_last") @ last["kernel"] + last["bias"])
    np.testing.assert_allclose(agent.act(params, jnp.asarray(obs)), expected, atol=1e-5)
