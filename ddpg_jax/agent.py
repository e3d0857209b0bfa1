"""The train step: `make_agent` puts networks, losses and optimizers together."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ddpg_jax.losses import actor_loss, critic_loss, soft_update, td_target
from ddpg_jax.networks import ACTIVATIONS, Actor, Critics, init_actor, init_critic
from ddpg_jax.types import Agent, Array, Hyperparams, Key, Nets, Params, TrainState, Transition


def make_agent(
    obs_dim: int,
    action_dim: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: str = "relu",
    layer_norm: bool = False,
    action_layer: int = 0,
    num_critics: int = 1,
    policy_delay: int = 1,
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

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> agent, hyper = dj.make_agent(obs_dim=3, action_dim=1), dj.Hyperparams()
    >>> state = agent.init(jax.random.key(0), hyper)
    >>> agent.act(state.params.actor, jnp.ones((5, 3))).shape
    (5, 1)
    """
    actor = Actor(action_dim, hidden, ACTIVATIONS[activation], layer_norm)
    critic = Critics(num_critics, hidden, ACTIVATIONS[activation], layer_norm, action_layer)

    def act(actor_params: Params, obs: Array) -> Array:
        return actor.apply({"params": actor_params}, obs)  # pyright: ignore[reportReturnType]

    def q_values(critic_params: Params, obs: Array, action: Array) -> Array:
        return critic.apply({"params": critic_params}, obs, action)  # pyright: ignore[reportReturnType]

    def actor_tx(hyper: Hyperparams) -> optax.GradientTransformation:
        return optax.adam(hyper.actor_lr)

    def critic_tx(hyper: Hyperparams) -> optax.GradientTransformation:
        return optax.adam(hyper.critic_lr)

    def init(key: Key, hyper: Hyperparams) -> TrainState:
        """Fresh parameters, targets that are copies of them, fresh optimizers. Consumes the key."""
        actor_key, critic_key = jax.random.split(key)
        params = Nets(init_actor(actor_key, actor, obs_dim), init_critic(critic_key, critic, obs_dim, action_dim))
        target = jax.tree.map(jnp.copy, params)  # copies: the two are donated side by side
        return TrainState(params, target, Nets(actor_tx(hyper).init(params.actor), critic_tx(hyper).init(params.critic)))

    def update(
        key: Key, state: TrainState, batch: Transition, weight: Array, hyper: Hyperparams, t: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step of Lillicrap et al. 2015, Algorithm 1, on a batch `[B]`; `t` counts updates."""
        del key  # the plain algorithm draws nothing here
        next_action = act(state.target.actor, batch.next_obs)
        next_q = jnp.min(q_values(state.target.critic, batch.next_obs, next_action), axis=0)  # [E, B] -> [B]
        target_q = td_target(batch.reward, batch.discount, next_q)

        critic_grad = jax.value_and_grad(critic_loss, has_aux=True)
        (loss, (td, q_mean)), grads = critic_grad(state.params.critic, q_values, batch.obs, batch.action, target_q, weight)
        critic_params, critic_opt = descend(critic_tx(hyper), grads, state.opt.critic, state.params.critic)

        def improve(actor_params: Params, actor_opt: Params) -> tuple[Array, Params, Params]:
            value, grads = jax.value_and_grad(actor_loss)(actor_params, critic_params, act, q_values, batch.obs)
            return value, *descend(actor_tx(hyper), grads, actor_opt, actor_params)

        value, actor_params, actor_opt = every(policy_delay, t, improve, state.params.actor, state.opt.actor)

        params = Nets(actor_params, critic_params)
        target = soft_update(params, state.target, hyper.tau)
        info = {"critic_loss": loss, "actor_loss": value, "q_mean": q_mean, "td": td}
        return TrainState(params, target, Nets(actor_opt, critic_opt)), info

    return Agent(init, act, q_values, update)


def descend(tx: optax.GradientTransformation, grads: Params, opt: Params, params: Params) -> tuple[Params, Params]:
    """One optimizer step: `(params, opt)`."""
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt


def every(period: int, t: Array, improve: Callable[..., tuple[Array, Params, Params]], params: Params, opt: Params):
    """`improve(params, opt)` where `t` is a multiple of `period`; else both as they are, with a loss of NaN."""
    if period == 1:
        return improve(params, opt)

    def keep(params: Params, opt: Params) -> tuple[Array, Params, Params]:
        return jnp.full((), jnp.nan), params, opt

    return jax.lax.cond(t % period == 0, improve, keep, params, opt)
