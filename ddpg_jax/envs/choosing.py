"""Chooses between the JAX and the Gymnasium environment of a name, given its options."""

from __future__ import annotations

import json

from ddpg_jax.envs.host.make import check_time_limit, import_modules, parameters_of
from ddpg_jax.envs.registry import DEVICE, in_jax, made, make_device, on_device
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import NO_OPTIONS, Env, EnvOptions


def device_env(backend: str, name: str, options: EnvOptions = NO_OPTIONS) -> Env | None:
    """Returns the environment to compile into the program, or None if the run steps Gymnasium's on the host.

    With `backend=auto` it also returns None if Gymnasium has an environment of this name and the one written in JAX does not
    support the given wrappers or keyword arguments.

    Raises:
        ConfigError: a module cannot be imported, there is no environment of this name, or it does not take the options.

    >>> from ddpg_jax.types import EnvOptions
    >>> device_env("auto", "Pendulum-v1", EnvOptions(env_kwargs='{"g": 9.0}')) is None
    True
    """
    import_modules(options.imports)
    if not on_device(backend, name):
        return None
    keywords = json.loads(options.env_kwargs)
    named, others = parameters_of(DEVICE[name]) if name in DEVICE else ([], False)
    taken = [p.name for p in named]
    fits = (others or keywords.keys() <= set(taken)) and not options.wrappers
    if not fits and backend == "auto" and _gymnasium_has(name):
        return None
    if options.wrappers and in_jax(name):
        raise ConfigError(
            f"wrappers={','.join(options.wrappers)} is not allowed with env={name} on the device; it must be empty, because "
            "wrappers apply to environments on the host"
        )
    if keywords and fits:
        check_time_limit(name, keywords)
        return made(DEVICE[name], name, options.env_kwargs)
    env = make_device(name)
    if not fits:
        allowed = f"may contain only {', '.join(taken)}" if taken else "must be empty"
        raise ConfigError(f"env_kwargs={options.env_kwargs} is not allowed with env={name} on the device; it {allowed}")
    return env


def _gymnasium_has(name: str) -> bool:
    import gymnasium

    return name in gymnasium.registry
