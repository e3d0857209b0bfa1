"""CrossQ against NumPy: batch renormalization, one forward pass for both batches, and no target networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ddpg_jax as dj
from ddpg_jax.agent.crossq import EPSILON, BatchRenorm, CrossQActor, CrossQCritic
from ddpg_jax.agent.networks import apply_by_batch
from ddpg_jax.agent.targets import JOINT

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
OBS, ACTION, HIDDEN, BATCH = 3, 2, (6, 5), 8


def renormalized(x: np.ndarray, layer: Any, running: Any, by_batch: bool) -> np.ndarray:
    """Algorithm 1 of Ioffe 2017, in float64."""
    deviation = np.sqrt(running["var"] + EPSILON)
    scale, bias = layer["scale"], layer["bias"]
    if not by_batch:
        return scale * (x - running["mean"]) / deviation + bias
    mean, own = x.mean(axis=0), np.sqrt(x.var(axis=0) + EPSILON)
    r, d = np.clip(own / deviation, 1 / 3, 3), np.clip((mean - running["mean"]) / deviation, -5, 5)
    return scale * ((x - mean) / own * r + d) + bias


def forward(params: Any, running: Any, x: np.ndarray, last: str, by_batch: bool) -> np.ndarray:
    """A network of CrossQ before its last function."""
    x = renormalized(x, params["norm_input"], running["norm_input"], by_batch)
    for i in range(len(HIDDEN)):
        x = np.maximum(x @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"], 0.0)
        x = renormalized(x, params[f"norm_{i}"], running[f"norm_{i}"], by_batch)
    return x @ params[last]["kernel"] + params[last]["bias"]


def shaken(params: Any, seed: int) -> Any:
    """Parameters far from those of a start, statistics too, some of which are beyond what is corrected."""
    rng = np.random.default_rng(seed)

    def shake(path: Any, leaf: Any) -> Any:
        moved = np.asarray(leaf) + 0.4 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.square(moved) + 0.02 if path[-1].key == "var" else moved, jnp.float32)

    return jax.tree.map_with_path(shake, params)


def float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def make(**options: Any) -> dj.Agent:
    critic = CrossQCritic(HIDDEN, final_bound=None)
    return dj.make_agent(CrossQActor(ACTION, HIDDEN), critic, obs_dim=OBS, targets=JOINT, **options)


def batch() -> dj.Transition:
    """`[B]`, whose successors are distributed otherwise than their states."""
    shapes = ((BATCH, OBS), (BATCH, ACTION), (BATCH,), (BATCH, OBS))
    obs, action, reward, next_obs = (RNG.normal(size=shape) for shape in shapes)
    over = np.zeros(BATCH)
    arrays = (obs, np.clip(action, -1, 1), reward, 0.9 + over, over, 2.0 + 3.0 * next_obs)
    return dj.Transition(*(jnp.asarray(x, jnp.float32) for x in arrays))


def test_an_update_is_that_of_the_paper() -> None:
    """Both batches at once, the next action by the actor's running statistics, which all move once; nothing is kept besides."""
    agent = make(num_critics=2)
    state: Any = agent.init(KEY, dj.Hyperparams())
    assert not jax.tree.leaves(state.target)
    state = state.replace(params=shaken(state.params, 1))
    data, hyper = batch(), dj.Hyperparams(actor_lr=1e-2, critic_lr=1e-2)
    after, td, info = jax.jit(agent.update)(KEY, state, data, jnp.ones(BATCH), hyper, jnp.int32(0))
    old, new = float64(state.params), float64(after.params)

    def mu(obs: Any, by_batch: bool) -> np.ndarray:
        return np.tanh(forward(old.actor, old.actor["batch_stats"], np.asarray(obs, np.float64), "action", by_batch))

    pairs = np.concatenate(
        [
            np.concatenate([data.obs, data.action], axis=1),
            np.concatenate([data.next_obs, mu(data.next_obs, False)], axis=1),
        ]
    )
    critics, running = ("critic_0", "critic_1"), old.critic["batch_stats"]
    q = np.stack([forward(old.critic[e], running[e], pairs, "value", True)[:, 0] for e in critics])
    y = np.asarray(data.reward) + 0.9 * q[:, BATCH:].min(axis=0)
    np.testing.assert_allclose(td, y - q[0, :BATCH], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(info["critic_loss"], np.mean((y - q[:, :BATCH]) ** 2, axis=1).sum(), rtol=1e-3)

    own = np.concatenate([data.obs, mu(data.obs, True)], axis=1)  # the actor climbs by the running statistics of the critic
    judged = forward(new.critic["critic_0"], new.critic["batch_stats"]["critic_0"], own, "value", False)
    np.testing.assert_allclose(info["actor_loss"], -judged.mean(), rtol=1e-3, atol=1e-4)

    for seen, before, x in (
        (new.critic["batch_stats"]["critic_0"], running["critic_0"], pairs),
        (new.actor["batch_stats"], old.actor["batch_stats"], np.asarray(data.obs, np.float64)),
    ):
        np.testing.assert_allclose(
            seen["norm_input"]["mean"], 0.99 * before["norm_input"]["mean"] + 0.01 * x.mean(axis=0), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            seen["norm_input"]["var"], 0.99 * before["norm_input"]["var"] + 0.01 * x.var(axis=0), rtol=1e-4
        )
    assert not jax.tree.leaves(after.target)


def test_no_gradient_flows_through_targets_or_corrections() -> None:
    """Along the step of gradient descent, the loss falls as finite differences with both held fixed say.

    Rows have different weights, since the sum of the squares of normalized rows is the same for all.
    """
    net, x = BatchRenorm(), jnp.asarray(RNG.normal(2.0, 3.0, (BATCH, 2)), jnp.float32)
    made: Any = net.init(KEY, x, by_batch=True)
    weights = np.linspace(0.0, 2.0, BATCH)

    def weighted(x: Any) -> Any:
        return jnp.sum(weights * jnp.square(net.apply(made, x, by_batch=True, mutable=["batch_stats"])[0][:, 0]))

    slope = jax.grad(weighted)(x)
    exact, r = np.asarray(x, np.float64), np.clip(np.std(x[:, 0]), 1 / 3, 3)
    d = np.clip(np.mean(x[:, 0]), -5, 5)

    def loss(first: np.ndarray) -> float:
        return np.sum(weights * ((first - first.mean()) / np.sqrt(first.var() + EPSILON) * r + d) ** 2)

    for b in range(BATCH):
        moved = np.eye(BATCH)[b] * 1e-5
        expected = (loss(exact[:, 0] + moved) - loss(exact[:, 0] - moved)) / 2e-5
        assert float(slope[b, 0]) == pytest.approx(expected, rel=2e-3, abs=5e-3)
    assert np.abs(slope[:, 0]).max() > 0.1

    descent = dj.Nets(*(lambda hyper, t: optax.sgd(1e-3),) * 2)
    agent, data = make(optimizers=descent), batch()
    state: Any = agent.init(KEY, dj.Hyperparams())
    after, td, _ = jax.jit(agent.update)(KEY, state, data, jnp.ones(BATCH), dj.Hyperparams(), jnp.int32(0))
    critic = dj.Critics(CrossQCritic(HIDDEN, final_bound=None))
    pairs = [
        jnp.concatenate([data.obs, data.next_obs]),
        jnp.concatenate([data.action, agent.act(state.params.actor, data.next_obs)]),
    ]

    def outputs(params: Any) -> Any:
        return apply_by_batch(critic, params, *pairs)[0]

    fixed = td + outputs(state.params.critic)[:BATCH]
    grads = jax.grad(lambda params: jnp.mean(jnp.square(fixed - outputs(params)[:BATCH])))(state.params.critic)
    for name in ("hidden_0", "hidden_1", "value"):
        kernels = (tree["critic_0"][name]["kernel"] for tree in (state.params.critic, after.params.critic, grads))
        before, now, grad = kernels
        np.testing.assert_allclose(before - now, 1e-3 * grad, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("fields", [{"tau": 0.1}, {"sync_period": 5}])
def test_parameters_of_target_networks_are_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(dj.ConfigError, match=f"{name}=.* is not allowed with targets=joint, which has no target networks"):
        dj.configure({"targets": "joint", **fields})
    with pytest.raises(dj.ConfigError, match=f"{name}=.* is not allowed with targets=joint"):
        dj.sweep("probe/lqr", grid={name: [1.0, 0.5] if name == "tau" else [1, 2]}, targets="joint", steps=1_100)


def test_it_learns() -> None:
    """The best action equals the observation, and what acts by running statistics has learned it by those of batches."""
    fields = {"network": "crossq", "targets": "joint", "actor_lr": 1e-3, "critic_lr": 1e-3, "gamma": 0.9, "hidden": (32, 32)}
    run = dj.train("probe/observation", steps=2_500, warmup_steps=500, eval_every=2_500, eval_episodes=1, **fields)
    obs = np.linspace(-0.7, 0.7, 8)[:, None]
    np.testing.assert_allclose(run.policy(obs), obs, atol=0.15)
