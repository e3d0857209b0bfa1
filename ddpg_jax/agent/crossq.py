"""Networks with batch renormalization of all layers (CrossQ, Bhatt et al. 2024), for actor and critic."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.agent.layers import FINAL_BOUND, INITS, PRECISIONS, Product, dense, full_product
from ddpg_jax.types import Array, Nets

MOMENTUM, EPSILON = 0.99, 1e-3
"""Decay of the running statistics, and what is added to variances."""
SCALE_LIMIT, SHIFT_LIMIT = 3.0, 5.0
"""Bounds of the corrections r and d (Ioffe 2017)."""


class BatchRenorm(nn.Module):
    """Applies batch renormalization (Ioffe 2017), `[..., I] -> [..., I]`, with a learned scale and shift.

    If `by_batch`, x is normalized by the statistics of the batch, and then corrected to what the running statistics would give,
    by factors r and shifts d that are bounded and through which no gradient flows. Otherwise it is normalized by the running
    statistics. So learning sees what acting sees, unlike with BatchNorm.
    """

    @nn.compact
    def __call__(self, x: Array, by_batch: bool) -> Array:
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        running = jnp.sqrt(var.value + EPSILON)
        if not by_batch:
            return self._scaled((x - _rows(mean.value, x)) / _rows(running, x))
        axes = tuple(range(x.ndim - 1))
        batch_mean = jnp.mean(x, axis=axes)
        centered = x - _rows(batch_mean, x)
        batch_var = jnp.mean(jnp.square(centered), axis=axes)
        deviation = jnp.sqrt(batch_var + EPSILON)
        r = jax.lax.stop_gradient(jnp.clip(deviation / running, 1.0 / SCALE_LIMIT, SCALE_LIMIT))
        d = jax.lax.stop_gradient(jnp.clip((batch_mean - mean.value) / running, -SHIFT_LIMIT, SHIFT_LIMIT))
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1.0 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1.0 - MOMENTUM) * batch_var
        return self._scaled(centered * _rows(r / deviation, x) + _rows(d, x))

    def _scaled(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x * _rows(scale, x) + _rows(bias, x)


def _rows(y: Array, x: Array) -> Array:
    """Returns y `[I]` for each row of x `[..., I]`."""
    return jnp.broadcast_to(y, x.shape)


def encoded(
    x: Array, hidden: tuple[int, ...], activation: Callable[[Array], Array], *, product: Product, by_batch: bool
) -> Array:
    """Applies the hidden layers, `[..., I] -> [..., hidden[-1]]`, inside a flax module; what enters each of them is normalized.

    The order is that of the source, each layer's activation before its normalization.
    """
    x = BatchRenorm(name="norm_input")(x, by_batch)
    for i, features in enumerate(hidden):
        x = activation(dense(x, features, f"hidden_{i}", product=product))
        x = BatchRenorm(name=f"norm_{i}")(x, by_batch)
    return x


class CrossQActor(nn.Module):
    """Computes mu(s), `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` gives the values before the tanh."""

    action_dim: int
    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product

    @nn.compact
    def __call__(self, obs: Array, squash: Callable[[Array], Array] = jnp.tanh, by_batch: bool = False) -> Array:
        x = encoded(obs, self.hidden, self.activation, product=self.product, by_batch=by_batch)
        return squash(dense(x, self.action_dim, "action", bound=self.final_bound))


class CrossQCritic(nn.Module):
    """Computes Q(s, a), `[..., O], [..., A] -> [...]`, or `[..., K]` with `outputs`; the action is normalized, too."""

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product
    outputs: int | None = None

    @nn.compact
    def __call__(self, obs: Array, action: Array, by_batch: bool = False) -> Array:
        x = encoded(
            jnp.concatenate([obs, action], axis=-1), self.hidden, self.activation, product=self.product, by_batch=by_batch
        )
        value = dense(x, self.outputs or 1, "value", bound=self.final_bound)
        return value if self.outputs else value[..., 0]


def crossq(
    *,
    action_dim: int,
    hidden: tuple[int, ...],
    activation: Callable[[Array], Array] = nn.relu,
    actor_hidden: tuple[int, ...] = (),
    critic_hidden: tuple[int, ...] = (),
    init: str = "paper",
    precision: str = "float32",
    outputs: int | None = None,
) -> Nets:
    """Makes the networks of CrossQ; they are meant for `targets=joint`."""
    bound, product = INITS[init], PRECISIONS[precision]
    return Nets(
        CrossQActor(action_dim, actor_hidden or hidden, activation, bound, product),
        CrossQCritic(critic_hidden or hidden, activation, bound, product, outputs),
    )
