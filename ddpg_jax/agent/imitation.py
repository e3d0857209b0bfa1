"""Terms of the actor's loss that draw it to demonstrations: behaviour cloning, and values that are scaled beside it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpg_jax.types import Array, Hyperparams, Transition


def inverse_magnitude(q: Array, hyper: Hyperparams) -> Array:
    """Returns `bc_alpha` / mean |q|, the lambda of TD3+BC (Fujimoto and Gu 2021, equation 5), without gradient; `[B] -> []`.

    With `bc_alpha=0`, it is 1. The values are those of the actor's own actions, as in the authors' code; the equation has those
    of the data's actions.
    """
    alpha = jnp.asarray(hyper.bc_alpha)
    return jax.lax.stop_gradient(jnp.where(alpha > 0, alpha / jnp.maximum(jnp.mean(jnp.abs(q)), 1e-6), 1.0))


def cloning(action: Array, batch: Transition, q_values: Callable[[Array], Array], hyper: Hyperparams) -> Array:
    """Returns `bc_weight` times the mean squared distance of the actor's actions from those of the demonstrations, `[]`.

    It is the mean over the demonstrations of a batch and over the dimensions of an action, and 0 without demonstrations.

    Args:
        action: `[B, A]`, the actor's actions.
        batch: the transitions; only those that `demonstration` marks count, and none if it is None.
        q_values: not used.
        hyper: for `bc_weight`.

    >>> import jax.numpy as jnp, ddpg_jax as dj
    >>> one = jnp.ones((2, 1))
    >>> batch = dj.Transition(one, one, one[:, 0], one[:, 0], one[:, 0] < 0, one, jnp.array([True, False]))
    >>> cloning(jnp.array([[0.5], [-1.0]]), batch, lambda action: action[:, 0], dj.Hyperparams(bc_weight=2.0)).item()
    0.5
    """
    del q_values
    return _cloned(action, batch, jnp.ones(len(action), bool), hyper)


def filtered_cloning(action: Array, batch: Transition, q_values: Callable[[Array], Array], hyper: Hyperparams) -> Array:
    """Returns `cloning` of those demonstrations only that the critic values more than the actor's own actions, `[]`.

    This is the Q-filter of Nair et al. 2018, section III-C. The mean is still over all demonstrations of a batch.

    Args:
        action: `[B, A]`, the actor's actions.
        batch: as in `cloning`.
        q_values: `(action [B, A]) -> q [B]`, the critic in the states of the batch.
        hyper: for `bc_weight`.
    """
    better = q_values(batch.action) > q_values(jax.lax.stop_gradient(action))
    return _cloned(action, batch, better, hyper)


def _cloned(action: Array, batch: Transition, better: Array, hyper: Hyperparams) -> Array:
    if batch.demonstration is None:
        return jnp.zeros(())
    distance = jnp.mean(jnp.square(action - batch.action), axis=-1)
    total = jnp.sum(jnp.where(batch.demonstration & better, distance, 0.0))
    return hyper.bc_weight * total / jnp.maximum(jnp.sum(batch.demonstration), 1)
