"""Exploration: how actions are disturbed while collecting.

Noise is in the units of the agent's actions, [-1, 1]: a sigma of 0.2 is a fifth of half the range of the environment's own
bounds. Disturbed actions are clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.schedules import Shape, constant, progress
from ddpg_jax.types import Array, Explorer, Hyperparams, Key, Params, Scalar


def sigma(schedule: Shape, t: Array, hyper: Hyperparams) -> Scalar:
    """The scale of the noise at environment step `t`, on its way to `noise_sigma_final` over `noise_decay_steps`."""
    return schedule(hyper.noise_sigma, hyper.noise_sigma_final, progress(t, hyper.noise_decay_steps))


def gaussian(action_dim: int, schedule: Shape = constant) -> Explorer:
    """Gaussian noise: a = mu(s) + sigma N(0, 1), anew for every environment, step and dimension (Fujimoto et al. 2018)."""

    def init(num_envs: int, params: Params) -> Any:
        del num_envs, params
        return ()

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, (obs.shape[0], action_dim))
        return jnp.clip(act(params, obs) + sigma(schedule, t, hyper) * eps, -1.0, 1.0), noise

    def reset(noise: Any, last: Array) -> Any:
        del last
        return noise

    return Explorer(init, explore, reset)


def ornstein_uhlenbeck(action_dim: int, schedule: Shape = constant) -> Explorer:
    """The process dx = theta (0 - x) dt + sigma sqrt(dt) N(0, 1), one for every environment; an episode starts at zero.

    Uhlenbeck and Ornstein 1930, as in Lillicrap et al. 2015, section 7. The noise state is x, `[N, A]`.
    """

    def init(num_envs: int, params: Params) -> Array:
        del params
        return jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Array, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        eps = jax.random.normal(key, noise.shape)
        drift = -hyper.ou_theta * noise * hyper.ou_dt
        noise = noise + drift + sigma(schedule, t, hyper) * jnp.sqrt(hyper.ou_dt) * eps
        return jnp.clip(act(params, obs) + noise, -1.0, 1.0), noise

    def reset(noise: Array, last: Array) -> Array:
        return jnp.where(last[:, None], 0.0, noise)

    return Explorer(init, explore, reset)


def none(action_dim: int, schedule: Shape = constant) -> Explorer:
    """No noise at all: a = mu(s)."""
    del schedule
    quiet = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        del key, hyper, t
        return act(params, obs), noise

    return quiet._replace(explore=explore)


ADAPTATION = 1.01  # factor of one adaptation (Plappert et al. 2018, section 3)
MEMORY = 0.9  # of the mean of the squared distances: about ten steps
LIMIT = 1e3  # of the ratio either way: a policy that nothing moves, or a target of 0, would drive it to infinity


@flax.struct.dataclass
class Perturbation:
    """What `parameter` knows of each environment."""

    direction: Params
    """The actor's parameters with a leading `[N]`: N(0, 1), drawn at the start of the episode; 0 for those of
    LayerNorm and BatchNorm."""
    ratio: Array
    """`[N]`: the parameters are moved by `ratio * noise_sigma * direction`."""
    distance: Array
    """`[N]`, running mean of the squared distance between disturbed and plain action, in units of the squared target."""
    fresh: Array
    """`[N]` float32, 1 where an episode starts and a direction is to be drawn."""


def parameter(action_dim: int, schedule: Shape = constant) -> Explorer:
    """Adaptive noise in the space of the actor's PARAMETERS (Plappert et al. 2018, section 3).

    Every environment acts with an actor of its own, moved at the start of each episode in a direction that then stays: the same
    observation gets the same action, so that exploration is consistent within an episode. What LayerNorm and BatchNorm have is
    not moved. How far is adapted at every step, by a factor of 1.01, such that the root mean square distance between the
    actions of this actor and of the plain one follows `noise_sigma` with its schedule, in units of actions. (The paper measures
    the distance on a batch of the replay; here it is that of the actions that are done.) N copies of the actor are kept, since
    to draw them again at every step takes longer than the step.
    """
    del action_dim

    def init(num_envs: int, params: Params) -> Perturbation:
        direction = jax.tree.map(lambda p: jnp.zeros((num_envs, *jnp.shape(p))), params)
        return Perturbation(direction, jnp.ones(num_envs), jnp.ones(num_envs), jnp.ones(num_envs))

    def explore(key: Key, noise: Perturbation, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        target, fresh = sigma(schedule, t, hyper), noise.fresh > 0

        def renew() -> Params:
            drawn = draw_directions(key, noise.direction)
            return jax.tree.map(lambda new, old: jnp.where(_align(fresh, new), new, old), drawn, noise.direction)

        direction = jax.lax.cond(any_of_all(fresh), renew, lambda: noise.direction)

        def disturbed(direction: Params, scale: Array, obs: Array) -> Array:
            return act(jax.tree.map(lambda p, d: p + scale * d, params, direction), obs[None])[0]

        action = jnp.clip(jax.vmap(disturbed)(direction, noise.ratio * target, obs), -1.0, 1.0)
        moved = jnp.mean(jnp.square(action - act(params, obs)), axis=-1) / jnp.maximum(jnp.square(target), 1e-12)
        distance = MEMORY * noise.distance + (1.0 - MEMORY) * moved
        ratio = noise.ratio * jnp.where(distance > 1.0, 1.0 / ADAPTATION, ADAPTATION)
        ratio = jnp.clip(ratio, 1.0 / LIMIT, LIMIT)
        return action, Perturbation(direction, ratio, distance, jnp.zeros_like(noise.fresh))

    def reset(noise: Perturbation, last: Array) -> Perturbation:
        return replace(noise, fresh=jnp.maximum(noise.fresh, last))

    return Explorer(init, explore, reset)


def draw_directions(key: Key, like: Params) -> Params:
    """N(0, 1) in the shapes of `like`, zero for what LayerNorm and BatchNorm have. Consumes the key."""
    leaves, structure = jax.tree.flatten_with_path(like)  # theirs are in layers called norm_..., running statistics too
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jnp.zeros_like(leaf) if "norm" in jax.tree_util.keystr(path) else jax.random.normal(one, leaf.shape)
        for one, (path, leaf) in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


@jax.custom_batching.custom_vmap
def any_of_all(flags: Array) -> Array:
    """Whether any flag is set, `[N] -> []`; under vmap, any of ALL members: a `cond` on it then stays a `cond`.

    It would otherwise become a `select`, which draws for every member at every step. Only for what may be done for members
    that did not ask for it, and leaves them as they are.
    """
    return flags.any()


@any_of_all.def_vmap
def _any_of_all(axis_size: int, in_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_all(flags), False


def _align(mask: Array, like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def uniform(action_dim: int) -> Explorer:
    """Uniform: a ~ U(-1, 1), whatever the policy says: the actions of the warm-up."""
    quiet = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        del act, params, hyper, t
        return jax.random.uniform(key, (obs.shape[0], action_dim), minval=-1.0, maxval=1.0), noise

    return quiet._replace(explore=explore)


def mixed(explorer: Explorer) -> Explorer:
    """Now and then, with chance `epsilon_uniform`, an environment gets a uniform random action instead (epsilon-greedy)."""

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        action, noise = explorer.explore(key, noise, act, params, obs, hyper, t)
        chance_key, action_key = jax.random.split(jax.random.fold_in(key, 1))  # the explorer inside draws as it does alone
        chosen = jax.random.uniform(chance_key, (obs.shape[0], 1)) < hyper.epsilon_uniform
        return jnp.where(chosen, jax.random.uniform(action_key, action.shape, minval=-1.0, maxval=1.0), action), noise

    return explorer._replace(explore=explore)


def smooth(explorer: Explorer, action_dim: int) -> Explorer:
    """Actions that change gradually: (1 - w) a + w b, with w `action_smoothing` and b the action before, 0 at first."""

    def init(num_envs: int, params: Params) -> Any:
        return explorer.init(num_envs, params), jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t: Array):
        inner, before = noise
        action, inner = explorer.explore(key, inner, act, params, obs, hyper, t)
        action = (1.0 - hyper.action_smoothing) * action + hyper.action_smoothing * before
        return action, (inner, action)

    def reset(noise: Any, last: Array) -> Any:
        inner, before = noise
        return explorer.reset(inner, last), jnp.where(last[:, None], 0.0, before)

    return Explorer(init, explore, reset)


EXPLORERS: dict[str, Callable[[int, Shape], Explorer]] = {
    "ou": ornstein_uhlenbeck,
    "gaussian": gaussian,
    "parameter": parameter,
    "none": none,
}
