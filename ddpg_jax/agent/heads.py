"""Defines what a critic predicts of the return: its mean, a categorical distribution over atoms, or quantiles.

A head turns the outputs of a critic into values, those of the next state into a target, and both into a loss. `K` is the number
of outputs for each state and action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ddpg_jax.agent.losses import critic_loss, td_target
from ddpg_jax.registry import Registry
from ddpg_jax.types import Array, Hyperparams, Params

LossAndTd = tuple[Array, tuple[Array, Array]]


class Head(NamedTuple):
    """Holds what `make_agent` needs to know of a critic's outputs, as pure functions."""

    outputs: int | None
    """`K`, or None for a critic that gives one number, `[...]`, instead of `[..., K]`."""
    init: Callable[[Hyperparams], dict[str, Array]]
    """`(hyper) -> support`, constants that are kept with the critic's parameters; empty if there are none."""
    mean: Callable[[dict[str, Array], Array], Array]
    """`(support, outputs [..., K]) -> q [...]`, the mean of the predicted returns."""
    target: Callable[[dict[str, Array], Array, Array, Array, Hyperparams], Array]
    """`(support, reward [B], discount [B], next_outputs [E, B, K], hyper) -> target [B, ...]`, without gradient."""
    loss: Callable[..., LossAndTd]
    """`(critic_params, outputs_of, obs, action, target, weight, *, support, hyper, td_loss, penalties) -> (loss, (td, q))`, as
    `losses.critic_loss` with outputs instead of values; `make_loss` makes one. `td_loss` is that of a scalar critic."""


def scalar() -> Head:
    """Returns the head of the paper: the critic predicts the mean of the return, and minimizes squared TD errors."""

    def target(support: Any, reward: Array, discount: Array, next_q: Array, hyper: Hyperparams) -> Array:
        del support, hyper
        return td_target(reward, discount, jnp.min(next_q, axis=0))  # [E, B] -> [B]

    def loss(*arguments: Any, support: Any, hyper: Hyperparams, **options: Any) -> LossAndTd:
        del support, hyper
        return critic_loss(*arguments, **options)

    return Head(None, lambda hyper: {}, lambda support, q: q, target, loss)


def categorical(num_atoms: int) -> Head:
    """Returns the head of a categorical distribution over atoms (Bellemare et al. 2017; Barth-Maron et al. 2018 for DDPG).

    The critic gives logits of `num_atoms` returns that are evenly spaced from `value_min` to `value_max`. The target is the
    distribution of the next state, shifted and scaled by the Bellman equation and projected onto the atoms (their Algorithm 1),
    and the loss is the cross-entropy. With an `atom_sigma` above 0, the target is instead a Gaussian around the scalar target,
    with a deviation of `atom_sigma` times the distance of atoms (HL-Gauss, Farebrother et al. 2024); the atoms should then
    reach a few deviations beyond the returns, because what lies outside is cut off. With several critics, the one with the
    smallest mean gives the target. What is reported as the TD error, which sets replay priorities, is the Kullback-Leibler
    divergence of prediction and target, the cross-entropy minus the entropy of the target.
    """

    def init(hyper: Hyperparams) -> dict[str, Array]:
        span = jnp.linspace(0.0, 1.0, num_atoms)
        return {"atoms": hyper.value_min + (jnp.asarray(hyper.value_max) - hyper.value_min) * span}

    def mean(support: dict[str, Array], logits: Array) -> Array:
        return jnp.sum(jax.nn.softmax(logits) * support["atoms"].reshape((1,) * (logits.ndim - 1) + (-1,)), axis=-1)

    def target(support: dict[str, Array], reward: Array, discount: Array, next_logits: Array, hyper: Hyperparams) -> Array:
        atoms = support["atoms"]
        chosen = smallest_mean(mean(support, next_logits), next_logits)
        returns = reward[:, None] + discount[:, None] * atoms[None]
        projected = project(returns, jax.nn.softmax(chosen), atoms)
        y = reward + discount * mean(support, chosen)
        smooth = gaussian_histogram(y, atoms, jnp.maximum(jnp.asarray(hyper.atom_sigma), 1e-6) * (atoms[1] - atoms[0]))
        return jax.lax.stop_gradient(jnp.where(jnp.asarray(hyper.atom_sigma) > 0, smooth, projected))

    def losses(logits: Array, target: Array) -> Array:
        return -jnp.sum(target[None] * jax.nn.log_softmax(logits), axis=-1)  # [E, B]

    def td(logits: Array, target: Array) -> Array:
        entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
        return losses(logits, target)[0] - entropy

    return Head(num_atoms, init, mean, target, make_loss(losses, td, mean))


