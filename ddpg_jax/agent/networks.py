"""Actor and critic (Lillicrap et al. 2015, section 7), and their initialization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

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

STATISTICS = "batch_stats"
"""Where a tree of parameters holds BatchNorm's running statistics, beside the layers. Without BatchNorm it has none."""


def identity(x: Array) -> Array:
    """x, where another function could stand."""
    return x


Product: TypeAlias = Callable[[Array, Array], Array]
"""x w, `[..., I], [I, F] -> [..., F]`"""


def full_product(x: Array, w: Array) -> Array:
    """The product with all digits. Unless told, GPUs take 10 bits of what is float32, and TPUs 8."""
    return jnp.dot(x, w, precision=jax.lax.Precision.HIGHEST)


def rounded_product(x: Array, w: Array) -> Array:
    """The product of factors that are rounded to bfloat16, summed in x's own type. It has gradients, but no `jvp`."""
    return _rounded_product(x, w)  # JAX's object cannot be copied, and with it no module that holds it


@jax.custom_vjp
def _rounded_product(x: Array, w: Array) -> Array:
    return _sums(x, w, ((x.ndim - 1,), (0,)))


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rounded_product(x, w), (x, w)


def _backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, w = factors
    rows = tuple(range(x.ndim - 1))
    # XLA has no such product for a CPU that sums over rows. Of rounded factors this one is the same, in bfloat16 on a TPU, too.
    x16, gradient16 = (jax.lax.reduce_precision(y, exponent_bits=8, mantissa_bits=7) for y in (x, gradient))
    by_weights = jax.lax.dot_general(x16, gradient16, ((rows, rows), ((), ())))
    return _sums(gradient, w, ((x.ndim - 1,), (1,))), by_weights


def _sums(x: Array, w: Array, contracted: Any) -> Array:
    # If sums were not asked for, the result would be rounded, and a CPU take three times as long (benchmarks/NOTES.md).
    x16, w16 = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return jax.lax.dot_general(x16, w16, (contracted, ((), ())), preferred_element_type=x.dtype)


_rounded_product.defvjp(_forward, _backward)

PRECISIONS: dict[str, Product] = {"float32": full_product, "bfloat16": rounded_product}
"""The products in the hidden layers. All else is float32 either way, also the last layers, whose digits are cheap."""


