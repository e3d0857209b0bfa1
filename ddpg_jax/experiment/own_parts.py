"""Makes the parts that an experiment names, and checks user-defined ones before they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ddpg_jax.agent.heads import Head
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.replay.ring import rings
from ddpg_jax.types import Agent, Array, Explorer, Hyperparams, Replay, Transition

T = TypeVar("T")


def make_part(field: str, name: str, table: Mapping[str, Callable[..., T]], kind: type[T], /, **arguments: Any) -> T:
    """Makes a registered part by calling its function with these keyword arguments.

    Raises:
        ConfigError: the function fails, does not accept the arguments, or does not return a `kind`.
    """
    try:
        part = table[name](**arguments)
    except Exception as error:
        raise ConfigError(
            f"{field}={name} cannot be made: {one_line(error)}; it is called with {', '.join(arguments)}"
        ) from error
    if not isinstance(part, kind):
        raise ConfigError(f"{field}={name} returns a {type(part).__name__}; it must return a dj.{kind.__name__}")
    return part


def is_own(part: Any) -> bool:
    """Returns True if a function is not part of this package."""
    return not str(getattr(part, "__module__", "")).startswith("ddpg_jax.")


def check_function(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Checks that an elementwise function keeps the shape and dtype of its first argument.

    Raises:
        ConfigError: the function does not keep them, or it fails.
    """
    found = _trace(label, function, *arguments)
    _check_same(label, "", found, arguments[0])


def check_head(label: str, head: Head, *, num_critics: int, batch_size: int) -> None:
    """Checks the shapes and dtypes that the functions of a head return.

    Raises:
        ConfigError: one of them is wrong, or a function fails.
    """
    if head.outputs is not None and (not isinstance(head.outputs, int) or head.outputs < 1):
        raise ConfigError(f"{label}: outputs is {head.outputs!r}; it must be None or a whole number of at least 1")
    hyper, scalar, number = _traced_hyper(), jnp.zeros(()), jnp.zeros(batch_size)
    outputs = jnp.zeros((num_critics, batch_size) if head.outputs is None else (num_critics, batch_size, head.outputs))
    support = _trace(f"{label}: init", head.init, hyper)
    if not isinstance(support, dict):
        raise ConfigError(f"{label}: init returns {type(support).__name__}; it must return a dict of arrays")
    _check_same(
        f"{label}: mean",
        "q",
        _trace(f"{label}: mean", head.mean, support, outputs),
        outputs[..., 0] if head.outputs else outputs,
    )
    target = _trace(f"{label}: target", head.target, support, number, number, outputs, hyper)
    shape = getattr(target, "shape", ())
    if shape[:1] != (batch_size,):
        raise ConfigError(f"{label}: target returns {shape}; it must return [B, ...], here ({batch_size}, ...)")

    def loss(support: Any, target: Array) -> Any:
        inputs = jnp.zeros((batch_size, 1)), jnp.zeros((batch_size, 1))
        return head.loss(
            outputs,
            lambda outputs, obs, action: outputs,
            *inputs,
            target,
            number,
            support=support,
            hyper=hyper,
            td_loss=jnp.square,
            penalties=[],
        )

    _check_same(
        f"{label}: loss", "(loss, (td, q_mean))", _trace(f"{label}: loss", loss, support, target), (scalar, (number, scalar))
    )


def check_explorer(label: str, explorer: Explorer, agent: Agent, *, num_envs: int, obs_dim: int, action_dim: int) -> None:
    """Checks the shapes and dtypes that the functions of an explorer return.

    Raises:
        ConfigError: one of them is wrong, or a function fails.
    """
    key, hyper, t_env = jax.random.key(0), _traced_hyper(), jnp.int32(0)
    params = jax.eval_shape(agent.init, key, hyper).params.actor
    obs, last = jnp.zeros((num_envs, obs_dim)), jnp.zeros(num_envs, bool)
    noise = _trace(f"{label}: init", lambda params: explorer.init(num_envs, params), params)
    output = _trace(
        f"{label}: explore",
        lambda params, noise: explorer.explore(key, noise, agent.act, params, obs, hyper, t_env),
        params,
        noise,
    )
    action, after = _check_tuple(f"{label}: explore", output, 2, "(action, noise)")
    _check_same(f"{label}: explore", "action", action, jnp.zeros((num_envs, action_dim)))
    _check_same(f"{label}: explore", "noise", after, noise)
    _check_same(f"{label}: reset", "noise", _trace(f"{label}: reset", explorer.reset, noise, last), noise)


def check_replay(label: str, replay: Replay, *, num_envs: int, batch_size: int, obs_dim: int, action_dim: int) -> None:
    """Checks the shapes and dtypes that the functions of a replay return.

    Raises:
        ConfigError: one of them is wrong, or a function fails.
    """
    key, hyper, t_update = jax.random.key(0), _traced_hyper(), jnp.int32(0)

    def transition(size: int) -> Transition:
        obs, scalar = jnp.zeros((size, obs_dim)), jnp.zeros(size)
        return Transition(obs, jnp.zeros((size, action_dim)), scalar, scalar, jnp.zeros(size, bool), obs)

    state = _trace(f"{label}: init", replay.init)
    if not rings(state):
        raise ConfigError(f"{label}: init returns a state without a dj.ReplayState; it must be one, or a pytree with one")
    added = _trace(f"{label}: add", replay.add, state, transition(num_envs), jnp.ones(num_envs, bool))
    _check_same(f"{label}: add", "state", added, state)
    drawn = _trace(f"{label}: sample", replay.sample, key, state, hyper, t_update)
    batch, weight, index = _check_tuple(f"{label}: sample", drawn, 3, "(batch, weight, index)")
    _check_same(f"{label}: sample", "batch", batch, transition(batch_size))
    _check_same(f"{label}: sample", "weight", weight, jnp.zeros(batch_size))
    after = _trace(f"{label}: feedback", replay.feedback, state, index, jnp.zeros(batch_size), hyper)
    _check_same(f"{label}: feedback", "state", after, state)


def _traced_hyper() -> Hyperparams:
    """Returns the default hyperparameters as they are in a program."""
    return Hyperparams(*map(jnp.float32, Hyperparams()))


def _trace(label: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes and dtypes of what a function returns, without computing it."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ConfigError(f"{label} fails: {one_line(error)}") from error


def _check_tuple(label: str, output: Any, count: int, names: str) -> Any:
    """Returns the output if it is a tuple of `count` values, and otherwise raises ConfigError."""
    if not isinstance(output, tuple) or len(output) != count:
        raise ConfigError(f"{label} returns {type(output).__name__}; it must return {names}")
    return output


def _check_same(label: str, part: str, found: Any, wanted: Any) -> None:
    """Raises ConfigError unless two trees have the same structure, shapes and dtypes."""
    left, right = (jax.tree.leaves_with_path(tree) for tree in (found, wanted))
    if jax.tree.structure(found) != jax.tree.structure(wanted):
        raise ConfigError(
            f"{label} returns {part or 'a value'} as {jax.tree.structure(found)}; it must be {jax.tree.structure(wanted)}"
        )
    for (path, x), (_, y) in zip(left, right, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            leaf = f"{part}{jax.tree_util.keystr(path)}" or "a value"
            raise ConfigError(f"{label} returns {leaf} as {x.dtype}{list(x.shape)}; it must be {y.dtype}{list(y.shape)}")