def quantile(num_atoms: int) -> Head:
    """Returns the head of a distribution given by its quantiles (Dabney et al. 2018), with the Huber loss of their equation 10.

    The critic gives the quantiles at (2 i + 1) / 2K; the threshold of the Huber loss, kappa, is 1. With several critics, the
    one with the smallest mean gives the target. The TD error is that of the mean.
    """

    def mean(support: Any, quantiles: Array) -> Array:
        del support
        return jnp.mean(quantiles, axis=-1)

    def target(support: Any, reward: Array, discount: Array, next_quantiles: Array, hyper: Hyperparams) -> Array:
        del hyper
        chosen = smallest_mean(mean(support, next_quantiles), next_quantiles)
        return jax.lax.stop_gradient(reward[:, None] + discount[:, None] * chosen)

    def losses(quantiles: Array, target: Array) -> Array:
        error = target[None, :, None, :] - quantiles[..., :, None]  # [E, B, K, K']
        size = jnp.abs(error)
        huber = jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)
        fraction = (jnp.arange(num_atoms) + 0.5) / num_atoms
        weight = jnp.abs(fraction[None, None, :, None] - (error < 0))
        return jnp.sum(jnp.mean(weight * huber, axis=-1), axis=-1)

    def td(quantiles: Array, target: Array) -> Array:
        return jnp.mean(target, axis=-1) - jnp.mean(quantiles[0], axis=-1)

    return Head(num_atoms, lambda hyper: {}, mean, target, make_loss(losses, td, mean))


def make_loss(
    losses: Callable[[Array, Array], Array],
    td: Callable[[Array, Array], Array],
    mean: Callable[[Any, Array], Array],
) -> Callable[..., LossAndTd]:
    """Returns `Head.loss` for a critic that predicts a distribution.

    Args:
        losses: `(outputs [E, B, K], target [B, ...]) -> [E, B]`, the loss of each critic for each transition.
        td: `(outputs [E, B, K], target [B, ...]) -> [B]`, what is reported as the TD errors of the first critic.
        mean: `Head.mean`.
    """

    def loss(
        critic_params: Params,
        outputs_of: Callable[[Params, Array, Array], Array],
        obs: Array,
        action: Array,
        target: Array,
        weight: Array,
        *,
        support: dict[str, Array],
        hyper: Hyperparams,
        td_loss: Any = None,
        penalties: Sequence[Callable[[Params, Array], Array]] = (),
    ) -> LossAndTd:
        del hyper, td_loss
        outputs = outputs_of(critic_params, obs, action)
        chex.assert_rank(outputs, 3, custom_message="loss: a distributional critic must give [E, B, K]")
        q = mean(support, outputs)
        total = jnp.sum(jnp.mean(weight[None] * losses(outputs, target), axis=1))
        for penalty in penalties:
            total = total + penalty(critic_params, q)
        return total, (jax.lax.stop_gradient(td(outputs, target)), jnp.mean(q[0]))

    return loss


def smallest_mean(means: Array, outputs: Array) -> Array:
    """Returns for each state the outputs of the critic with the smallest mean, `[E, B], [E, B, K] -> [B, K]`."""
    chosen = jnp.argmin(means, axis=0)  # [B]
    return jnp.take_along_axis(outputs, chosen[None, :, None], axis=0)[0]


def project(returns: Array, probabilities: Array, atoms: Array) -> Array:
    """Projects distributions onto evenly spaced atoms (Bellemare et al. 2017, equation 7), `[B, J], [B, J], [K] -> [B, K]`.

    Each return, clipped to the range of the atoms, gives its probability to the two atoms beside it, the nearer one more.

    >>> import jax.numpy as jnp
    >>> project(jnp.array([[0.25, 9.0]]), jnp.array([[0.5, 0.5]]), jnp.array([0.0, 1.0, 2.0])).tolist()
    [[0.375, 0.125, 0.5]]
    """
    clipped = jnp.clip(returns, atoms[0], atoms[-1])
    distance = jnp.abs(clipped[:, :, None] - atoms[None, None]) / (atoms[1] - atoms[0])
    return jnp.sum(probabilities[:, :, None] * jnp.clip(1.0 - distance, 0.0, 1.0), axis=1)


def gaussian_histogram(y: Array, atoms: Array, deviation: Array) -> Array:
    """Returns the probabilities that a Gaussian around y has in the bins around the atoms, `[B], [K], [] -> [B, K]`.

    Imani and White 2018. y is clipped to the range of the atoms, and what lies outside of all bins is left out.
    """
    half = 0.5 * (atoms[1] - atoms[0])
    edges = jnp.concatenate([atoms[:1] - half, atoms + half])
    centre = jnp.clip(y, atoms[0], atoms[-1])
    cdf = jax.scipy.special.ndtr((edges[None] - centre[:, None]) / deviation)
    return jnp.diff(cdf, axis=-1) / (cdf[:, -1:] - cdf[:, :1])


HEADS: Registry[Callable[[int], Head]] = Registry("dj.HEADS", {"categorical": categorical, "quantile": quantile})
"""Maps names to functions `(num_atoms) -> head`; the field `critic` can name an entry of your own; `scalar` is no entry."""
