"""The train step: `make_agent` puts networks, losses and optimizers together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from ddpg_jax.agent import diagnostics
from ddpg_jax.agent.losses import actor_loss, critic_loss, soft_update, squared, td_target
from ddpg_jax.agent.networks import (
    ACTIVATIONS,
    INITS,
    PRECISIONS,
    Actor,
    Critics,
    apply,
    apply_by_batch,
    identity,
    init_actor,
    init_critic,
    moved_statistics,
    trainable,
)
from ddpg_jax.agent.optimizers import Optimizer, adam, descend
from ddpg_jax.types import Agent, Array, Hyperparams, Key, Nets, Params, Scalar, TrainState, Transition

TargetAction: TypeAlias = Callable[[Key, Array, Hyperparams], Array]
"""`(key, action [B, A], hyper) -> action [B, A]`: what becomes of the target actor's actions before they are judged."""
TdLoss: TypeAlias = Callable[[Array, Hyperparams], Array]
"""`(td [...], hyper) -> [...]`"""
CriticPenalty: TypeAlias = Callable[[Params, Array, Hyperparams], Array]
"""`(critic_params, q [E, B], hyper) -> []`"""
ActorPenalty: TypeAlias = Callable[[Array, Hyperparams], Array]
"""`(pre_tanh [B, A], hyper) -> []`"""
Sync: TypeAlias = Callable[[Hyperparams, Array], Scalar]
"""`(hyper, t) -> tau` of update `t`"""


ADAM = Nets(adam(lambda hyper: hyper.actor_lr), adam(lambda hyper: hyper.critic_lr))
"""The optimizers of the paper."""


def unchanged(key: Key, action: Array, hyper: Hyperparams) -> Array:
    """The target actor's actions as they are."""
    del key, hyper
    return action


def unmoved(state: TrainState, transition: Transition, valid: Array) -> TrainState:
    """An agent that takes no note of what is collected."""
    del transition, valid
    return state


def smoothed(key: Key, action: Array, hyper: Hyperparams) -> Array:
    """Target policy smoothing: clipped Gaussian noise on the target's actions (Fujimoto et al. 2018, section 5.3)."""
    bound = hyper.target_noise_clip
    noise = jnp.clip(hyper.target_noise * jax.random.normal(key, action.shape), -bound, bound)
    return jnp.clip(action + noise, -1.0, 1.0)


def always(hyper: Hyperparams, t: Array) -> Scalar:
    """Targets follow at every update."""
    del t
    return hyper.tau


def now_and_then(hyper: Hyperparams, t: Array) -> Scalar:
    """Targets follow at every `sync_period`-th update; with tau=1 they are copied (Mnih et al. 2015)."""
    return jnp.where(t % jnp.asarray(hyper.sync_period, jnp.int32) == 0, hyper.tau, 0.0)


