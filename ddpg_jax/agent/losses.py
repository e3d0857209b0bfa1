"""Implements the equations of Lillicrap et al. 2015 ("the paper"), one short pure function each.

y    = r + gamma (1 - d) Q'(s', mu'(s'))            td_target
L(Q) = mean (y - Q(s, a))^2                         critic_loss
J    = mean Q(s, mu(s))                             actor_loss, which is -J
p'  <- tau p + (1 - tau) p'                         soft_update
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import optax

from ddpg_jax.registry import Registry
from ddpg_jax.types import Array, Hyperparams, Params, Scalar


def td_target(reward: Array, discount: Array, next_q: Array) -> Array:
    """Returns the target y = r + discount * Q'(s', mu'(s')), the paper's y_i in Algorithm 1 (and equation 5); `[...]` each.

    `discount` is gamma (gamma**n for n-step rewards), and 0 where the environment TERMINATED. A time limit does not end the
    value of a state, so the target still bootstraps there. No gradient flows through the target.

    Raises:
        AssertionError: the shapes differ, which broadcasting would hide.

    >>> import jax.numpy as jnp, ddpg_jax as dj
    >>> dj.td_target(jnp.array([1.0, 1.0]), jnp.array([0.5, 0.0]), jnp.array([4.0, 4.0])).tolist()
    [3.0, 1.0]
    """
    chex.assert_equal_shape([reward, discount, next_q], custom_message="td_target: reward, discount and next_q must agree")
    return jax.lax.stop_gradient(reward + discount * next_q)


def squared(td: Array, hyper: Hyperparams) -> Array:
    """Returns td^2, elementwise: the loss of the paper."""
    del hyper
    return jnp.square(td)


def huber(td: Array, hyper: Hyperparams) -> Array:
    """Returns td^2 where |td| is at most `huber_delta`, and a linear function of |td| beyond it (Huber 1964).

    It is twice the usual Huber loss, so that small errors have the same weight as in `squared`. With `huber_delta=0`, the
    default, it equals `squared`.

    >>> import jax.numpy as jnp, ddpg_jax as dj
    >>> dj.losses.huber(jnp.array([0.5, 3.0]), dj.Hyperparams(huber_delta=1.0)).tolist()
    [0.25, 5.0]
    """
    delta = hyper.huber_delta
    size = jnp.abs(td)
    return jnp.where((size <= delta) | (delta == 0), jnp.square(td), delta * (2.0 * size - delta))


def weight_l2(critic_params: Params, q: Array, hyper: Hyperparams) -> Array:
    """Returns `critic_l2` times the sum of the squared weights of the critic, without biases (the paper, section 7: 1e-2)."""
    del q
    weights = [leaf for leaf in jax.tree.leaves(critic_params) if leaf.ndim > 1]  # biases, scales and statistics have one axis
    return hyper.critic_l2 * sum((jnp.sum(jnp.square(leaf)) for leaf in weights), jnp.zeros(()))


def value_l2(critic_params: Params, q: Array, hyper: Hyperparams) -> Array:
    """Returns `q_l2` times the mean of the squared values `q [E, B]`, summed over critics."""
    del critic_params
    return hyper.q_l2 * jnp.sum(jnp.mean(jnp.square(q), axis=1))


def pre_tanh_l2(pre_tanh: Array, hyper: Hyperparams) -> Array:
    """Returns `action_penalty` times the mean square of the actor's outputs before its tanh, to keep it from saturating."""
    return hyper.action_penalty * jnp.mean(jnp.square(pre_tanh))


def critic_loss(
    critic_params: Params,
    q_values: Callable[[Params, Array, Array], Array],
    obs: Array,
    action: Array,
    target_q: Array,
    weight: Array,
    *,
    td_loss: Callable[[Array], Array] = jnp.square,
    penalties: Sequence[Callable[[Params, Array], Array]] = (),
) -> tuple[Array, tuple[Array, Array]]:
    """Returns the mean squared TD error, equation 4 of the paper, summed over critics.

    Args:
        critic_params: parameters of the critics.
        q_values: `(critic_params, obs [B, O], action [B, A]) -> q [E, B]`.
        obs: `[B, O]`.
        action: `[B, A]`.
        target_q: `[B]`, from `td_target`.
        weight: `[B]`, importance weights; ones for uniform replay.
        td_loss: the loss of a TD error, elementwise.
        penalties: functions `(critic_params, q [E, B]) -> []` that are added to the loss.

    Returns:
        The loss `[]`, and a tuple of the TD errors of the first critic, `[B]`, and the mean of its values, `[]`.

    Raises:
        AssertionError: the shapes differ, which broadcasting would hide.
    """
    q = q_values(critic_params, obs, action)
    chex.assert_rank(q, 2, custom_message="critic_loss: q_values must return [E, B]")
    chex.assert_shape([target_q, weight], q.shape[1:], custom_message="critic_loss: target_q and weight must be [B]")
    td = target_q[None] - q
    loss = jnp.sum(jnp.mean(weight[None] * td_loss(td), axis=1))
    for penalty in penalties:
        loss = loss + penalty(critic_params, q)
    return loss, (td[0], jnp.mean(q[0]))


def actor_loss(
    actor_params: Params,
    critic_params: Params,
    act: Callable[[Params, Array], Array],
    q_values: Callable[[Params, Array, Array], Array],
    obs: Array,
) -> Array:
    """Returns -mean Q(s, mu(s)), whose gradient is the negative deterministic policy gradient, equation 6 of the paper.

    Args:
        actor_params: parameters of the actor, differentiated.
        critic_params: parameters of the UPDATED critic, held fixed; of several critics, only the first is used.
        act: `(actor_params, obs [B, O]) -> action [B, A]`.
        q_values: `(critic_params, obs [B, O], action [B, A]) -> q [E, B]`.
        obs: `[B, O]`.
    """
    q = q_values(critic_params, obs, act(actor_params, obs))
    chex.assert_rank(q, 2, custom_message="actor_loss: q_values must return [E, B]")
    return -jnp.mean(q[0])


def soft_update(params: Params, target: Params, tau: Scalar) -> Params:
    """Returns tau * params + (1 - tau) * target, leaf by leaf, as in Algorithm 1 of the paper.

    >>> import ddpg_jax as dj
    >>> dj.soft_update({"w": 1.0}, {"w": 0.0}, tau=0.25)
    {'w': 0.25}
    """
    chex.assert_rank(tau, 0, custom_message="soft_update: tau must be []")
    chex.assert_trees_all_equal_shapes(
        *jax.tree.map(jnp.asarray, (params, target)), custom_message="soft_update: params and target must agree in every leaf"
    )
    return optax.incremental_update(params, target, tau)  # pyright: ignore[reportArgumentType]


TD_LOSSES: Registry[Callable[[Array, Hyperparams], Array]] = Registry("dj.TD_LOSSES", {"squared": squared, "huber": huber})
"""Maps names to losses of a TD error, `(td [...], hyper) -> [...]`; the field `td_loss` can name an entry of your own."""
CRITIC_PENALTIES = {"critic_l2": weight_l2, "q_l2": value_l2}
"""Maps hyperparameters to the penalties of the critic that they weigh."""
ACTOR_PENALTIES = {"action_penalty": pre_tanh_l2}
"""Maps hyperparameters to the penalties of the actor that they weigh."""
