"""Adds exploration noise to the actions while experience is collected.

Noise is in the units of the agent's actions, [-1, 1]: a sigma of 0.2 is a fifth of half the range between the environment's own
bounds. Noisy actions are clipped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from ddpg_jax.registry import Registry
from ddpg_jax.schedules import Schedule, constant, progress
from ddpg_jax.types import Array, Explorer, Hyperparams, Key, Params, Scalar


def sigma(schedule: Schedule, t_env: Array, hyper: Hyperparams) -> Scalar:
    """Returns the scale of the noise at environment step `t_env`, which reaches `noise_sigma_final` after `noise_decay_steps`.

    It is `[]`, or `[N, 1]` if the scales of the environments differ (see `with_spread`).
    """
    return schedule(hyper.noise_sigma, hyper.noise_sigma_final, progress(t_env, hyper.noise_decay_steps))


def _check(obs: Array, t_env: Array) -> int:
    """Asserts the shapes of the arguments of `Explorer.explore`, and returns N."""
    chex.assert_rank(obs, 2, custom_message="Explorer.explore: obs must be [N, O]")
    chex.assert_rank(t_env, 0, custom_message="Explorer.explore: t_env must be []")
    return obs.shape[0]


def _check_noise(noise: Array, shape: tuple[int, ...], dims: str) -> None:
    chex.assert_shape(noise, shape, custom_message=f"Explorer.explore: noise must be {dims}")


def _actions(act: Any, params: Params, obs: Array, *, action_dim: int) -> Array:
    """Returns the policy's actions `[N, A]`."""
    action = act(params, obs)
    chex.assert_shape(action, (obs.shape[0], action_dim), custom_message="Explorer.explore: act must return [N, A]")
    return action


