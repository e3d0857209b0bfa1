"""Residual networks with LayerNorm (Lee et al. 2024, SimBa), for actor and critic."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.agent.layers import FINAL_BOUND, INITS, PRECISIONS, Product, dense, full_product
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array, Nets


class Residual(nn.Module):
    """Encodes inputs, `[..., I] -> [..., h]`: a linear embedding, a block for each hidden size, and a last LayerNorm.

    A block is LayerNorm, a layer of 4 h with ReLU, and one of h that is added to the block's input. The embedding starts
    orthogonal, and the layers of blocks as He et al. 2015 propose for ReLU.
    """

    hidden: tuple[int, ...]
    product: Product = full_product

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def linear(x: Array, features: int, name: str, init: Callable[..., Array]) -> Array:
            def dot_general(x: Array, w: Array, *_: object, **__: object) -> Array:
                return self.product(x, w)

            return nn.Dense(features, dot_general=dot_general, kernel_init=init, name=name)(x)

        width = self.hidden[0]
        x = linear(x, width, "embedding", jax.nn.initializers.orthogonal(1.0))
        for i in range(len(self.hidden)):
            y = nn.LayerNorm(name=f"norm_{i}")(x)
            y = nn.relu(linear(y, 4 * width, f"wide_{i}", jax.nn.initializers.he_normal()))
            x = x + linear(y, width, f"narrow_{i}", jax.nn.initializers.he_normal())
        return nn.LayerNorm(name="norm_last")(x)


class ResidualActor(nn.Module):
    """Computes mu(s), `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` gives the values before the tanh."""

    action_dim: int
    hidden: tuple[int, ...]
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product

    @nn.compact
    def __call__(self, obs: Array, squash: Callable[[Array], Array] = jnp.tanh) -> Array:
        x = Residual(self.hidden, self.product, name="residual")(obs)
        return squash(dense(x, self.action_dim, "action", bound=self.final_bound))


class ResidualCritic(nn.Module):
    """Computes Q(s, a), `[..., O], [..., A] -> [...]`, or `[..., K]` with `outputs`; both inputs enter the embedding."""

    hidden: tuple[int, ...]
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product
    outputs: int | None = None

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        x = Residual(self.hidden, self.product, name="residual")(jnp.concatenate([obs, action], axis=-1))
        value = dense(x, self.outputs or 1, "value", bound=self.final_bound)
        return value if self.outputs else value[..., 0]


def residual(
    *,
    action_dim: int,
    hidden: tuple[int, ...],
    actor_hidden: tuple[int, ...] = (),
    critic_hidden: tuple[int, ...] = (),
    init: str = "paper",
    precision: str = "float32",
    outputs: int | None = None,
) -> Nets:
    """Makes residual networks, with a block for each hidden size, all of which must be the same within a network.

    Raises:
        ConfigError: sizes that differ.
    """
    sizes = {"actor_hidden": actor_hidden or hidden, "critic_hidden": critic_hidden or hidden}
    for name, each in sizes.items():
        if len(set(each)) != 1:
            given = name if {"actor_hidden": actor_hidden, "critic_hidden": critic_hidden}[name] else "hidden"
            raise ConfigError(
                f"{given}={'-'.join(map(str, each))} is not allowed with network=residual, whose blocks are added to their "
                "inputs; all sizes must be the same"
            )
    bound, product = INITS[init], PRECISIONS[precision]
    return Nets(
        ResidualActor(action_dim, sizes["actor_hidden"], bound, product),
        ResidualCritic(sizes["critic_hidden"], bound, product, outputs),
    )
