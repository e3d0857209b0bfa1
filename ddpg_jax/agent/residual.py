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
        width, he = self.hidden[0], jax.nn.initializers.he_normal()
        x = dense(x, width, "embedding", init=jax.nn.initializers.orthogonal(1.0), product=self.product)
        for i in range(len(self.hidden)):
            y = nn.LayerNorm(name=f"norm_{i}")(x)
            y = nn.relu(dense(y, 4 * width, f"wide_{i}", init=he, product=self.product))
            x = x + dense(y, width, f"narrow_{i}", init=he, product=self.product)
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
    for name, own in (("actor_hidden", actor_hidden), ("critic_hidden", critic_hidden)):
        sizes = own or hidden
        if len(set(sizes)) != 1:
            raise ConfigError(
                f"{name if own else 'hidden'}={'-'.join(map(str, sizes))} is not allowed with network=residual, whose blocks "
                "are added to their inputs; all sizes must be the same"
            )
    bound, product = INITS[init], PRECISIONS[precision]
    return Nets(
        ResidualActor(action_dim, actor_hidden or hidden, bound, product),
        ResidualCritic(critic_hidden or hidden, bound, product, outputs),
    )