def gaussian(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Adds Gaussian noise, a = mu(s) + sigma N(0, 1), independent across environments, steps and dimensions.

    Used by Fujimoto et al. 2018.
    """

    def init(num_envs: int, params: Params) -> Any:
        del num_envs, params
        return ()

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        num_envs = _check(obs, t_env)
        eps = jax.random.normal(key, (num_envs, action_dim))
        action = _actions(act, params, obs, action_dim=action_dim) + sigma(schedule, t_env, hyper) * eps
        return jnp.clip(action, -1.0, 1.0), noise

    def reset(noise: Any, last: Array) -> Any:
        del last
        return noise

    return Explorer(init, explore, reset)


def ornstein_uhlenbeck(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Adds the process dx = theta (0 - x) dt + sigma sqrt(dt) N(0, 1) of each environment; every episode starts at x = 0.

    Uhlenbeck and Ornstein 1930, as used in Lillicrap et al. 2015, section 7. The noise state is x, `[N, A]`.
    """

    def init(num_envs: int, params: Params) -> Array:
        del params
        return jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Array, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        _check_noise(noise, (_check(obs, t_env), action_dim), "[N, A]")
        eps = jax.random.normal(key, noise.shape)
        drift = -hyper.ou_theta * noise * hyper.ou_dt
        noise = noise + drift + sigma(schedule, t_env, hyper) * jnp.sqrt(hyper.ou_dt) * eps
        return jnp.clip(_actions(act, params, obs, action_dim=action_dim) + noise, -1.0, 1.0), noise

    def reset(noise: Array, last: Array) -> Array:
        return jnp.where(last[:, None], 0.0, noise)

    return Explorer(init, explore, reset)


PINK_FREQUENCIES = tuple(4.0**j / 1_500 for j in range(5))
"""Corner frequencies of the processes that add up to pink noise, per step."""


@flax.struct.dataclass
class Colored:
    """Holds the noise state of `pink`."""

    levels: Array
    """`[N, A, J]`, one process for each of the J frequencies."""
    fresh: Array
    """`[N]` float32, 1 where an episode starts."""


def pink(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Adds pink noise, whose power is proportional to 1 / frequency (Eberhard et al. 2023), with standard deviation sigma.

    It lies between the independent draws of `gaussian` and the slow walk of `ou`. Eberhard et al. draw a whole episode by the
    inverse Fourier transform of a scaled white spectrum, which needs the length of the episode in advance. Here the noise is
    the sum of five autoregressive processes of equal variance, with corner frequencies that differ by factors of 4, and goes
    on for as long as an episode does. Its power is within 20 % of 1 / frequency for periods from 1,000 steps to 2, and flat at
    lower frequencies. Every episode starts in the stationary distribution, independently for each environment and dimension.
    """
    decay = jnp.exp(-2.0 * jnp.pi * jnp.asarray(PINK_FREQUENCIES))[None, None]

    def init(num_envs: int, params: Params) -> Colored:
        del params
        return Colored(jnp.zeros((num_envs, action_dim, len(PINK_FREQUENCIES))), jnp.ones(num_envs))

    def explore(key: Key, noise: Colored, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        _check_noise(noise.levels, (_check(obs, t_env), action_dim, len(PINK_FREQUENCIES)), "[N, A, J]")
        kept = jnp.where(noise.fresh[:, None, None] > 0, 0.0, decay)
        levels = kept * noise.levels + jnp.sqrt(1.0 - kept**2) * jax.random.normal(key, noise.levels.shape)
        eps = jnp.sum(levels, axis=-1) * len(PINK_FREQUENCIES) ** -0.5  # [N, A], with variance 1
        action = _actions(act, params, obs, action_dim=action_dim) + sigma(schedule, t_env, hyper) * eps
        return jnp.clip(action, -1.0, 1.0), Colored(levels, jnp.zeros_like(noise.fresh))

    def reset(noise: Colored, last: Array) -> Colored:
        return replace(noise, fresh=jnp.maximum(noise.fresh, last))

    return Explorer(init, explore, reset)


def none(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Adds no noise: a = mu(s)."""
    del schedule
    base = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        del key, hyper
        _check(obs, t_env)
        return _actions(act, params, obs, action_dim=action_dim), noise

    return base._replace(explore=explore)


ADAPTATION = 1.01
"""Factor by which one step adapts the ratio (Plappert et al. 2018, section 3)."""
DISTANCE_DECAY = 0.9
"""Decay of the running mean of squared distances, which averages over about ten steps."""
RATIO_LIMIT = 1e3
"""Bound of the ratio and of its inverse. A policy that no perturbation moves, or a target of 0, would drive it to infinity."""


@flax.struct.dataclass
class Perturbation:
    """Holds the noise state of `parameter`, with one entry for each environment."""

    direction: Params
    """The actor's parameters with a leading `[N]`: N(0, 1), drawn at the start of each episode; 0 for the parameters of
    LayerNorm and BatchNorm."""
    ratio: Array
    """`[N]`; the parameters are perturbed by `ratio * noise_sigma * direction`."""
    distance: Array
    """`[N]`, running mean of the squared distance between perturbed and unperturbed action, relative to the squared target."""
    fresh: Array
    """`[N]` float32, 1 where an episode starts and a direction has to be drawn."""


def parameter(action_dim: int, schedule: Schedule = constant) -> Explorer:
    """Adds adaptive noise to the actor's PARAMETERS rather than to its actions (Plappert et al. 2018, section 3).

    Every environment acts with its own perturbed actor. The direction of the perturbation is drawn at the start of each episode
    and then stays fixed: the same observation gets the same action, so that exploration is consistent within an episode. The
    parameters of LayerNorm and BatchNorm are not perturbed. The size of the perturbation is adapted at every step, by a factor
    of 1.01, so that the root mean square distance between the actions of the perturbed and the unperturbed actor follows
    `noise_sigma` with its schedule, in units of actions. (The paper measures the distance on a replay batch; here it is
    measured on the actions taken.) N directions are kept, because drawing them again at every step takes longer than the step
    itself.
    """

    def init(num_envs: int, params: Params) -> Perturbation:
        direction = jax.tree.map(lambda p: jnp.zeros((num_envs, *jnp.shape(p))), params)
        return Perturbation(direction, jnp.ones(num_envs), jnp.ones(num_envs), jnp.ones(num_envs))

    def explore(key: Key, noise: Perturbation, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        _check_noise(noise.fresh, (_check(obs, t_env),), "for N environments")
        target = jnp.broadcast_to(jnp.ravel(sigma(schedule, t_env, hyper)), noise.fresh.shape)  # [N]
        fresh = noise.fresh > 0

        def redraw() -> Params:
            drawn = draw_directions(key, noise.direction)
            return jax.tree.map(lambda new, old: jnp.where(_align(fresh, new), new, old), drawn, noise.direction)

        direction = jax.lax.cond(any_across_members(fresh), redraw, lambda: noise.direction)

        def perturbed(direction: Params, scale: Array, obs: Array) -> Array:
            return act(jax.tree.map(lambda p, d: p + scale * d, params, direction), obs[None])[0]

        action = jnp.clip(jax.vmap(perturbed)(direction, noise.ratio * target, obs), -1.0, 1.0)
        plain = _actions(act, params, obs, action_dim=action_dim)
        moved = jnp.mean(jnp.square(action - plain), axis=-1) / jnp.maximum(jnp.square(target), 1e-12)
        distance = DISTANCE_DECAY * noise.distance + (1.0 - DISTANCE_DECAY) * moved
        ratio = noise.ratio * jnp.where(distance > 1.0, 1.0 / ADAPTATION, ADAPTATION)
        ratio = jnp.clip(ratio, 1.0 / RATIO_LIMIT, RATIO_LIMIT)
        return action, Perturbation(direction, ratio, distance, jnp.zeros_like(noise.fresh))

    def reset(noise: Perturbation, last: Array) -> Perturbation:
        return replace(noise, fresh=jnp.maximum(noise.fresh, last))

    return Explorer(init, explore, reset)


def draw_directions(key: Key, like: Params) -> Params:
    """Draws N(0, 1) in the shapes of `like`, with zeros for LayerNorm and BatchNorm. Consumes the key.

    Normalization layers are known by their names, such as `norm_0`, or `LayerNorm_0` as flax gives them.

    >>> drawn = draw_directions(jax.random.key(0), {"Dense_0": jnp.zeros(2), "LayerNorm_0": jnp.ones(2)})
    >>> (drawn["Dense_0"] == 0).any().item(), drawn["LayerNorm_0"].tolist()
    (False, [0.0, 0.0])
    """
    leaves, structure = jax.tree.flatten_with_path(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jnp.zeros_like(leaf) if _normalizes(jax.tree_util.keystr(path)) else jax.random.normal(one, leaf.shape)
        for one, (path, leaf) in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _normalizes(path: str) -> bool:
    """Returns True for a parameter or a statistic of a normalization layer."""
    return any(word in path.lower() for word in ("norm", "batch_stats"))


@jax.custom_batching.custom_vmap
def any_across_members(flags: Array) -> Array:
    """Returns True if any flag is set, `[N] -> []`; under vmap, if any flag of ANY member is set.

    The result is not batched, so a `cond` on it stays a `cond` under vmap instead of becoming a `select`, which would draw for
    every member at every step. Use it only where the branch leaves members without a flag unchanged.
    """
    return flags.any()


@any_across_members.def_vmap
def _any_across_members(axis_size: int, in_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_across_members(flags), False


def _align(mask: Array, like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def uniform(action_dim: int) -> Explorer:
    """Draws actions a ~ U(-1, 1) without asking the policy, as in the warm-up."""
    base = gaussian(action_dim)

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        del act, params, hyper
        return jax.random.uniform(key, (_check(obs, t_env), action_dim), minval=-1.0, maxval=1.0), noise

    return base._replace(explore=explore)


def with_spread(explorer: Explorer) -> Explorer:
    """Gives each environment of a run a noise scale of its own, as FastTD3 does (Seo et al. 2025).

    The factors of `noise_sigma` and `noise_sigma_final` are evenly spaced over the environments, from 1 - `noise_spread` to
    1 + `noise_spread`; a single environment has the factor 1. (FastTD3 draws them for each episode, uniformly.) The explorer
    gets the two numbers as `[N, 1]`.
    """

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        count = _check(obs, t_env)
        place = jnp.linspace(-1.0, 1.0, count)[:, None] if count > 1 else jnp.zeros((1, 1))
        factor = 1.0 + hyper.noise_spread * place
        scaled = hyper._replace(noise_sigma=hyper.noise_sigma * factor, noise_sigma_final=hyper.noise_sigma_final * factor)
        return explorer.explore(key, noise, act, params, obs, scaled, t_env)

    return explorer._replace(explore=explore)


def with_uniform(explorer: Explorer) -> Explorer:
    """Replaces each environment's action by a uniform random one with probability `epsilon_uniform` (epsilon-greedy)."""

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        action, noise = explorer.explore(key, noise, act, params, obs, hyper, t_env)
        chance_key, action_key = jax.random.split(
            jax.random.fold_in(key, 1)
        )  # the inner explorer draws what it would draw alone
        chosen = jax.random.uniform(chance_key, (obs.shape[0], 1)) < hyper.epsilon_uniform
        return jnp.where(chosen, jax.random.uniform(action_key, action.shape, minval=-1.0, maxval=1.0), action), noise

    return explorer._replace(explore=explore)


def clipped(explorer: Explorer) -> Explorer:
    """Clips actions to [-1, 1], so that the replay stores those that are executed."""

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        action, noise = explorer.explore(key, noise, act, params, obs, hyper, t_env)
        return jnp.clip(action, -1.0, 1.0), noise

    return explorer._replace(explore=explore)


def with_smoothing(explorer: Explorer, action_dim: int) -> Explorer:
    """Low-pass filters the actions: (1 - w) a + w b, with w `action_smoothing` and b the previous action, 0 at first."""

    def init(num_envs: int, params: Params) -> Any:
        return explorer.init(num_envs, params), jnp.zeros((num_envs, action_dim))

    def explore(key: Key, noise: Any, act: Any, params: Params, obs: Array, hyper: Hyperparams, t_env: Array):
        inner, previous = noise
        _check_noise(previous, (_check(obs, t_env), action_dim), "for N environments")
        action, inner = explorer.explore(key, inner, act, params, obs, hyper, t_env)
        action = (1.0 - hyper.action_smoothing) * action + hyper.action_smoothing * previous
        return action, (inner, action)

    def reset(noise: Any, last: Array) -> Any:
        inner, previous = noise
        return explorer.reset(inner, last), jnp.where(last[:, None], 0.0, previous)

    return Explorer(init, explore, reset)


EXPLORERS: Registry[Callable[..., Explorer]] = Registry(
    "dj.EXPLORERS",
    {"ou": ornstein_uhlenbeck, "gaussian": gaussian, "pink": pink, "parameter": parameter, "none": none},
)
"""Maps names to functions `(*, action_dim, schedule) -> explorer`, with these names. The field `exploration` can name an entry
of your own. Its actions are clipped. It follows `noise_schedule` if it takes its scale from `sigma(schedule, t_env, hyper)`,
which is `[N, 1]` with `noise_spread`."""
