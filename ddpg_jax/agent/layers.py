"""Implements the layers of the networks, and their initialization (Lillicrap et al. 2015, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.registry import Registry
from ddpg_jax.types import Array, Key

FINAL_BOUND = 3e-3
"""Bound of the weights and biases of the last layer, which keeps the first actions and values near zero."""
INITS: dict[str, float | None] = {"paper": FINAL_BOUND, "fan_in": None}
"""Maps the names of initializations to the bound of the last layer. None selects the bound of the other layers,
+-1/sqrt(fan-in), which is also that of Linear in torch."""

ACTIVATIONS: Registry[Callable[[Array], Array]] = Registry(
    "dj.ACTIVATIONS", {"relu": nn.relu, "tanh": jnp.tanh, "elu": nn.elu, "gelu": nn.gelu, "silu": nn.silu}
)
"""Maps names to the elementwise functions between the layers. An entry of your own can be named by the field `activation`."""

Product: TypeAlias = Callable[[Array, Array], Array]
"""Computes x w, `[..., I], [I, F] -> [..., F]`."""


def full_product(x: Array, w: Array) -> Array:
    """Multiplies in full float32 precision. By default, GPUs use 10 bits of each factor's mantissa, and TPUs use 7."""
    return jnp.dot(x, w, precision=jax.lax.Precision.HIGHEST)


def rounded_product(x: Array, w: Array) -> Array:
    """Multiplies factors rounded to bfloat16, and sums in the dtype of x. It has a gradient, but no `jvp`."""
    return _rounded_product(x, w)  # a `custom_vjp` object cannot be copied, nor can a flax module that contains it


@jax.custom_vjp
def _rounded_product(x: Array, w: Array) -> Array:
    return _sums(x, w, ((x.ndim - 1,), (0,)))


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rounded_product(x, w), (x, w)


def _backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, w = factors
    rows = tuple(range(x.ndim - 1))
    # On a CPU, XLA cannot sum products of bfloat16 over rows. For rounded factors this equals such a sum, also on a TPU.
    x16, gradient16 = (jax.lax.reduce_precision(y, exponent_bits=8, mantissa_bits=7) for y in (x, gradient))
    by_weights = jax.lax.dot_general(x16, gradient16, ((rows, rows), ((), ())))
    return _sums(gradient, w, ((x.ndim - 1,), (1,))), by_weights


def _sums(x: Array, w: Array, contracted: Any) -> Array:
    # Without `preferred_element_type`, the sums are rounded, and a CPU takes three times as long (benchmarks/NOTES.md).
    x16, w16 = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return jax.lax.dot_general(x16, w16, (contracted, ((), ())), preferred_element_type=x.dtype)


_rounded_product.defvjp(_forward, _backward)

PRECISIONS: dict[str, Product] = {"float32": full_product, "bfloat16": rounded_product}
"""Maps the names of precisions to the products of the hidden layers. Everything else is float32 with either of them, including
the last layers, where full precision is cheap."""


def identity(x: Array) -> Array:
    """Returns x unchanged."""
    return x


def dense(
    x: Array,
    features: int,
    name: str,
    *,
    bound: float | None = None,
    init: Callable[..., Array] | None = None,
    use_bias: bool = True,
    product: Product = full_product,
) -> Array:
    """Applies a fully connected layer, `[..., I] -> [..., features]`, inside a flax module.

    Weights and biases are drawn from U(-bound, bound); without a bound, from +-1/sqrt(I), where I is the fan-in of the layer.
    With `init`, an initializer of JAX, the weights are drawn by it, and the biases are 0.
    """
    limit = x.shape[-1] ** -0.5 if bound is None else bound

    def uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    def dot_general(x: Array, w: Array, *_: Any, **__: Any) -> Array:
        return product(x, w)  # flax always contracts the last axis of x with the first axis of w

    kernel_init, bias_init = (init, jax.nn.initializers.zeros) if init else (uniform, uniform)
    return nn.Dense(features, use_bias, dot_general=dot_general, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)


def batch_normalized(x: Array, name: str, by_batch: bool, *, affine: bool = True) -> Array:
    """Applies BatchNorm (Ioffe and Szegedy 2015), `[..., I] -> [..., I]`, inside a flax module.

    If `by_batch`, it uses the mean and variance of x over all axes except the last. Otherwise it uses the running ones, which
    cover about the last hundred batches (momentum 0.99, the default of flax), and every row is normalized independently.

    Parameters that a normalization cancels, such as a bias before it or the shift of another normalization, must be left out
    (section 3.2 of that paper). Their gradients consist of rounding errors, which Adam turns into steps of full size, and the
    running means would lag behind them.
    """
    # The fast variance, E[x^2] - E[x]^2, is inaccurate for observations that are far from zero.
    return nn.BatchNorm(not by_batch, use_fast_variance=False, use_scale=affine, use_bias=affine, name=name)(x)