def make_agent(
    obs_dim: int,
    action_dim: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    layer_norm: bool = False,
    action_layer: int = 0,
    num_critics: int = 1,
    policy_delay: int = 1,
    init: str = "paper",
    batch_norm: bool = False,
    precision: str = "float32",
    td_loss: TdLoss = squared,
    target_action: TargetAction = unchanged,
    critic_penalties: tuple[CriticPenalty, ...] = (),
    actor_penalties: tuple[ActorPenalty, ...] = (),
    optimizers: Nets = ADAM,
    sync: Sync = always,
    diagnose: Nets = diagnostics.OFF,
) -> Agent:
    """DDPG for observations `[O]` and actions `[A]` in [-1, 1].

    Args:
        obs_dim: `O`.
        action_dim: `A`.
        hidden: sizes of the hidden layers, of the actor and of the critic.
        activation: a name in `networks.ACTIVATIONS`.
        layer_norm: normalize before every hidden activation.
        action_layer: the layer of the critic at whose input the action joins; 0 is the first.
        num_critics: `E`; the target is the smallest of their values.
        policy_delay: the actor learns at every `policy_delay`-th update of the critic.
        init: a name in `networks.INITS`.
        batch_norm: normalize observations, hidden layers of the actor and those of the critic before the action joins. What
            learns is normalized by its batch, all else by running statistics, which are part of the parameters.
        precision: a name in `networks.PRECISIONS`, of the hidden layers. Parameters, optimizers, actions, values, targets and
            losses are float32 with all of them.
        td_loss: of the TD errors.
        target_action: what becomes of the target actor's actions.
        critic_penalties: added to the loss of the critic.
        actor_penalties: added to the loss of the actor.
        optimizers: of the actor and of the critic.
        sync: how far the targets follow.
        diagnose: what is measured besides, of actor and critic; `diagnostics.ON` or your own functions.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> agent, hyper = dj.make_agent(obs_dim=3, action_dim=1), dj.Hyperparams()
    >>> state = agent.init(jax.random.key(0), hyper)
    >>> agent.act(state.params.actor, jnp.ones((5, 3))).shape
    (5, 1)
    """
    function, bound, product = ACTIVATIONS[activation], INITS[init], PRECISIONS[precision]
    actor = Actor(action_dim, hidden, function, layer_norm, bound, batch_norm, product)
    critic = Critics(num_critics, hidden, function, layer_norm, action_layer, bound, batch_norm, product)
    judge = critic.clone(num_critics=1)  # by itself, since compilers do not notice that of the others nothing is used

    actor_tx: Optimizer = optimizers.actor
    critic_tx: Optimizer = optimizers.critic

    def act(actor_params: Params, obs: Array) -> Array:
        return apply(actor, actor_params, obs)

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return apply(critic, critic_params, obs, action)

    act_by_batch = functools.partial(apply_by_batch, actor)
    q_by_batch = functools.partial(apply_by_batch, critic)
    judged_by_batch = functools.partial(apply_by_batch, judge)

    def objective(actor_params: Params, critic_params: Params, obs: Array, hyper: Hyperparams) -> Array:
        """What the actor descends: the loss of the paper, and the penalties."""
        loss = actor_loss(actor_params, critic_params, act_by_batch, judged_by_batch, obs)
        for penalty in actor_penalties:
            loss = loss + penalty(act_by_batch(actor_params, obs, squash=identity), hyper)
        return loss

    def start(key: Key, hyper: Hyperparams) -> TrainState:
        """Fresh parameters, targets that are copies of them, fresh optimizers. Consumes the key."""
        actor_key, critic_key = jax.random.split(key)
        params = Nets(init_actor(actor_key, actor, obs_dim), init_critic(critic_key, critic, obs_dim, action_dim))
        target = jax.tree.map(jnp.copy, params)  # copies: the two are donated side by side
        zero = jnp.int32(0)
        opt = Nets(actor_tx(hyper, zero).init(trainable(params.actor)), critic_tx(hyper, zero).init(trainable(params.critic)))
        return TrainState(params, target, opt)

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step of Lillicrap et al. 2015, Algorithm 1, on a batch `[B]`; `t` counts updates. Consumes the key."""
        next_action = target_action(key, act(state.target.actor, batch.next_obs), hyper)
        next_q = jnp.min(q_values(state.target.critic, batch.next_obs, next_action), axis=0)  # [E, B] -> [B]
        target_q = td_target(batch.reward, batch.discount, next_q)

        td_term, *penalties = (functools.partial(part, hyper=hyper) for part in (td_loss, *critic_penalties))
        critic_grad = jax.value_and_grad(critic_loss, has_aux=True)
        (loss, (td, q_mean)), grads = critic_grad(
            state.params.critic, q_by_batch, batch.obs, batch.action, target_q, weight, td_term, penalties
        )
        critic_info = {"critic_loss": loss, "q_mean": q_mean, **diagnose.critic(grads, td)}
        moved = moved_statistics(critic, state.params.critic, batch.obs, batch.action)
        critic_params, critic_opt = learn(critic_tx(hyper, t), grads, state.opt.critic, state.params.critic, moved)

        def improve(actor_params: Params, actor_opt: Params) -> tuple[dict[str, Array], Params, Params]:
            value, grads = jax.value_and_grad(objective)(actor_params, critic_params, batch.obs, hyper)
            info = {"actor_loss": value, **diagnose.actor(grads, act(actor_params, batch.obs))}
            moved = moved_statistics(actor, actor_params, batch.obs)
            return info, *learn(actor_tx(hyper, t), grads, actor_opt, actor_params, moved)

        actor_info, actor_params, actor_opt = every(policy_delay, t, improve, state.params.actor, state.opt.actor)

        params = Nets(actor_params, critic_params)
        target = soft_update(params, state.target, sync(hyper, t))
        return TrainState(params, target, Nets(actor_opt, critic_opt)), {**critic_info, **actor_info, "td": td}

    return Agent(start, act, q_values, update, observe=unmoved)


def learn(tx: optax.GradientTransformation, grads: Params, opt: Params, params: Params, moved: Params) -> tuple[Params, Params]:
    """One optimizer step, `(params, opt)`, in which BatchNorm's statistics have no part: they are `moved` by the batch."""
    weights, opt = descend(tx, trainable(grads), opt, trainable(params))
    return weights | moved, opt


def every(period: int, t: Array, improve: Callable[..., tuple[Any, Params, Params]], params: Params, opt: Params):
    """`improve(params, opt)` where `t` is a multiple of `period`; else both as they are, and NaN for what it measures."""
    if period == 1:
        return improve(params, opt)

    def keep(params: Params, opt: Params) -> tuple[Any, Params, Params]:
        measured, _, _ = jax.eval_shape(improve, params, opt)
        return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), measured), params, opt

    return jax.lax.cond(t % period == 0, improve, keep, params, opt)
