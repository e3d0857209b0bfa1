"""Implements `make_agent`, which combines networks, losses and optimizers into an `Agent`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.agent import diagnostics
from ddpg_jax.agent.heads import Head, scalar
from ddpg_jax.agent.layers import identity
from ddpg_jax.agent.losses import actor_loss, squared
from ddpg_jax.agent.networks import (
    SUPPORT,
    Critics,
    action_dim_of,
    apply,
    apply_by_batch,
    init_actor,
    init_critic,
    trainable,
    updated_statistics,
)
from ddpg_jax.agent.optimizers import Optimizer, adam
from ddpg_jax.agent.targets import SLOW, Targets, apply_gradients
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Agent, Array, Hyperparams, Key, Nets, Params, Scalar, TrainState, Transition

TargetAction: TypeAlias = Callable[[Key, Array, Hyperparams], Array]
"""`(key, action [B, A], hyper) -> action [B, A]`: changes the target actor's actions before the critics evaluate them."""
TdLoss: TypeAlias = Callable[[Array, Hyperparams], Array]
"""`(td [...], hyper) -> [...]`: the loss of each TD error."""
CriticPenalty: TypeAlias = Callable[[Params, Array, Hyperparams], Array]
"""`(critic_params, q [E, B], hyper) -> []`: a term of the critic's loss."""
ActorPenalty: TypeAlias = Callable[[Array, Hyperparams], Array]
"""`(pre_tanh [B, A], hyper) -> []`: a term of the actor's loss."""
ValueScale: TypeAlias = Callable[[Array, Hyperparams], Array]
"""`(q [B], hyper) -> []`: a factor on the values that the actor climbs, given those of its actions."""
Imitation: TypeAlias = Callable[..., Array]
"""`(action [B, A], batch [B], q_values, hyper) -> []`: a term of the actor's loss, given the actor's actions in a batch and
`q_values(action [B, A]) -> q [B]`, the first critic in the same states."""
TargetRate: TypeAlias = Callable[[Hyperparams, Array], Scalar]
"""`(hyper, t_update) -> tau`: the rate at which the targets follow in this update."""


class ActorTerms(NamedTuple):
    """Holds what changes the actor's loss."""

    penalties: tuple[ActorPenalty, ...] = ()
    value_scale: ValueScale | None = None
    imitation: Imitation | None = None


ADAM = Nets(adam(lambda hyper: hyper.actor_lr), adam(lambda hyper: hyper.critic_lr))
"""The optimizers of the paper, for actor and critic."""
SCALAR = scalar()
"""The head of a critic that predicts the mean of the return, as in the paper."""


def unsmoothed(key: Key, action: Array, hyper: Hyperparams) -> Array:
    """Returns the target actor's actions unchanged."""
    del key, hyper
    return action


def smoothed(key: Key, action: Array, hyper: Hyperparams) -> Array:
    """Adds clipped Gaussian noise to the target actor's actions (target policy smoothing, Fujimoto et al. 2018, 5.3)."""
    bound = hyper.target_noise_clip
    noise = jnp.clip(hyper.target_noise * jax.random.normal(key, action.shape), -bound, bound)
    return jnp.clip(action + noise, -1.0, 1.0)


def no_observe(state: TrainState, transition: Transition, valid: Array) -> TrainState:
    """Returns the state unchanged, as for an agent that keeps no statistics of collected transitions."""
    del transition, valid
    return state


def every_update(hyper: Hyperparams, t_update: Array) -> Scalar:
    """Returns `tau` at every update."""
    del t_update
    return hyper.tau


def every_period(hyper: Hyperparams, t_update: Array) -> Scalar:
    """Returns `tau` at every `sync_period`-th update, else 0. With tau=1 the targets are copied (Mnih et al. 2015)."""
    return jnp.where(t_update % jnp.asarray(hyper.sync_period, jnp.int32) == 0, hyper.tau, 0.0)


