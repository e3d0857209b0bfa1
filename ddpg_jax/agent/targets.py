"""Defines where the values of next states come from: target networks, or the same forward pass as those of states (CrossQ)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpg_jax.agent.heads import Head
from ddpg_jax.agent.losses import soft_update
from ddpg_jax.agent.networks import (
    SUPPORT,
    Critics,
    apply,
    apply_by_batch,
    not_trainable,
    trainable,
    updated_statistics,
)
from ddpg_jax.agent.optimizers import Optimizer, descend
from ddpg_jax.types import Array, Hyperparams, Nets, Params, Scalar, TrainState, Transition

CriticUpdate = Callable[..., tuple[Params, Params, Array, dict[str, Array]]]
"""`(state, batch, next_action, weight, hyper, t_update) -> (params, opt, td, info)`: one step of the critics."""


class Targets(NamedTuple):
    """Holds where the values of next states come from, as pure functions."""

    init: Callable[[Nets], Nets]
    """`(params) -> target`, what is kept for targets besides the networks that learn."""
    nets: Callable[[TrainState], Nets]
    """`(state) -> nets`, the networks that choose the actions in next states."""
    follow: Callable[[Nets, Nets, Scalar], Nets]
    """`(params, target, tau) -> target`."""
    make_critic_update: Callable[..., CriticUpdate]
    """`(critics, head, tx, *, td_loss, penalties, diagnose) -> update`."""
    judge: Callable[..., Array]
    """Applies the critic in the actor's loss, `apply` or `apply_by_batch`."""


def make_slow_update(
    critics: Critics, head: Head, tx: Optimizer, *, td_loss: Any, penalties: tuple[Any, ...], diagnose: Nets
) -> CriticUpdate:
    """Returns one step of the critics towards targets of the target networks (Lillicrap et al. 2015, Algorithm 1)."""
    outputs_of, outputs_by_batch = functools.partial(apply, critics), functools.partial(apply_by_batch, critics)

    def update(
        state: TrainState, batch: Transition, next_action: Array, weight: Array, hyper: Hyperparams, t_update: Array
    ) -> tuple[Params, Params, Array, dict[str, Array]]:
        next_outputs = outputs_of(state.target.critic, batch.next_obs, next_action)  # [E, B] or [E, B, K]
        params, opt = state.params.critic, state.opt.critic
        support = params.get(SUPPORT, {})
        target = head.target(support, batch.reward, batch.discount, next_outputs, hyper)
        td_term, *terms = with_numbers(hyper, td_loss, *penalties)
        loss_of = functools.partial(head.loss, support=support, hyper=hyper, td_loss=td_term, penalties=terms)
        critic_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (td, q_mean)), grads = critic_grad(params, outputs_by_batch, batch.obs, batch.action, target, weight)
        info = {"critic_loss": loss, "q_mean": q_mean, **diagnose.critic(grads, td)}
        statistics = updated_statistics(critics, params, batch.obs, batch.action)
        return *apply_gradients(tx(hyper, t_update), grads, opt, params, statistics), td, info

    return update


def make_joint_update(
    critics: Critics, head: Head, tx: Optimizer, *, td_loss: Any, penalties: tuple[Any, ...], diagnose: Nets
) -> CriticUpdate:
    """Returns one step of the critics towards targets from the critics themselves (CrossQ, Bhatt et al. 2024).

    The batches (s, a) and (s', a') pass through the critics as one, so BatchNorm uses the statistics of their mixture, and
    neither batch is far from these. Gradients flow through the values of (s, a) only.
    """

    def update(
        state: TrainState, batch: Transition, next_action: Array, weight: Array, hyper: Hyperparams, t_update: Array
    ) -> tuple[Params, Params, Array, dict[str, Array]]:
        params, opt = state.params.critic, state.opt.critic
        td_term, *terms = with_numbers(hyper, td_loss, *penalties)
        obs, action = (jnp.concatenate(pair) for pair in ((batch.obs, batch.next_obs), (batch.action, next_action)))
        support, size = params.get(SUPPORT, {}), len(weight)

        def loss_of(params: Params) -> Any:
            outputs = apply_by_batch(critics, params, obs, action)  # [E, 2 * B] or [E, 2 * B, K]
            next_outputs = jax.lax.stop_gradient(outputs[:, size:])
            target = head.target(support, batch.reward, batch.discount, next_outputs, hyper)
            return head.loss(
                params,
                lambda *_: outputs[:, :size],
                batch.obs,
                batch.action,
                target,
                weight,
                support=support,
                hyper=hyper,
                td_loss=td_term,
                penalties=terms,
            )

        (loss, (td, q_mean)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        info = {"critic_loss": loss, "q_mean": q_mean, **diagnose.critic(grads, td)}
        statistics = updated_statistics(critics, params, obs, action)
        return *apply_gradients(tx(hyper, t_update), grads, opt, params, statistics), td, info

    return update


def with_numbers(hyper: Hyperparams, *terms: Callable[..., Array]) -> list[Callable[..., Array]]:
    """Returns these terms of a loss without their last argument, the hyperparameters, which they get by position."""
    return [lambda *arguments, term=term: term(*arguments, hyper) for term in terms]


def apply_gradients(
    tx: optax.GradientTransformation, grads: Params, opt: Params, params: Params, statistics: Params
) -> tuple[Params, Params]:
    """Takes one optimizer step, and sets BatchNorm's running statistics; returns `(params, opt)`."""
    weights, opt = descend(tx, trainable(grads), opt, trainable(params))
    return weights | not_trainable(params) | statistics, opt


SLOW = Targets(
    init=lambda params: jax.tree.map(jnp.copy, params),  # copies, because both are donated
    nets=lambda state: state.target,
    follow=soft_update,
    make_critic_update=make_slow_update,
    judge=apply_by_batch,
)
"""Target networks that follow the networks slowly, as in the paper."""
JOINT = Targets(
    init=lambda params: Nets({}, {}),
    nets=lambda state: state.params,
    follow=lambda params, target, tau: target,
    make_critic_update=make_joint_update,
    judge=apply,
)
"""No target networks, as in CrossQ. In the actor's loss, the critic normalizes by its running statistics."""

TARGETS: dict[str, Targets] = {"slow": SLOW, "joint": JOINT}
"""Maps the values of the field `targets` to what they stand for."""
