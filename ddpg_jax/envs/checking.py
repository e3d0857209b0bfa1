"""Checks that an environment written in JAX satisfies the contract of `Env`, and names its first fault in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ddpg_jax.envs.make import as_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import STEP_FIELDS, Env, EnvSpec, Key, Transition

LANES = 4
"""Number of environments that are stepped side by side."""
MOST_STEPS = 2_000
"""Maximum number of steps that are inspected, if the time limit is not reached earlier."""
SAMPLED_STARTS = 256
"""Number of resets that show the distribution of starts."""


class Trajectory(NamedTuple):
    """Records what `LANES` environments did under random actions, as NumPy arrays."""

    starts: np.ndarray
    """`[K, O]`, first observations, each from its own key."""
    acted_on: np.ndarray
    """`[T, N, O]`, the observations passed to the steps."""
    action: np.ndarray
    """`[T, N, A]`, the actions passed to them: -1 in the first step, 1 in the second, then uniform."""
    transition: Transition
    """`[T, N]`"""
    obs: np.ndarray
    """`[T, N, O]`, the observations to act on next that they returned."""


def check(env: Env, seed: int = 0) -> None:
    """Tries out an environment, and raises an error that names its first fault in one sentence.

    It checks the spec; shapes and dtypes; that `reset` and `step` can be compiled, depend on nothing but their arguments and
    return the same under `vmap` as individually; then, over an episode of random actions, finite numbers, action units, true
    successors, resets to new starts, termination and the time limit. A time limit above 2,000 steps is not checked.

    Args:
        env: the result of `make_env`, or any other `Env`.
        seed: seed of the actions and resets.

    Raises:
        ConfigError: the environment has a fault; the message names the first one.

    >>> import jax, jax.numpy as jnp, ddpg_jax as dj
    >>> dj.envs.check(dj.envs.make_device("probe/lqr"))
    >>> walk = dj.EnvSpec("Walk", (1,), (1,), action_low=(-1.0,), action_high=(1.0,), max_steps=10)
    >>> def advance(key, x, action):
    ...     return x + action, -(x**2), False  # the reward has shape [1] instead of []
    >>> dj.envs.check(dj.envs.make_env(walk, lambda key: jax.random.normal(key, (1,)), advance, observe=lambda x: x))
    Traceback (most recent call last):
        ...
    ddpg_jax.errors.ConfigError: env=Walk returns a reward of shape (1,) from advance; it must be ()
    """
    env = as_env(env)
    _check_spec(env)
    _check_shapes(env)
    key = jax.random.key(seed)
    try:
        _check_functions(env, key)
        trajectory = _run(env, key)
    except ConfigError:
        raise
    except Exception as error:  # an error in a callback, or one that only vmap causes
        _refuse(env.spec, f"fails when it is run: {_first_line(error)}", "run under jit and vmap with all actions in [-1, 1]")
    _check_numbers(env.spec, trajectory)
    _check_ends(env.spec, trajectory)
    _check_starts(env.spec, trajectory)


def _refuse(spec: EnvSpec, fault: str, rule: str) -> NoReturn:
    raise ConfigError(f"env={spec.name} {fault}; it must {rule}")


def _check_spec(env: Env) -> None:
    if not isinstance(env, Env):
        raise ConfigError(f"env={env!r:.60} is a {type(env).__name__}; it must be an Env, such as make_env returns")
    spec = env.spec
    if not isinstance(spec, EnvSpec):
        raise ConfigError(f"env=Env(...) has spec={spec!r:.60}; it must be an EnvSpec")
    for field in ("obs_shape", "action_shape"):
        shape = getattr(spec, field)
        if not (isinstance(shape, tuple) and all(isinstance(size, Integral) and int(size) > 0 for size in shape)):
            _refuse(spec, f"has {field}={shape!r}", "be a tuple of whole numbers of at least 1")
    for field in ("action_low", "action_high"):
        bound = getattr(spec, field)
        if not (isinstance(bound, tuple) and all(isinstance(number, Real) for number in bound)):
            _refuse(spec, f"has {field}={bound!r}", "be a tuple of numbers")
    for field in ("action_low", "action_high"):
        if len(getattr(spec, field)) != spec.action_dim:
            fault = f"has {field} of {len(getattr(spec, field))} numbers"
            _refuse(spec, fault, f"have {spec.action_dim}, one for each number of an action of shape {spec.action_shape}")
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        _refuse(spec, f"has actions bounded by {low.tolist()} and {high.tolist()}", "have finite bounds, low < high")
    if not isinstance(spec.max_steps, Integral) or spec.max_steps < 1:
        _refuse(spec, f"has max_steps={spec.max_steps!r}", "be a whole number of at least 1, the time limit")


def _traced(spec: EnvSpec, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes and dtypes of the result of a function, by tracing it."""
    try:
        return jax.eval_shape(function, *arguments)
    except ConfigError as error:  # already one sentence; JAX's note on filtered tracebacks is dropped
        raise ConfigError(str(error)) from None
    except Exception as error:  # any error in the user's code
        in_python = isinstance(error, jax.errors.JAXTypeError)
        rule = "use jax.numpy, and jnp.where or jax.lax.cond instead of if" if in_python else "run under jax.jit"
        _refuse(spec, f"cannot be compiled, because {what} raises {_first_line(error)}", rule)


