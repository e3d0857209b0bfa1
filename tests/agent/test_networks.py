"""Shapes, initialization and options of actor and critic (Lillicrap et al. 2015, section 7)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ddpg_jax as dj
from ddpg_jax.agent.layers import ACTIVATIONS
from tests.agents import mlp_agent

OBS, ACTION, HIDDEN = 3, 2, (16, 12)
HYPER = dj.Hyperparams()


def many(init: Callable[[jax.Array], Any], seeds: int = 64) -> Any:
    """Initial parameters for many seeds, every leaf with a leading [S], as NumPy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[init(jax.random.key(seed)) for seed in range(seeds)])


def assert_uniform(values: np.ndarray, bound: float) -> None:
    """Within the bound, and uniform up to it on both sides (Kolmogorov-Smirnov)."""
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.9 * bound
    assert scipy.stats.kstest(values.ravel() / bound, "uniform", (-1.0, 2.0)).pvalue > 1e-3


def test_actor_starts_as_in_the_paper() -> None:
    """Hidden layers, biases too, in +-1/sqrt(fan-in), the last one in +-3e-3, each spread over its whole range."""
    params = many(lambda key: dj.init_actor(key, dj.Actor(ACTION, HIDDEN), OBS))
    for layer, bound in (("hidden_0", OBS**-0.5), ("hidden_1", HIDDEN[0] ** -0.5), ("action", 3e-3)):
        for values in params[layer].values():
            assert_uniform(values, bound)


def test_fan_in_starts_as_linear_layers_of_torch_do() -> None:
    """U(-b, b) with b = 1 / sqrt(fan-in) for the weights and biases of every layer, the last ones too."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, init="fan_in", num_critics=2)
    params = many(lambda key: agent.init(key, HYPER).params)
    for layer, bound in (("hidden_0", OBS**-0.5), ("hidden_1", HIDDEN[0] ** -0.5), ("action", HIDDEN[1] ** -0.5)):
        for values in params.actor[layer].values():
            assert_uniform(values, bound)
    for critic in params.critic.values():
        for values in critic["value"].values():
            assert_uniform(values, HIDDEN[1] ** -0.5)


@pytest.mark.parametrize("action_layer", [0, 1, 2])
def test_critic_starts_as_in_the_paper(action_layer: int) -> None:
    """The action widens the input of exactly one layer, and counts in that layer's fan-in."""
    params = many(lambda key: dj.init_critic(key, dj.Critic(HIDDEN, action_layer=action_layer), OBS, ACTION))
    inputs = [OBS, *HIDDEN]
    inputs[action_layer] += ACTION
    outputs = [*HIDDEN, 1]
    for i, layer in enumerate(("hidden_0", "hidden_1", "value")):
        assert params[layer]["kernel"].shape[1:] == (inputs[i], outputs[i])
        assert params[layer]["bias"].shape[1:] == (outputs[i],)
        for values in params[layer].values():
            assert_uniform(values, 3e-3 if layer == "value" else inputs[i] ** -0.5)


@pytest.mark.parametrize("action_layer", [0, 1, 2])
def test_critic_sees_observation_and_action(action_layer: int) -> None:
    """Wherever the action joins, the value depends on every entry of both inputs."""
    critic = dj.Critic(HIDDEN, activation=jnp.tanh, action_layer=action_layer)
    params = dj.init_critic(jax.random.key(1), critic, OBS, ACTION)
    grads = jax.jit(jax.grad(lambda o, a: critic.apply({"params": params}, o, a), argnums=(0, 1)))(
        jnp.ones(OBS), jnp.ones(ACTION)
    )
    assert all(np.all(np.asarray(grad) != 0) for grad in grads)


def test_layer_norm_adds_parameters_to_hidden_layers_only() -> None:
    """The option changes the tree of parameters, and leaves the outputs of the networks alone."""
    key = jax.random.key(0)
    for norm in (False, True):
        actor = jax.eval_shape(lambda norm=norm: dj.init_actor(key, dj.Actor(ACTION, HIDDEN, layer_norm=norm), OBS))
        critic = jax.eval_shape(lambda norm=norm: dj.init_critic(key, dj.Critic(HIDDEN, layer_norm=norm), OBS, ACTION))
        norms = {"norm_0", "norm_1"} if norm else set()
        assert set(actor) == {"hidden_0", "hidden_1", "action"} | norms
        assert set(critic) == {"hidden_0", "hidden_1", "value"} | norms


