"""Defines the actors and critics of the package, makes registered ones by name, and initializes and applies all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpg_jax.agent.crossq import crossq
from ddpg_jax.agent.layers import (
    ACTIVATIONS,
    FINAL_BOUND,
    INITS,
    PRECISIONS,
    Product,
    batch_normalized,
    dense,
    full_product,
)
from ddpg_jax.agent.normalization import OBS, REWARD
from ddpg_jax.agent.residual import residual
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.registry import Registry
from ddpg_jax.types import Array, Key, Nets, Params

STATISTICS = "batch_stats"
"""Name of the running statistics of BatchNorm and `BatchRenorm` in a tree of parameters, next to the layers, if any."""


SUPPORT = "support"
"""The name of the constants of a distributional critic (see `heads.Head.init`) in its tree of parameters."""


class Actor(nn.Module):
    """Computes mu(s), `[..., O] -> [..., A]` in [-1, 1]; `squash=identity` returns the values before the tanh.

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
        x = batch_normalized(obs, "norm_input", by_batch, affine=False) if self.batch_norm else obs
        for i, features in enumerate(self.hidden):
            x = dense(x, features, f"hidden_{i}", use_bias=not self.batch_norm, product=self.product)
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = batch_normalized(x, f"norm_{i}", by_batch) if self.batch_norm else x
            x = self.activation(x)
        return squash(dense(x, self.action_dim, "action", bound=self.final_bound))


class Critic(nn.Module):
    """Computes Q(s, a), `[..., O], [..., A] -> [...]`, or `[..., K]` with `outputs`.

    The action joins the input of layer `action_layer`; 0 is the first.

    With `batch_norm`, observations and the layers before the action joins are normalized (Lillicrap et al. 2015, section 3).
    Normalizing layers that contain the action would subtract the mean of a batch of actions, and so part of the actor's
    gradient.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False
    action_layer: int = 0
    final_bound: float | None = FINAL_BOUND
    batch_norm: bool = False
    product: Product = full_product
    outputs: int | None = None

    @nn.compact
    def __call__(self, obs: Array, action: Array, by_batch: bool = False) -> Array:
        x = batch_normalized(obs, "norm_input", by_batch, affine=False) if self.batch_norm else obs
        for i, features in enumerate(self.hidden):
            x = jnp.concatenate([x, action], axis=-1) if i == self.action_layer else x
            norm = self.batch_norm and i < self.action_layer
            x = dense(x, features, f"hidden_{i}", use_bias=not norm, product=self.product)
            x = nn.LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            x = batch_normalized(x, f"norm_{i}", by_batch) if norm else x
            x = self.activation(x)
        x = jnp.concatenate([x, action], axis=-1) if self.action_layer == len(self.hidden) else x
        value = dense(x, self.outputs or 1, "value", bound=self.final_bound)
        return value if self.outputs else value[..., 0]


class TwoBranchCritic(nn.Module):
    """Computes Q(s, a), `[..., O], [..., A] -> [...]`, or `[..., K]` with `outputs`.

    It has separate layers for the two inputs before they are joined.

    This is the critic of the Keras notebook on DDPG, with layers of 16 and 32 units for observations and one of 32 for actions.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Callable[[Array], Array] = nn.relu
    final_bound: float | None = FINAL_BOUND
    obs_hidden: tuple[int, ...] = (16, 32)
    action_hidden: tuple[int, ...] = (32,)
    outputs: int | None = None

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        for i, features in enumerate(self.obs_hidden):
            obs = self.activation(dense(obs, features, f"obs_{i}"))
        for i, features in enumerate(self.action_hidden):
            action = self.activation(dense(action, features, f"action_{i}"))
        x = jnp.concatenate([obs, action], axis=-1)
        for i, features in enumerate(self.hidden):
            x = self.activation(dense(x, features, f"hidden_{i}"))
        value = dense(x, self.outputs or 1, "value", bound=self.final_bound)
        return value if self.outputs else value[..., 0]


class Critics(nn.Module):
    """Computes the values of independent copies of a critic, `[..., O], [..., A] -> [E, ...]`."""

    critic: nn.Module
    num_critics: int = 1

    @nn.compact
    def __call__(self, obs: Array, action: Array, **options: Any) -> Array:
        # This is a loop because, with one critic, a batch dimension of 1 would only slow down the products.
        copies: list[Any] = [self.critic.clone(parent=self, name=f"critic_{e}") for e in range(self.num_critics)]
        return jnp.stack([copy(obs, action, **options) for copy in copies])


