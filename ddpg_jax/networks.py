"""Actor and critic (Lillicrap et al. 2015, section 7), and their initialization."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Key, Params

FINAL_BOUND = 3e-3  # of the last layer's weights and biases, so that first actions and values are near zero
INITS: dict[str, float | None] = {"paper": FINAL_BOUND, "fan_in": None}
"""How networks start -> the bound of the last layer, None for that of the others, +-1/sqrt(fan-in) (torch's Linear)."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}


def identity(x: Array) -> Array:
    """x, where another function could stand."""
    return x


def dense(x: Array, features: int, name: str, bound: float | None = None) -> Array:
    """A fully connected layer, `[..., I] -> [..., features]`, inside a flax module.

    Weights and biases are drawn from U(-bound, bound); without a bound, from +-1/sqrt(I), the fan-in of the layer.
    """
    limit = x.shape[-1] ** -0.5 if bound is None else bound

    def uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)(x)


class Actor(nn.Module):
    """mu(s): `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` gives the values before the tanh."""

    action_dim: int
    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    final_bound: float | None = FINAL_BOUND

    @nn.compact
    def __call__(self, obs: Array, squash: Callable[[Array], Array] = jnp.tanh) -> Array:
        x = obs
        for i, features in enumerate(self.hidden):
            x = dense(x, features, f"hidden_{i}")
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = self.activation(x)
        return squash(dense(x, self.action_dim, "action", self.final_bound))


class Critic(nn.Module):
    """Q(s, a): `[..., O], [..., A] -> [...]`. The action joins the input of layer `action_layer`, 0 being the first."""

    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    action_layer: int = 0
    final_bound: float | None = FINAL_BOUND

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        x = obs
        for i, features in enumerate(self.hidden):
            x = jnp.concatenate([x, action], axis=-1) if i == self.action_layer else x
            x = dense(x, features, f"hidden_{i}")
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = self.activation(x)
        x = jnp.concatenate([x, action], axis=-1) if self.action_layer == len(self.hidden) else x
        return dense(x, 1, "value", self.final_bound)[..., 0]


class Critics(nn.Module):
    """`num_critics` independent critics: `[..., O], [..., A] -> [E, ...]`."""

    num_critics: int = 1
    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    action_layer: int = 0
    final_bound: float | None = FINAL_BOUND

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        # A loop, not a batched product: with one critic a batch dimension of 1 would only slow the products down.
        return jnp.stack(
            [
                Critic(self.hidden, self.activation, self.layer_norm, self.action_layer, self.final_bound, name=f"critic_{e}")(
                    obs, action
                )
                for e in range(self.num_critics)
            ]
        )


def init_actor(key: Key, actor: nn.Module, obs_dim: int) -> Params:
    """Parameters of an actor for observations of length `obs_dim`. Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_actor(jax.random.key(0), dj.Actor(action_dim=1), obs_dim=3)
    >>> params["hidden_0"]["kernel"].shape
    (3, 256)
    """
    return actor.init(key, jnp.zeros((1, obs_dim)))["params"]


def init_critic(key: Key, critic: nn.Module, obs_dim: int, action_dim: int) -> Params:
    """Parameters of a critic (or of several, `Critics`). Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_critic(jax.random.key(0), dj.Critic(), obs_dim=3, action_dim=1)
    >>> params["value"]["kernel"].shape
    (256, 1)
    """
    return critic.init(key, jnp.zeros((1, obs_dim)), jnp.zeros((1, action_dim)))["params"]
