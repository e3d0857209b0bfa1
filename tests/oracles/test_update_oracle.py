"""One DDPG update against a second implementation: NumPy, float64, gradients derived by hand, no autodiff and no optax.

The oracle follows Algorithm 1 of Lillicrap et al. 2015 and Adam of Kingma & Ba 2015. Both sides get the same initial weights
and the same random batches; what is compared is everything that an update changes, after many updates.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpg_jax as dj
from tests.agents import mlp_agent

if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # before jax 0.8
    from jax.experimental import enable_x64  # pyright: ignore

OBS, ACTION, HIDDEN, BATCH = 3, 2, (16, 12), 32
ACTOR_LR, CRITIC_LR, GAMMA, TAU = 1e-3, 3e-3, 0.97, 0.05
HYPER = dj.Hyperparams(actor_lr=ACTOR_LR, critic_lr=CRITIC_LR, gamma=GAMMA, tau=TAU)

Layers = list[dict[str, np.ndarray]]  # kernel [I, J] and bias [J] of each layer, first to last


class Adam(NamedTuple):
    """Steps done, first and second moment, in the shape of what is optimized."""

    steps: int
    m: list[Layers]
    v: list[Layers]


def start(networks: list[Layers]) -> Adam:
    zeros = [[{name: np.zeros_like(x) for name, x in layer.items()} for layer in layers] for layers in networks]
    return Adam(0, zeros, [[dict(layer) for layer in layers] for layers in zeros])


def descend(networks: list[Layers], grads: list[Layers], adam: Adam, lr: float) -> tuple[list[Layers], Adam]:
    """One step of Adam with b1 = .9, b2 = .999, eps = 1e-8 outside of the root."""
    t = adam.steps + 1

    def each(function: Any, *trees: list[Layers]) -> list[Layers]:
        return [
            [{name: function(*(layer[name] for layer in same)) for name in same[0]} for same in zip(*layers, strict=True)]
            for layers in zip(*trees, strict=True)
        ]

    m = each(lambda m, g: 0.9 * m + 0.1 * g, adam.m, grads)
    v = each(lambda v, g: 0.999 * v + 0.001 * g**2, adam.v, grads)
    step = each(lambda m, v: lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v)
    return each(lambda p, s: p - s, networks, step), Adam(t, m, v)


def forward(layers: Layers, x: np.ndarray, action: np.ndarray | None = None, join: int = 0) -> tuple[np.ndarray, list[Any]]:
    """ReLU network without a last activation; `action` joins the input of layer `join`. Also the input of each layer."""
    inputs = []
    for i, layer in enumerate(layers):
        if action is not None and i == join:
            x = np.concatenate([x, action], axis=1)
        inputs.append(x)
        x = x @ layer["kernel"] + layer["bias"]
        if i < len(layers) - 1:
            x = np.maximum(x, 0.0)
    return x, inputs


def backward(layers: Layers, inputs: list[Any], d_out: np.ndarray, join: int | None) -> tuple[Layers, np.ndarray]:
    """Gradients of the layers and of the action (zeros without one), given that of the output."""
    grads: Layers = [{}] * len(layers)
    d_action = np.zeros((len(d_out), ACTION))
    for i in reversed(range(len(layers))):
        grads[i] = {"kernel": inputs[i].T @ d_out, "bias": d_out.sum(axis=0)}
        d_in, below = d_out @ layers[i]["kernel"].T, inputs[i]
        if i == join:
            d_action, d_in, below = d_in[:, -ACTION:], d_in[:, :-ACTION], below[:, :-ACTION]
        d_out = d_in * (below > 0)  # through the ReLU below; of no use under the first layer
    return grads, d_action


class Oracle:
    """DDPG with E critics, of which the first one teaches the actor and the smallest one makes the target."""

    def __init__(self, actor: Layers, critics: list[Layers], join: int, delay: int) -> None:
        self.actor, self.critics, self.join, self.delay = actor, critics, join, delay
        self.target_actor, self.target_critics = actor, critics
        self.actor_adam, self.critic_adam = start([actor]), start(critics)

    def update(self, batch: Any, weight: np.ndarray, t: int) -> dict[str, Any]:
        """Changes the oracle; gives what the library's `info` says."""
        size = len(weight)
        next_action = np.tanh(forward(self.target_actor, batch.next_obs)[0])
        next_q = [forward(critic, batch.next_obs, next_action, self.join)[0][:, 0] for critic in self.target_critics]
        y = batch.reward + batch.discount * np.min(next_q, axis=0)

        grads, q, td = [], [], []
        for critic in self.critics:
            out, inputs = forward(critic, batch.obs, batch.action, self.join)
            q.append(out[:, 0])
            td.append(y - q[-1])
            grads.append(backward(critic, inputs, (-2.0 * weight * td[-1] / size)[:, None], self.join)[0])
        self.critics, self.critic_adam = descend(self.critics, grads, self.critic_adam, CRITIC_LR)

        value = np.nan
        if t % self.delay == 0:
            out, actor_inputs = forward(self.actor, batch.obs)
            action = np.tanh(out)
            judged, inputs = forward(self.critics[0], batch.obs, action, self.join)
            value = -judged.mean()
            _, d_action = backward(self.critics[0], inputs, np.full((size, 1), -1.0 / size), self.join)
            grad, _ = backward(self.actor, actor_inputs, d_action * (1.0 - action**2), None)
            [self.actor], self.actor_adam = descend([self.actor], [grad], self.actor_adam, ACTOR_LR)

        self.target_actor = follow(self.actor, self.target_actor)
        self.target_critics = [follow(*pair) for pair in zip(self.critics, self.target_critics, strict=True)]
        loss = sum(np.mean(weight * np.square(error)) for error in td)
        return {"critic_loss": loss, "actor_loss": value, "q_mean": q[0].mean(), "td": td[0]}