def mlp(
    *,
    action_dim: int,
    hidden: tuple[int, ...] = (256, 256),
    activation: Callable[[Array], Array] = nn.relu,
    layer_norm: bool = False,
    batch_norm: bool = False,
    action_layer: int = 0,
    init: str = "paper",
    precision: str = "float32",
    actor_hidden: tuple[int, ...] = (),
    critic_hidden: tuple[int, ...] = (),
    outputs: int | None = None,
) -> Nets:
    """Makes the fully connected actor and critic of the paper.

    Args:
        action_dim: `A`.
        hidden: sizes of the hidden layers of each network.
        activation: the function between the layers.
        layer_norm: apply LayerNorm before every hidden activation.
        batch_norm: apply BatchNorm to observations, to the hidden layers of the actor, and to those of the critic before the
            action joins. It uses the statistics of the batch for learning, and otherwise running statistics, which are part of
            the parameters.
        action_layer: the layer of the critic whose input the action joins; 0 is the first.
        init: a name in `layers.INITS`.
        precision: a name in `layers.PRECISIONS`, for the hidden layers. Parameters, optimizers, actions, values, targets and
            losses are float32 with all of them.
        actor_hidden: sizes of the actor's hidden layers, if they differ from `hidden`.
        critic_hidden: sizes of the critic's hidden layers, if they differ from `hidden`.
        outputs: `K`, for a critic that describes a distribution (see `heads`).

    >>> import ddpg_jax as dj
    >>> agent = dj.make_agent(*dj.mlp(action_dim=1, hidden=(64, 64)), obs_dim=3)
    """
    product, bound = PRECISIONS[precision], INITS[init]
    return Nets(
        Actor(action_dim, actor_hidden or hidden, activation, layer_norm, bound, batch_norm, product),
        Critic(critic_hidden or hidden, activation, layer_norm, action_layer, bound, batch_norm, product, outputs),
    )


def two_branch(
    *,
    action_dim: int,
    hidden: tuple[int, ...],
    activation: Callable[[Array], Array] = nn.relu,
    init: str = "paper",
    actor_hidden: tuple[int, ...] = (),
    critic_hidden: tuple[int, ...] = (),
    outputs: int | None = None,
) -> Nets:
    """Makes the networks of the Keras notebook on DDPG: the actor of `mlp` and a `TwoBranchCritic`."""
    return Nets(
        Actor(action_dim, actor_hidden or hidden, activation, final_bound=INITS[init]),
        TwoBranchCritic(critic_hidden or hidden, activation, INITS[init], outputs=outputs),
    )


class MakeNets(Protocol):
    """Makes an actor and a critic.

    An implementation may leave out arguments that it does not use, and may also take the other `NETWORK_FIELDS` by name. One
    that takes `outputs` works with heads that predict distributions: its critic returns `[..., outputs]`, or `[...]` for None.
    """

    def __call__(self, *, action_dim: int, hidden: tuple[int, ...], activation: Callable[[Array], Array]) -> Nets:
        """Returns flax modules `actor(obs [..., O]) -> [..., A]` in [-1, 1] and `critic(obs, action [..., A]) -> [...]`."""
        ...


NETWORKS: Registry[Callable[..., Nets]] = Registry(
    "dj.NETWORKS", {"mlp": mlp, "two_branch": two_branch, "residual": residual, "crossq": crossq}
)
"""Maps names to functions that make an actor and a critic (see `MakeNets`). An entry of your own can be named by the field
`network`."""

NETWORK_FIELDS = (
    *("hidden", "actor_hidden", "critic_hidden", "activation", "layer_norm", "batch_norm", "action_layer", "init", "precision"),
)
"""Fields of `Experiment` that are passed to a network if it takes them."""


def takes_field(network: str, field: str) -> bool:
    """Returns True if the function that makes a network takes a field."""
    parameters = inspect.signature(NETWORKS[network]).parameters
    return field in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def make_nets(network: str, action_dim: int, fields: Mapping[str, Any], *, outputs: int | None = None) -> Nets:
    """Makes the actor and the critic that are registered under a name.

    Args:
        network: a name in `NETWORKS`.
        action_dim: `A`.
        fields: values of `NETWORK_FIELDS`; those that the network does not take are ignored.
        outputs: `K`, if the critic describes a distribution.

    Raises:
        ConfigError: the name is not registered, or its function fails or does not return a pair of flax modules.
    """
    if network not in NETWORKS:
        raise ConfigError(
            f"network={network} is not known; it must be one of {', '.join(NETWORKS)}, or the module that registers it must be "
            "imported first"
        )
    given = {name: fields[name] for name in NETWORK_FIELDS if name in fields and takes_field(network, name)}
    if "activation" in given:
        given["activation"] = ACTIVATIONS[given["activation"]]
    if takes_field(network, "action_dim"):
        given["action_dim"] = action_dim
    if outputs is not None:
        if not takes_field(network, "outputs"):
            raise ConfigError(f"network={network} has no argument outputs, which a distributional critic needs; add it")
        given["outputs"] = outputs
    try:
        actor, critic = NETWORKS[network](**given)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"network={network} cannot be made: {one_line(error)}; it is called with those of the arguments action_dim, "
            f"{', '.join(NETWORK_FIELDS)} that it takes, and must return dj.Nets(actor, critic)"
        ) from error
    for part, net in (("actor", actor), ("critic", critic)):
        if not isinstance(net, nn.Module):
            raise ConfigError(f"network={network} returns a {type(net).__name__} as {part}; it must be a flax.linen.Module")
    return Nets(actor, critic)