@pytest.mark.parametrize("norm", [False, True])
def test_layer_norm_normalizes_before_the_activation(norm: bool) -> None:
    """With it, the scale and the shift of a layer's output do not matter; without it they do."""
    actor = dj.Actor(ACTION, HIDDEN, layer_norm=norm)
    params = dj.init_actor(jax.random.key(0), actor, OBS)
    obs = jax.random.normal(jax.random.key(1), (8, OBS))
    scaled = dict(params)
    for layer in ("hidden_0", "hidden_1"):
        scaled[layer] = {"kernel": 50.0 * params[layer]["kernel"], "bias": 50.0 * params[layer]["bias"] + 7.0}
    act = jax.jit(lambda params: actor.apply({"params": params}, obs))
    plain, changed = np.asarray(act(params)), np.asarray(act(scaled))
    assert np.allclose(plain, changed, atol=1e-5) == norm
    assert np.ptp(plain) > 1e-4  # it did not normalize everything away


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_actions_stay_in_the_unit_box(activation: str) -> None:
    """Near zero at the start, and in [-1, 1] however large parameters and observations are."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, activation=activation)
    params = agent.init(jax.random.key(0), HYPER).params.actor
    act = jax.jit(agent.act)
    obs = jax.random.normal(jax.random.key(1), (64, OBS))
    assert np.abs(act(params, obs)).max() < 0.1
    wild = np.asarray(act(jax.tree.map(lambda x: 1e3 * x, params), 1e3 * obs))
    assert np.abs(wild).max() <= 1.0
    assert np.abs(wild).max(axis=0).min() > 0.9, "parameters this large drive actions to their bounds"


def test_several_critics_are_independent() -> None:
    """Each has parameters of its own in every leaf, and values [E, ...] that differ."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, num_critics=3)
    params = agent.init(jax.random.key(0), HYPER).params.critic
    assert set(params) == {"critic_0", "critic_1", "critic_2"}
    for a, b in (("critic_0", "critic_1"), ("critic_0", "critic_2"), ("critic_1", "critic_2")):
        for x, y in zip(jax.tree.leaves(params[a]), jax.tree.leaves(params[b]), strict=True):
            assert not np.any(np.asarray(x) == np.asarray(y))
    q = np.asarray(jax.jit(agent.q_values)(params, jnp.ones((4, 7, OBS)), jnp.zeros((4, 7, ACTION))))
    assert q.shape == (3, 4, 7)
    assert len(np.unique(q[:, 0, 0])) == 3


def test_actor_and_critic_draw_different_numbers() -> None:
    """One key, two networks: a shared stream would make their equal-shaped layers equal."""
    params = mlp_agent(OBS, ACTION, HIDDEN).init(jax.random.key(0), HYPER).params
    actor, critic = params.actor["hidden_1"]["kernel"], params.critic["critic_0"]["hidden_1"]["kernel"]
    assert not np.any(np.asarray(actor) == np.asarray(critic))


def test_targets_start_as_copies_in_buffers_of_their_own() -> None:
    """Equal, but not shared: parameters and targets are donated side by side, again and again."""
    agent = mlp_agent(OBS, ACTION, HIDDEN)
    state = agent.init(jax.random.key(0), HYPER)
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.target), strict=True):
        np.testing.assert_array_equal(x, y)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state.params, state.target))]
    assert len(set(pointers)) == len(pointers)

    obs, action = jnp.ones((4, OBS)), jnp.zeros((4, ACTION))
    batch = dj.Transition(obs, action, jnp.ones(4), jnp.ones(4), jnp.zeros(4, bool), obs)
    update = jax.jit(agent.update, donate_argnums=1)
    for t in range(2):
        used = state
        state, *_ = update(jax.random.key(0), used, batch, jnp.ones(4), HYPER, jnp.int32(t))
        assert all(x.is_deleted() for x in jax.tree.leaves(used.params)), "the old state was not given up"
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["support", "norm_obs"])
def test_layers_do_not_take_names_that_mean_something_else(name: str) -> None:
    """They would be left out of what is learned, or be read as running statistics."""

    class Actor(nn.Module):
        @nn.compact
        def __call__(self, obs: Any) -> Any:
            return jnp.tanh(nn.Dense(1, name=name)(obs))

    with pytest.raises(dj.ConfigError, match=f"the actor has a layer named {name}"):
        dj.make_agent(Actor(), dj.mlp(action_dim=1).critic, obs_dim=3)