def follow(layers: Layers, target: Layers) -> Layers:
    """The targets go a part TAU of the way to the layers."""
    pairs = zip(layers, target, strict=True)
    return [{name: old[name] + TAU * (new[name] - old[name]) for name in new} for new, old in pairs]


def actor_layers(params: Any) -> Layers:
    """The library's parameters of an actor as the oracle's, float64."""
    return read(params, "action")


def critic_layers(params: Any) -> list[Layers]:
    """The library's parameters of E critics as the oracle's, float64."""
    return [read(params[f"critic_{e}"], "value") for e in range(len(params))]


def read(params: Any, last: str) -> Layers:
    names = [*(f"hidden_{i}" for i in range(len(HIDDEN))), last]
    assert set(params) == set(names), "a layer that the oracle does not know of"
    return [{name: np.asarray(x, np.float64) for name, x in params[layer].items()} for layer in names]


def random_batch(rng: np.random.Generator) -> tuple[dj.Transition, np.ndarray]:
    """A batch [B], a fifth of it terminal, and its weights; float32 numbers, so that both precisions get the same."""
    ended = rng.random(BATCH) < 0.2
    fields: dict[str, Any] = {
        "obs": rng.normal(size=(BATCH, OBS)),
        "action": rng.uniform(-1, 1, size=(BATCH, ACTION)),
        "reward": rng.normal(size=BATCH),
        "discount": np.where(ended, 0.0, GAMMA),
        "last": ended,
        "next_obs": rng.normal(size=(BATCH, OBS)),
    }
    weight = rng.uniform(0.5, 1.5, size=BATCH).astype(np.float32)
    return cast(dj.Transition(**fields), np.float32), weight


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating-point leaf in this precision."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def compare(updates: int, dtype: Any, atol: float, action_layer: int = 0, num_critics: int = 1, policy_delay: int = 1) -> None:
    """Runs both sides and compares parameters, targets, moments and reports."""
    agent = mlp_agent(OBS, ACTION, HIDDEN, action_layer=action_layer, num_critics=num_critics, policy_delay=policy_delay)
    state, key = agent.init(jax.random.key(0), HYPER), jax.random.key(0)
    oracle = Oracle(actor_layers(state.params.actor), critic_layers(state.params.critic), action_layer, policy_delay)
    rng, update = np.random.default_rng(1), jax.jit(agent.update)
    with enable_x64(dtype == np.float64):
        state = before = cast(state, dtype)
        hyper = jax.tree.map(lambda x: np.asarray(x, dtype), HYPER)
        for t in range(updates):
            batch, weight = random_batch(rng)
            state, td, info = update(key, state, cast(batch, dtype), cast(weight, dtype), hyper, np.int32(t))
            info = {**info, "td": td}
            expected_info = oracle.update(cast(batch, np.float64), cast(weight, np.float64), t)
            for name, expected in expected_info.items():  # NaN equals NaN: where the actor rests it has no loss
                np.testing.assert_allclose(np.asarray(info[name]), expected, rtol=0, atol=atol, err_msg=f"{name} at {t}")

    assert all(x.dtype == dtype for x in jax.tree.leaves(state.params)), "the precision that this test is about got lost"
    actor_adam, critic_adam = state.opt.actor[0], state.opt.critic[0]
    assert int(actor_adam.count) == oracle.actor_adam.steps == -(-updates // policy_delay)
    assert int(critic_adam.count) == oracle.critic_adam.steps == updates
    pairs = {
        "actor": (actor_layers(state.params.actor), oracle.actor),
        "critic": (critic_layers(state.params.critic), oracle.critics),
        "target actor": (actor_layers(state.target.actor), oracle.target_actor),
        "target critic": (critic_layers(state.target.critic), oracle.target_critics),
        "actor m": ([actor_layers(actor_adam.mu)], oracle.actor_adam.m),
        "actor v": ([actor_layers(actor_adam.nu)], oracle.actor_adam.v),
        "critic m": (critic_layers(critic_adam.mu), oracle.critic_adam.m),
        "critic v": (critic_layers(critic_adam.nu), oracle.critic_adam.v),
    }
    for name, pair in pairs.items():
        jax.tree.map(lambda x, y, name=name: np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=name), *pair)
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params), strict=True):
        assert np.max(np.abs(np.asarray(old) - np.asarray(new))) > 20 * atol, "nothing moved, so agreement says nothing"


def test_float64_agrees_to_1e9_after_100_updates() -> None:
    """In float64 nothing is left to rounding: one wrong term anywhere in the update shows."""
    compare(updates=100, dtype=np.float64, atol=1e-9)


def test_float32_agrees_to_1e4_after_100_updates() -> None:
    """The precision that users train in follows the exact update closely."""
    compare(updates=100, dtype=np.float32, atol=1e-4)


VARIANTS = {
    "action joins a hidden layer": {"action_layer": 1},
    "action joins the last layer": {"action_layer": 2},
    "two critics": {"num_critics": 2},
    "delayed actor": {"policy_delay": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_agree_in_float64(variant: str) -> None:
    """Every option of `make_agent` that changes the update has the equations that its docstring gives."""
    compare(updates=20, dtype=np.float64, atol=1e-9, **VARIANTS[variant])