def init_actor(key: Key, actor: nn.Module, obs_dim: int) -> Params:
    """Initializes the parameters of an actor for observations of length `obs_dim`. Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_actor(jax.random.key(0), dj.Actor(action_dim=1), obs_dim=3)
    >>> params["hidden_0"]["kernel"].shape
    (3, 256)
    """
    return _merge_variables(actor.init(key, jnp.zeros((1, obs_dim))))


def init_critic(key: Key, critic: nn.Module, obs_dim: int, action_dim: int) -> Params:
    """Initializes the parameters of a `Critic` or of several `Critics`. Consumes the key.

    >>> import jax, ddpg_jax as dj
    >>> params = dj.init_critic(jax.random.key(0), dj.Critic(), obs_dim=3, action_dim=1)
    >>> params["value"]["kernel"].shape
    (256, 1)
    """
    return _merge_variables(critic.init(key, jnp.zeros((1, obs_dim)), jnp.zeros((1, action_dim))))


def action_dim_of(
    actor: nn.Module, critic: nn.Module, obs_dim: int, *, wanted: int | None = None, outputs: int | None = None
) -> int:
    """Returns `A`, the length of the actor's actions, after it has checked the shapes and dtypes that both networks return.

    Args:
        actor: the actor.
        critic: the critic.
        obs_dim: `O`.
        wanted: the required value of `A`; None allows any.
        outputs: `K`, if the critic describes a distribution.

    Raises:
        ConfigError: a network cannot be applied, or its output has the wrong shape or dtype.
    """
    obs = jnp.zeros((2, obs_dim))
    action = _output(actor, "actor", obs)
    if action.ndim != 2 or action.shape[0] != 2 or action.shape[1] != (wanted or action.shape[1]):
        raise ConfigError(
            f"the actor returns {action.shape} for observations of shape (2, {obs_dim}); it must return (2, {wanted or 'A'})"
        )
    value = _output(critic, "critic", obs, jnp.zeros(action.shape))
    expected = (2,) if outputs is None else (2, outputs)
    if value.shape != expected:
        raise ConfigError(
            f"the critic returns {value.shape} for observations of shape (2, {obs_dim}) and actions of shape {action.shape}; "
            f"it must return {expected}"
        )
    return action.shape[1]


def _output(net: nn.Module, part: str, *inputs: Array) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a network's output without computing it."""
    try:
        output, made = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), *inputs))
    except Exception as error:
        shapes = " and ".join(str(x.shape) for x in inputs)
        raise ConfigError(f"the {part} cannot be applied to arrays of shape {shapes}: {one_line(error)}") from error
    if getattr(output, "dtype", None) != jnp.float32:
        raise ConfigError(f"the {part} returns {getattr(output, 'dtype', type(output).__name__)}; it must return float32")
    if taken := sorted({SUPPORT, STATISTICS, OBS, REWARD} & set(made.get("params", {}))):
        raise ConfigError(f"the {part} has a layer named {taken[0]}, which means something else here; name it otherwise")
    others = set(made) - {"params", STATISTICS}
    if others:
        raise ConfigError(f"the {part} has the variables {', '.join(sorted(others))}; only params and {STATISTICS} are allowed")
    return output


def _merge_variables(made: Any) -> Params:
    """Merges the layers and BatchNorm's statistics, if there are any, into one tree; the inverse of `variables`."""
    return made.get("params", {}) | ({STATISTICS: made[STATISTICS]} if STATISTICS in made else {})


def trainable(params: Params) -> Params:
    """Returns the tree without BatchNorm's statistics and a head's support, which are not learned by gradients."""
    return {name: layer for name, layer in params.items() if name not in (STATISTICS, SUPPORT)}


def not_trainable(params: Params) -> Params:
    """Returns the rest of the tree."""
    return {name: layer for name, layer in params.items() if name in (STATISTICS, SUPPORT)}


def variables(params: Params) -> dict[str, Any]:
    """Splits a tree of parameters into the collections that flax expects."""
    return {"params": trainable(params)} | ({STATISTICS: params[STATISTICS]} if STATISTICS in params else {})


def apply(net: nn.Module, params: Params, *inputs: Array, **options: Any) -> Array:
    """Applies a network with the running statistics of BatchNorm, as for acting, evaluating and targets."""
    return net.apply(variables(params), *inputs, **options)  # pyright: ignore[reportReturnType]


def apply_by_batch(net: nn.Module, params: Params, *inputs: Array, **options: Any) -> Array:
    """Applies a network to a batch `[B, ...]` with BatchNorm by the statistics of that batch, as for learning."""
    if STATISTICS not in params:
        return apply(net, params, *inputs, **options)
    return net.apply(variables(params), *inputs, by_batch=True, mutable=[STATISTICS], **options)[0]


def updated_statistics(net: nn.Module, params: Params, *inputs: Array) -> Params:
    """Returns BatchNorm's running statistics after a batch `[B, ...]`, as `{STATISTICS: ...}`; `{}` if there are none."""
    if STATISTICS not in params:
        return {}
    return net.apply(variables(params), *inputs, by_batch=True, mutable=[STATISTICS])[1]  # pyright: ignore[reportReturnType]
