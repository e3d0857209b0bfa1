"""Makes an `Env` from three plain functions, adding action units, the time limit and resets for all adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp

from ddpg_jax.envs.spaces import to_native
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array, Env, EnvSpec, Key, Transition

Reset: TypeAlias = Callable[[Key], Any]
"""`(key) -> (env_state, obs)`."""
Renew: TypeAlias = Callable[[Key, Array, Any], Any]
"""`(key, last [], running) -> (env_state, obs)`: a new start where `last`, else `running`; consumes the key."""


def as_env(env: Any) -> Any:
    """Converts an object with `spec`, `reset` and `step` to an `Env`, and returns anything else unchanged."""
    if isinstance(env, Env) or not (isinstance(getattr(env, "spec", None), EnvSpec) and callable(getattr(env, "reset", None))):
        return env
    # In an object that is no Env, `success` may be something else.
    return Env(env.spec, env.reset, env.step, success=env.success if callable(getattr(env, "success", None)) else None)


def renew_always(reset: Reset) -> Renew:
    """Draws a start at every step and drops it if no episode ended. Suitable if a start costs less than a branch."""

    def renew(key: Key, last: Array, running: Any) -> Any:
        return jax.tree.map(lambda fresh, old: jnp.where(last, fresh, old), reset(key), running)

    return renew


def renew_at_ends(reset: Reset) -> Renew:
    """Draws starts for ended episodes only, eight or an eighth of the lanes at a time, with the same values as `renew_always`.

    Under `vmap`, however deeply nested, all lanes share one loop: a `cond` per lane would become a `select`, which computes
    both of its sides.
    """

    @jax.custom_batching.custom_vmap
    def renew(key: Key, last: Array, running: Any) -> Any:  # `[...]` of any number of dimensions
        lanes = last.size
        some = max(min(lanes, 8), lanes // 8)

        def flat(x: Array) -> Array:
            return x.reshape(lanes, *x.shape[last.ndim :])

        def draw(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            waiting, chosen = carry
            which = jnp.nonzero(waiting, size=some, fill_value=lanes)[
                0
            ]  # the fill value is out of bounds, so its write is dropped
            fresh = jax.vmap(reset)(flat(key)[jnp.minimum(which, lanes - 1)])
            chosen = jax.tree.map(lambda old, new: old.at[which].set(new, mode="drop"), chosen, fresh)
            return waiting.at[which].set(False, mode="drop"), chosen

        def draw_all() -> Any:
            start = (flat(last), jax.tree.map(flat, running))
            _, chosen = jax.lax.while_loop(lambda carry: carry[0].any(), draw, start)
            return jax.tree.map(lambda x, old: x.reshape(old.shape), chosen, running)

        running = jax.tree.map(jnp.asarray, running)
        return jax.lax.cond(last.any(), draw_all, lambda: running)  # without this, the loop copies the states at every step

    @renew.def_vmap
    def _(size: int, batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def widen(x: Array, is_batched: bool) -> Array:
            return x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

        chosen = renew(*jax.tree.map(widen, arguments, tuple(batched)))
        return chosen, jax.tree.map(lambda _: True, chosen)

    return renew


def make_env(
    spec: EnvSpec,
    start: Callable[[Key], Any],
    advance: Callable[[Key, Any, Array], tuple[Any, Array, Array | bool]],
    *,
    observe: Callable[[Any], Array],
    renew: Callable[[Reset], Renew] = renew_always,
    success: Callable[[Transition], Array] | None = None,
) -> Env:
    """Makes an environment written in JAX.

    Args:
        spec: shapes, bounds and time limit. At the limit an episode is TRUNCATED, and its value still bootstraps.
        start: `(key) -> state`, the start of an episode; any pytree of arrays.
        advance: `(key, state, action) -> (state, reward [], terminated [])`, with the action in the environment's own shape
            and units.
        observe: `(state) -> obs`, in the environment's own shape.
        renew: how ended episodes get a new start: `renew_always`, or `renew_at_ends` if a start is expensive.
        success: `(transition) -> [] bool`, whether an episode that ends with this transition is a success. Evaluations report
            the rate of successes.

    Raises:
        ConfigError: the spec has no time limit. When the environment is stepped: a function returns a wrong shape.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> spec = dj.EnvSpec("Walk", (1,), (1,), action_low=(-2.0,), action_high=(2.0,), max_steps=10)
    >>> def advance(key, x, action):
    ...     return x + action, -jnp.sum(x**2), jnp.abs(x[0]) > 5
    >>> env = dj.envs.make_env(spec, lambda key: jax.random.normal(key, (1,)), advance, observe=lambda x: x)
    >>> dj.train(env, steps=1_000, warmup_steps=500).returns.shape
    (1,)
    """
    if spec.max_steps is None:
        raise ConfigError(f"env={spec.name} has max_steps=None; it must have a time limit to run on the device")
    max_steps = spec.max_steps
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)

    def flat(state: Any) -> Array:
        return shaped("observe", "an observation", observe(state), spec.obs_shape, jnp.float32).reshape(spec.obs_dim)

    def shaped(call: str, what: str, value: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        if jnp.shape(value) != shape:
            raise ConfigError(f"env={spec.name} returns {what} of shape {jnp.shape(value)} from {call}; it must be {shape}")
        return jnp.asarray(value, dtype)

    def reset(key: Key) -> tuple[Any, Array]:
        state = start(key)
        return (state, jnp.zeros((), jnp.int32)), flat(state)

    renewed = renew(reset)

    def step(key: Key, env_state: Any, obs: Array, action: Array) -> tuple[Any, Array, Transition]:
        chex.assert_shape(obs, (spec.obs_dim,), custom_message="Env.step: obs must be [O]; use jax.vmap for several")
        chex.assert_shape(action, (spec.action_dim,), custom_message="Env.step: action must be [A]; use jax.vmap for several")
        reset_key, step_key = jax.random.split(key)
        state, elapsed = env_state
        # Without the barrier XLA folds the bounds in, differently in programs for one device and for several.
        native = to_native(action, *jax.lax.optimization_barrier((low, high))).reshape(spec.action_shape)
        result: Any = advance(step_key, state, native)
        if not isinstance(result, tuple) or len(result) != 3:
            raise ConfigError(f"env={spec.name} must return (state, reward, terminated) from advance")
        state, reward, terminated = result
        reward = shaped("advance", "a reward", reward, (), jnp.float32)
        terminated = shaped("advance", "a termination", terminated, (), bool)
        last = terminated | (elapsed + 1 >= max_steps)
        next_obs = flat(state)
        transition = Transition(obs, action, reward, 1.0 - terminated, last, next_obs)

        env_state, obs = renewed(reset_key, last, ((state, elapsed + 1), next_obs))
        return env_state, obs, transition

    def told(transition: Transition) -> Array:
        assert success is not None
        value = success(transition)
        if (dtype := jnp.result_type(value)) != jnp.bool_:
            raise ConfigError(f"env={spec.name} returns a success of type {dtype}; it must be bool")
        return shaped("success", "a success", value, (), bool)

    return Env(spec, reset, step, success=told if success is not None else None)
