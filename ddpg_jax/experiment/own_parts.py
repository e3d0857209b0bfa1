"""Makes the parts that an experiment names, and looks at those that are not the package's own before they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import Agent, Explorer, Hyperparams, Replay, Transition

T = TypeVar("T")


def make_part(field: str, name: str, table: Mapping[str, Callable[..., T]], kind: type[T], /, **arguments: Any) -> T:
    """Makes a registered part; its function gets the arguments by their names.

    Raises:
        ConfigError: its function cannot be called so, fails, or makes something else.
    """
    try:
        part = table[name](**arguments)
    except Exception as error:
        raise ConfigError(
            f"{field}={name} cannot be made: {one_line(error)}; it is called with {', '.join(arguments)}"
        ) from error
    if not isinstance(part, kind):
        raise ConfigError(f"{field}={name} makes a {type(part).__name__}; it must make a dj.{kind.__name__}")
    return part


def is_own(part: Any) -> bool:
    """Returns whether a function is the user's own."""
    return not str(getattr(part, "__module__", "")).startswith("ddpg_jax.")


def check_function(what: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Checks an elementwise function: it must keep the shape and the type of its first argument.

    Raises:
        ConfigError: it does not, or fails.
    """
    found = _traced(what, function, *arguments)
    _same(what, "", found, arguments[0])


def check_explorer(what: str, explorer: Explorer, agent: Agent, *, num_envs: int, obs_dim: int, action_dim: int) -> None:
    """Checks the shapes and types of all that an explorer gives.

    Raises:
        ConfigError: one is wrong, or a function fails.
    """
    key, hyper, t = jax.random.key(0), _numbers(), jnp.int32(0)
    params = jax.eval_shape(agent.init, key, hyper).params.actor
    obs, last = jnp.zeros((num_envs, obs_dim)), jnp.zeros(num_envs, bool)
    noise = _traced(f"{what}: init", lambda params: explorer.init(num_envs, params), params)
    told = _traced(
        f"{what}: explore",
        lambda params, noise: explorer.explore(key, noise, agent.act, params, obs, hyper, t),
        params,
        noise,
    )
    action, after = _pair(f"{what}: explore", told, 2, "(action, noise)")
    _same(f"{what}: explore", "action", action, jnp.zeros((num_envs, action_dim)))
    _same(f"{what}: explore", "noise", after, noise)
    _same(f"{what}: reset", "noise", _traced(f"{what}: reset", explorer.reset, noise, last), noise)


def check_replay(what: str, replay: Replay, *, num_envs: int, batch_size: int, obs_dim: int, action_dim: int) -> None:
    """Checks the shapes and types of all that a replay gives.

    Raises:
        ConfigError: one is wrong, or a function fails.
    """
    key, hyper, t = jax.random.key(0), _numbers(), jnp.int32(0)

    def transition(size: int) -> Transition:
        obs, number = jnp.zeros((size, obs_dim)), jnp.zeros(size)
        return Transition(obs, jnp.zeros((size, action_dim)), number, number, jnp.zeros(size, bool), obs)

    state = _traced(f"{what}: init", replay.init)
    added = _traced(f"{what}: add", replay.add, state, transition(num_envs), jnp.ones(num_envs, bool))
    _same(f"{what}: add", "state", added, state)
    drawn = _traced(f"{what}: sample", replay.sample, key, state, hyper, t)
    batch, weight, index = _pair(f"{what}: sample", drawn, 3, "(batch, weight, index)")
    _same(f"{what}: sample", "batch", batch, transition(batch_size))
    _same(f"{what}: sample", "weight", weight, jnp.zeros(batch_size))
    after = _traced(f"{what}: feedback", replay.feedback, state, index, jnp.zeros(batch_size), hyper)
    _same(f"{what}: feedback", "state", after, state)


def _numbers() -> Hyperparams:
    return Hyperparams(*map(jnp.float32, Hyperparams()))


def _traced(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes and types of what a function gives; nothing is computed."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ConfigError(f"{what} fails: {one_line(error)}") from error


def _pair(what: str, told: Any, count: int, names: str) -> Any:
    if not isinstance(told, tuple) or len(told) != count:
        raise ConfigError(f"{what} gives {type(told).__name__}; it must give {names}")
    return told


def _same(what: str, part: str, found: Any, wanted: Any) -> None:
    """Raises ConfigError where two trees have not the same structure, shapes and types."""
    left, right = (jax.tree.leaves_with_path(tree) for tree in (found, wanted))
    if jax.tree.structure(found) != jax.tree.structure(wanted):
        raise ConfigError(
            f"{what} gives {part or 'a value'} as {jax.tree.structure(found)}; it must be {jax.tree.structure(wanted)}"
        )
    for (path, x), (_, y) in zip(left, right, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            leaf = f"{part}{jax.tree_util.keystr(path)}" or "a value"
            raise ConfigError(f"{what} gives {leaf} as {x.dtype}{list(x.shape)}; it must be {y.dtype}{list(y.shape)}")