def make_agent(
    actor: nn.Module,
    critic: nn.Module,
    *,
    obs_dim: int,
    num_critics: int = 1,
    policy_delay: int = 1,
    head: Head = SCALAR,
    td_loss: TdLoss = squared,
    target_action: TargetAction = unsmoothed,
    critic_penalties: tuple[CriticPenalty, ...] = (),
    actor_penalties: tuple[ActorPenalty, ...] = (),
    value_scale: ValueScale | None = None,
    imitation: Imitation | None = None,
    optimizers: Nets = ADAM,
    targets: Targets = SLOW,
    target_rate: TargetRate = every_update,
    diagnose: Nets = diagnostics.OFF,
) -> Agent:
    """Makes DDPG for these networks.

    Args:
        actor: a flax module, `actor(obs [..., O]) -> [..., A]` in [-1, 1]. With `actor_penalties`, it must also take `squash`,
            a function to apply instead of its last tanh.
        critic: a flax module, `critic(obs [..., O], action [..., A]) -> [...]`. An actor or critic with `batch_stats` must take
            `by_batch`, which is True if it should normalize by the statistics of the batch.
        obs_dim: `O`.
        num_critics: `E`, the number of independent critics; the target uses the smallest of their values.
        policy_delay: the actor is updated at every `policy_delay`-th update of the critic.
        head: what the critic's outputs mean; a distributional one needs a critic that gives `[..., K]`.
        td_loss: the loss of a TD error, of a scalar critic.
        target_action: changes the target actor's actions, as `smoothed` does.
        critic_penalties: terms that are added to the critic's loss.
        actor_penalties: terms that are added to the actor's loss.
        value_scale: a factor on the values in the actor's loss, such as `imitation.inverse_magnitude`.
        imitation: a term of the actor's loss that draws it to demonstrations, such as `imitation.cloning`.
        optimizers: the optimizer of the actor and that of the critic.
        targets: where the values of next states come from, target networks or the networks themselves (`JOINT`).
        target_rate: returns the rate at which target networks follow.
        diagnose: functions that measure more of actor and critic, such as `diagnostics.ON`.

    Raises:
        ConfigError: a network cannot be applied, or its output has the wrong shape or dtype.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> agent, hyper = dj.make_agent(*dj.mlp(action_dim=1), obs_dim=3), dj.Hyperparams()
    >>> state = agent.init(jax.random.key(0), hyper)
    >>> agent.act(state.params.actor, jnp.ones((5, 3))).shape
    (5, 1)
    """
    action_dim = action_dim_of(actor, critic, obs_dim, outputs=head.outputs)
    check_squash(actor, actor_penalties)
    critics = Critics(critic, num_critics)
    init = make_init(actor, critics, head, optimizers, targets=targets, obs_dim=obs_dim, action_dim=action_dim)
    update_critic = targets.make_critic_update(
        critics, head, optimizers.critic, td_loss=td_loss, penalties=critic_penalties, diagnose=diagnose
    )
    terms = ActorTerms(actor_penalties, value_scale, imitation)
    objective = make_actor_objective(actor, critic, terms, head=head, judge=targets.judge)
    update_actor = make_actor_update(actor, objective, optimizers.actor, diagnose=diagnose)

    def act(actor_params: Params, obs: Array) -> Array:
        chex.assert_shape(obs, (..., obs_dim), custom_message="agent.act: obs must be [..., O]")
        return apply(actor, actor_params, obs)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t_update: Array
    ) -> tuple[TrainState, Array, dict[str, Array]]:
        """Performs one update of Lillicrap et al. 2015, Algorithm 1, on a batch `[B]`. Consumes the key."""
        check_batch(batch, weight, obs_dim, action_dim)
        next_action = target_action(key, act(targets.nets(state).actor, batch.next_obs), hyper)
        critic_params, critic_opt, td, critic_info = update_critic(state, batch, next_action, weight, hyper, t_update)

        def improve(actor_params: Params, actor_opt: Params) -> tuple[dict[str, Array], Params, Params]:
            return update_actor(actor_params, actor_opt, critic_params, batch, hyper, t_update)

        actor_info, actor_params, actor_opt = delayed(policy_delay, t_update, improve, state.params.actor, state.opt.actor)

        params = Nets(actor_params, critic_params)
        target_params = targets.follow(params, state.target, target_rate(hyper, t_update))
        return TrainState(params, target_params, Nets(actor_opt, critic_opt)), td, {**critic_info, **actor_info}

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        chex.assert_shape(obs, (..., obs_dim), custom_message="agent.q_values: obs must be [..., O]")
        chex.assert_shape(action, (*obs.shape[:-1], action_dim), custom_message="agent.q_values: action must be [..., A]")
        return head.mean(critic_params.get(SUPPORT, {}), apply(critics, critic_params, obs, action))

    return Agent(init, act, q_values, update, observe=no_observe)


def make_init(
    actor: nn.Module, critics: Critics, head: Head, optimizers: Nets, *, targets: Targets, obs_dim: int, action_dim: int
) -> Callable[[Key, Hyperparams], TrainState]:
    """Returns `Agent.init`."""
    actor_tx, critic_tx = optimizers

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        """Initializes parameters, targets that are copies of them, and optimizers. Consumes the key."""
        actor_key, critic_key = jax.random.split(key)
        critic_params = init_critic(critic_key, critics, obs_dim, action_dim)
        critic_params |= {SUPPORT: head.init(hyper)} if head.init(hyper) else {}
        params = Nets(init_actor(actor_key, actor, obs_dim), critic_params)
        target = targets.init(params)
        zero = jnp.int32(0)
        opt = Nets(actor_tx(hyper, zero).init(trainable(params.actor)), critic_tx(hyper, zero).init(trainable(params.critic)))
        return TrainState(params, target, opt)

    return init