def dense(
    x: Array, features: int, name: str, bound: float | None = None, use_bias: bool = True, product: Product = full_product
) -> Array:
    """A fully connected layer, `[..., I] -> [..., features]`, inside a flax module.

    Weights and biases are drawn from U(-bound, bound); without a bound, from +-1/sqrt(I), the fan-in of the layer.
    """
    limit = x.shape[-1] ** -0.5 if bound is None else bound

    def uniform(key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    def dot_general(x: Array, w: Array, *_: Any, **__: Any) -> Array:  # flax asks for the last axis with the first
        return product(x, w)

    return nn.Dense(features, use_bias, dot_general=dot_general, kernel_init=uniform, bias_init=uniform, name=name)(x)


def normalized(x: Array, name: str, by_batch: bool, affine: bool = True) -> Array:
    """BatchNorm (Ioffe and Szegedy 2015), `[..., I] -> [..., I]`, inside a flax module.

    By the mean and variance of x itself, over all axes but the last, or else by the running ones, which are those of about the
    last hundred batches (momentum .99, flax's own). By the running ones, each row is normalized whatever the others are.

    What a normalization takes away again, a bias before it or the shift of another one, must not be there (their section 3.2):
    its gradient is nothing but rounding, of which Adam makes steps of full size, and the running means come too late for them.
    """
    # The fast variance, E[x^2] - E[x]^2, loses its digits on observations that are far from zero.
    return nn.BatchNorm(not by_batch, use_fast_variance=False, use_scale=affine, use_bias=affine, name=name)(x)


class Actor(nn.Module):
    """mu(s): `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` gives the values before the tanh.

    With `batch_norm`, observations and all hidden layers are normalized (Lillicrap et al. 2015, section 3).
    """

    action_dim: int
    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    final_bound: float | None = FINAL_BOUND
    batch_norm: bool = False
    product: Product = full_product

    @nn.compact
    def __call__(self, obs: Array, squash: Callable[[Array], Array] = jnp.tanh, by_batch: bool = False) -> Array:
        x = normalized(obs, "norm_input", by_batch, affine=False) if self.batch_norm else obs
        for i, features in enumerate(self.hidden):
            x = dense(x, features, f"hidden_{i}", use_bias=not self.batch_norm, product=self.product)
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = normalized(x, f"norm_{i}", by_batch) if self.batch_norm else x
            x = self.activation(x)
        return squash(dense(x, self.action_dim, "action", self.final_bound))


class Critic(nn.Module):
    """Q(s, a): `[..., O], [..., A] -> [...]`. The action joins the input of layer `action_layer`, 0 being the first.

    With `batch_norm`, observations and the layers before the action joins are normalized (Lillicrap et al. 2015, section 3). To
    normalize what the action is in would take from a batch of actions their mean, and the actor's gradient with it.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    action_layer: int = 0
    final_bound: float | None = FINAL_BOUND
    batch_norm: bool = False
    product: Product = full_product

    @nn.compact
    def __call__(self, obs: Array, action: Array, by_batch: bool = False) -> Array:
        x = normalized(obs, "norm_input", by_batch, affine=False) if self.batch_norm else obs
        for i, features in enumerate(self.hidden):
            x = jnp.concatenate([x, action], axis=-1) if i == self.action_layer else x
            norm = self.batch_norm and i < self.action_layer
            x = dense(x, features, f"hidden_{i}", use_bias=not norm, product=self.product)
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = normalized(x, f"norm_{i}", by_batch) if norm else x
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
    batch_norm: bool = False
    product: Product = full_product

    @nn.compact
    def __call__(self, obs: Array, action: Array, by_batch: bool = False) -> Array:
        shape = (self.hidden, self.activation, self.layer_norm, self.action_layer)
        rest = (self.final_bound, self.batch_norm, self.product)
        # A loop, not a batched product: with one critic a batch dimension of 1 would only slow the products down.
        return jnp.stack([Critic(*shape, *rest, name=f"critic_{e}")(obs, action, by_batch) for e in range(self.num_critics)])


def init_actor(key: Key, actor: nn.Module, obs_dim: int) -> Params:
    """Parameters of an actor for observations of length `obs_dim`. Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_actor(jax.random.key(0), dj.Actor(action_dim=1), obs_dim=3)
    >>> params["hidden_0"]["kernel"].shape
    (3, 256)
    """
    return _tree(actor.init(key, jnp.zeros((1, obs_dim))))


def init_critic(key: Key, critic: nn.Module, obs_dim: int, action_dim: int) -> Params:
    """Parameters of a critic (or of several, `Critics`). Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_critic(jax.random.key(0), dj.Critic(), obs_dim=3, action_dim=1)
    >>> params["value"]["kernel"].shape
    (256, 1)
    """
    return _tree(critic.init(key, jnp.zeros((1, obs_dim)), jnp.zeros((1, action_dim))))


def _tree(made: Any) -> Params:
    """The inverse of `variables`: one tree of the layers, and of BatchNorm's statistics if there are any."""
    return made["params"] | ({STATISTICS: made[STATISTICS]} if STATISTICS in made else {})


def trainable(params: Params) -> Params:
    """The tree without BatchNorm's statistics, which are not learned by gradients."""
    return {name: layer for name, layer in params.items() if name != STATISTICS}


def variables(params: Params) -> dict[str, Any]:
    """A tree of parameters as flax wants it."""
    return {"params": trainable(params)} | ({STATISTICS: params[STATISTICS]} if STATISTICS in params else {})


def apply(net: nn.Module, params: Params, *inputs: Array, **options: Any) -> Array:
    """What a network gives, with BatchNorm by the running statistics: acting, evaluating, targets."""
    return net.apply(variables(params), *inputs, **options)  # pyright: ignore[reportReturnType]


def apply_by_batch(net: nn.Module, params: Params, *inputs: Array, **options: Any) -> Array:
    """What a network gives for a batch `[B, ...]`, with BatchNorm by the statistics of the batch: learning."""
    return net.apply(variables(params), *inputs, by_batch=True, mutable=[STATISTICS], **options)[0]


def moved_statistics(net: nn.Module, params: Params, *inputs: Array) -> Params:
    """BatchNorm's running statistics, moved by a batch `[B, ...]`, as `{STATISTICS: ...}`; `{}` if there are none."""
    if STATISTICS not in params:
        return {}
    return net.apply(variables(params), *inputs, by_batch=True, mutable=[STATISTICS])[1]  # pyright: ignore[reportReturnType]