def _first_line(error: Exception) -> str:
    """Returns an error as part of a sentence: its type and its first line."""
    first, *_ = [*str(error).strip().splitlines(), "without a message"]
    return f"{type(error).__name__}: {first}".rstrip(" .:;")


def _check_shapes(env: Env) -> None:
    spec, key = env.spec, jax.random.key(0)
    obs_shape, action_shape = (spec.obs_dim,), (spec.action_dim,)

    def check(name: str, found: Any, shape: tuple[int, ...], dtype: Any) -> None:
        if not hasattr(found, "shape"):
            _refuse(spec, f"returns {name} as {type(found).__name__}", "be an array")
        if (found.shape, found.dtype) != (shape, dtype):
            fault = f"returns {name} of shape {found.shape} and type {found.dtype}"
            _refuse(spec, fault, f"be {shape} and {getattr(dtype, 'name', None) or jnp.dtype(dtype).name}")

    start = _traced(spec, "reset", env.reset, key)
    if not (isinstance(start, tuple) and len(start) == 2):
        _refuse(spec, f"returns a {type(start).__name__} from reset", "return a pair (env_state, obs)")
    state, obs = start
    check("obs from reset", obs, obs_shape, jnp.float32)
    stepped = _traced(spec, "step", env.step, key, state, obs, jax.ShapeDtypeStruct(action_shape, jnp.float32))
    if not (isinstance(stepped, tuple) and len(stepped) == 3 and isinstance(stepped[2], Transition)):
        _refuse(spec, f"returns a {type(stepped).__name__} from step", "return a triple (env_state, obs, Transition)")
    after, next_obs, transition = stepped
    if jax.tree.structure(after) != jax.tree.structure(state):
        _refuse(spec, "has a state of a different structure after step than after reset", "keep the same pytree structure")
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        check(f"env_state{jax.tree_util.keystr(path)} from step", new, old.shape, old.dtype)
    check("obs from step", next_obs, obs_shape, jnp.float32)
    shapes = (obs_shape, action_shape, (), (), (), obs_shape)
    for name, found, shape in zip(STEP_FIELDS, transition, shapes, strict=False):
        check(f"transition.{name}", found, shape, jnp.bool_ if name == "last" else jnp.float32)
    if env.success is not None:
        check("success", _traced(spec, "success", env.success, transition), (), jnp.bool_)


def _first_step(env: Env) -> Callable[[Key], Any]:
    """Returns `(key) -> (first obs, results of the first step)`, a new function at every call, so that it is traced again."""

    def first_step(key: Key) -> Any:
        reset_key, action_key, step_key = jax.random.split(key, 3)
        state, obs = env.reset(reset_key)
        action = jax.random.uniform(action_key, (env.spec.action_dim,), minval=-1.0, maxval=1.0)
        return obs, env.step(step_key, state, obs, action)[1:]

    return first_step


def _check_functions(env: Env, key: Key) -> None:
    """Checks that results depend on the arguments alone, and not on the other environments of a batch."""
    keys = jax.random.split(key, LANES)
    once = jax.jit(_first_step(env))
    individually = [once(k) for k in keys]
    together = jax.jit(jax.vmap(_first_step(env)))(keys)
    if _close(jax.tree.map(lambda *column: jnp.stack(column), *individually), together, 1e-3):
        return
    if not _close(individually[0], jax.jit(_first_step(env))(keys[0]), 0.0):
        _refuse(env.spec, "returns different results when called again with the same key", "draw all randomness from its key")
    _refuse(env.spec, "returns different results under vmap than individually", "step every environment independently")


def _close(one: Any, other: Any, tolerance: float) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True) for a, b in pairs)