def make_actor_update(
    actor: nn.Module,
    objective: Callable[[Params, Params, Transition, Hyperparams], Array],
    tx: Optimizer,
    *,
    diagnose: Nets,
) -> Callable[..., tuple[dict[str, Array], Params, Params]]:
    """Returns `(params, opt, critic_params, batch, hyper, t_update) -> (info, params, opt)`: one step of the actor."""

    def update(
        params: Params, opt: Params, critic_params: Params, batch: Transition, hyper: Hyperparams, t_update: Array
    ) -> tuple[dict[str, Array], Params, Params]:
        value, grads = jax.value_and_grad(objective)(params, critic_params, batch, hyper)
        info = {"actor_loss": value, **diagnose.actor(grads, apply(actor, params, batch.obs))}
        statistics = updated_statistics(actor, params, batch.obs)
        return info, *apply_gradients(tx(hyper, t_update), grads, opt, params, statistics)

    return update


def make_actor_objective(
    actor: nn.Module,
    critic: nn.Module,
    terms: ActorTerms,
    *,
    head: Head,
    judge: Callable[..., Array],
) -> Callable[[Params, Params, Transition, Hyperparams], Array]:
    """Returns the function that the actor minimizes, `(actor_params, critic_params, batch, hyper) -> []`: loss plus terms."""
    act = functools.partial(apply_by_batch, actor)
    # The actor's loss uses critic 0 only. A module with one critic avoids computing the others, which XLA does not remove.
    first = functools.partial(judge, Critics(critic, num_critics=1))

    def first_critic(critic_params: Params, obs: Array, action: Array) -> Array:
        return head.mean(critic_params.get(SUPPORT, {}), first(critic_params, obs, action))

    def objective(actor_params: Params, critic_params: Params, batch: Transition, hyper: Hyperparams) -> Array:
        def q_values(action: Array) -> Array:
            return first_critic(critic_params, batch.obs, action)[0]

        loss = actor_loss(actor_params, critic_params, act, first_critic, batch.obs)
        if terms.value_scale is not None:
            loss = loss * terms.value_scale(q_values(act(actor_params, batch.obs)), hyper)
        for penalty in terms.penalties:
            loss = loss + penalty(act(actor_params, batch.obs, squash=identity), hyper)
        if terms.imitation is not None:
            loss = loss + terms.imitation(act(actor_params, batch.obs), batch, q_values, hyper)
        return loss

    return objective


def delayed(delay: int, t_update: Array, update: Callable[..., tuple[Any, Params, Params]], params: Params, opt: Params):
    """Returns `update(params, opt)` if `t_update` is a multiple of `delay`, else NaN measurements and both unchanged."""
    if delay == 1:
        return update(params, opt)

    def keep(params: Params, opt: Params) -> tuple[Any, Params, Params]:
        measured, _, _ = jax.eval_shape(update, params, opt)
        return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), measured), params, opt

    return jax.lax.cond(t_update % delay == 0, update, keep, params, opt)


def check_squash(actor: nn.Module, penalties: tuple[ActorPenalty, ...]) -> None:
    """Checks that penalties, if there are any, can see what is before the actor's last tanh.

    Raises:
        ConfigError: the actor has no argument `squash`.
    """
    if penalties and "squash" not in inspect.signature(actor.__call__).parameters:
        raise ConfigError(
            f"{type(actor).__name__} has no argument squash, which action_penalty needs; add it or set action_penalty=0"
        )


def check_batch(batch: Transition, weight: Array, obs_dim: int, action_dim: int) -> None:
    """Checks the shapes of a batch, since broadcasting would hide a wrong one.

    Raises:
        AssertionError: an array has the wrong shape; the message names the array.
    """
    chex.assert_rank(weight, 1, custom_message="agent.update: weight must be [B]")
    size = len(weight)
    obs, action = (size, obs_dim), (size, action_dim)
    expected = (obs, action, (size,), (size,), (size,), obs, (size,) if batch.demonstration is not None else None)
    for name, array, shape in zip(Transition._fields, batch, expected, strict=True):
        if shape is None:
            continue
        chex.assert_shape(array, shape, custom_message=f"agent.update: batch.{name} must be {shape}")
