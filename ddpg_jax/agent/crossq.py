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
"""Bounds of the corrections r and d (Ioffe 2017); as long as neither binds, a batch is normalized by the running statistics."""
WARMUP = 100_000.0
"""Batches before the corrections begin; until then a batch is normalized by its own statistics, as in BatchNorm."""


class BatchRenorm(nn.Module):
    """Applies batch renormalization (Ioffe 2017), `[..., I] -> [..., I]`, with a learned scale and shift.

    If `by_batch`, x is normalized by the statistics of the batch, and after `warmup` batches corrected to what the running
    statistics would give, by factors r and shifts d through which no gradient flows. Otherwise it is normalized by the running
    statistics.
    """

    warmup: float = WARMUP

    @nn.compact
    def __call__(self, x: Array, by_batch: bool) -> Array:
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        scale, bias = (
            self.param(name, init, shape) for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        )

        def affine(x: Array, mean: Array, deviation: Array, r: Array, d: Array) -> Array:
            rows = (jnp.broadcast_to(y, x.shape) for y in (mean, scale * r / deviation, scale * d + bias))
            mean, factor, shift = rows
            return (x - mean) * factor + shift

        running = jnp.sqrt(var.value + EPSILON)
        if not by_batch:
            return affine(x, mean.value, running, jnp.ones(shape), jnp.zeros(shape))
        rows = tuple(range(x.ndim - 1))
        batch_mean = jnp.mean(x, axis=rows)
        batch_var = jnp.mean(jnp.square(x - jnp.broadcast_to(batch_mean, x.shape)), axis=rows)
        deviation = jnp.sqrt(batch_var + EPSILON)
        started = seen.value >= self.warmup
        r = jnp.clip(deviation / running, 1.0 / SCALE_LIMIT, SCALE_LIMIT)
        d = jnp.clip((batch_mean - mean.value) / running, -SHIFT_LIMIT, SHIFT_LIMIT)
        r, d = jax.lax.stop_gradient((jnp.where(started, r, 1.0), jnp.where(started, d, 0.0)))
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1.0 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1.0 - MOMENTUM) * batch_var
            seen.value = jnp.minimum(seen.value + 1.0, 2.0**23)
        return affine(x, batch_mean, deviation, r, d)


class CrossQActor(nn.Module):
    """Computes mu(s), `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` gives the values before the tanh."""

    action_dim: int
    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product
    warmup: float = WARMUP

    @nn.compact
    def __call__(self, obs: Array, squash: Callable[[Array], Array] = jnp.tanh, by_batch: bool = False) -> Array:
        x = BatchRenorm(self.warmup, name="norm_input")(obs, by_batch)
        for i, features in enumerate(self.hidden):
            x = self.activation(dense(x, features, f"hidden_{i}", product=self.product))
            x = BatchRenorm(self.warmup, name=f"norm_{i}")(x, by_batch)
        return squash(dense(x, self.action_dim, "action", bound=self.final_bound))


class CrossQCritic(nn.Module):
    """Computes Q(s, a), `[..., O], [..., A] -> [...]`, or `[..., K]` with `outputs`; the action is normalized, too."""

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array] = nn.relu
    final_bound: float | None = FINAL_BOUND
    product: Product = full_product
    outputs: int | None = None
    warmup: float = WARMUP

    @nn.compact
    def __call__(self, obs: Array, action: Array, by_batch: bool = False) -> Array:
        x = BatchRenorm(self.warmup, name="norm_input")(jnp.concatenate([obs, action], axis=-1), by_batch)
        for i, features in enumerate(self.hidden):
            x = self.activation(dense(x, features, f"hidden_{i}", product=self.product))
            x = BatchRenorm(self.warmup, name=f"norm_{i}")(x, by_batch)
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