def _run(env: Env, key: Key) -> Trajectory:
    steps = min(env.spec.max_steps or MOST_STEPS, MOST_STEPS) + 2
    start_key, action_key, step_key = jax.random.split(key, 3)

    def step(carry: Any, t: Any) -> Any:
        state, obs = carry
        action = jax.random.uniform(jax.random.fold_in(action_key, t), (LANES, env.spec.action_dim), minval=-1.0, maxval=1.0)
        action = jnp.where(t < 2, jnp.where(t == 0, -1.0, 1.0), action)
        keys = jax.random.split(jax.random.fold_in(step_key, t), LANES)
        state, next_obs, transition = jax.vmap(env.step)(keys, state, obs, action)
        return (state, next_obs), (obs, action, transition, next_obs)

    @jax.jit
    def whole() -> Any:
        keys = jax.random.split(start_key, SAMPLED_STARTS)
        start = jax.vmap(env.reset)(keys[:LANES])
        return jax.vmap(lambda k: env.reset(k)[1])(keys), *jax.lax.scan(step, start, jnp.arange(steps))[1]

    return Trajectory(*jax.tree.map(np.asarray, whole()))


def _check_numbers(spec: EnvSpec, trajectory: Trajectory) -> None:
    """Checks that numbers are finite, and that transitions contain the given observation and action."""
    transition = trajectory.transition
    for name, values in (("obs", trajectory.starts), ("reward", transition.reward), ("next_obs", transition.next_obs)):
        if not np.isfinite(values).all():
            _refuse(
                spec, f"returns {values[~np.isfinite(values)][0]} as {name}", "give finite numbers for all actions in [-1, 1]"
            )
    if not np.array_equal(transition.obs, trajectory.acted_on):
        _refuse(
            spec, "returns a transition.obs that differs from the obs passed to step", "be the observation that was acted on"
        )
    if not np.allclose(transition.action, trajectory.action, atol=1e-6):
        _refuse(
            spec,
            "returns a transition.action that differs from the action passed to step",
            "be that action, in [-1, 1], not in other units",
        )


def _check_ends(spec: EnvSpec, trajectory: Trajectory) -> None:
    """Checks that terminations have discount 0, and truncations at the time limit discount 1."""
    last, discount = np.asarray(trajectory.transition.last), np.asarray(trajectory.transition.discount)
    limit = spec.max_steps or MOST_STEPS
    if not np.isin(discount, (0.0, 1.0)).all():
        _refuse(
            spec, f"returns discount={discount[(discount != 0) & (discount != 1)][0]:g}", "be 0 where it terminated, else 1"
        )
    if not last[discount == 0.0].all():
        _refuse(spec, "returns discount=0 where last is False", "set last to True where it terminated")
    lengths = [np.diff(np.flatnonzero(lane), prepend=-1) for lane in last.T]
    ends = np.concatenate([discount[lane, n] for n, lane in enumerate(last.T)])
    length = np.concatenate(lengths)
    if (length > limit).any() or (len(last) > limit and not last[:limit].any(axis=0).all()):
        _refuse(spec, f"continues after max_steps={limit}", f"set last at step {limit} of an episode, with discount 1")
    early = length[(ends == 1.0) & (length < limit)]
    if early.size:
        fault = f"is truncated after {early[0]} steps (last with discount 1) with max_steps={limit}"
        _refuse(spec, fault, "have discount 0 if that is a termination, or set max_steps to the limit")
    at_limit = ends[length == limit]
    if limit > 1 and at_limit.size > 1 and not at_limit.any():
        _refuse(
            spec,
            f"returns discount=0 whenever an episode reaches max_steps={limit}",
            "be 1 there, because a time limit truncates",
        )


def _check_starts(spec: EnvSpec, trajectory: Trajectory) -> None:
    """Checks that the observation to act on is the successor, except after an end, where it is a newly drawn start."""
    last = np.asarray(trajectory.transition.last)
    if not np.allclose(trajectory.obs[~last], np.asarray(trajectory.transition.next_obs)[~last], rtol=1e-4, atol=1e-4):
        _refuse(
            spec, "returns an obs that differs from transition.next_obs within an episode", "be the same where last is False"
        )
    if not last.any():
        return
    starts, after, successor = trajectory.starts, trajectory.obs[last], np.asarray(trajectory.transition.next_obs)[last]
    low, high = starts.min(axis=0), starts.max(axis=0)
    slack = (high - low) + 1e-3 + 1e-3 * np.abs(high)  # the sampled starts do not cover the whole range
    if not ((after >= low - slack) & (after <= high + slack)).all():
        _refuse(spec, "returns an obs that is not a start after the end of an episode", "reset itself where last is True")
    if len(np.unique(starts, axis=0)) < SAMPLED_STARTS // 2:
        return  # with few distinct starts, equal ones prove nothing
    if np.array_equal(after, successor):
        _refuse(
            spec, "returns the obs after the reset as transition.next_obs", "be the true successor, the last obs of the episode"
        )
    known = {row.tobytes() for row in trajectory.acted_on[0]}
    if len(after) > 1 and (len(np.unique(after, axis=0)) == 1 or all(row.tobytes() in known for row in after)):
        _refuse(spec, "repeats the start of an earlier episode", "draw a new start from its key after every episode")
