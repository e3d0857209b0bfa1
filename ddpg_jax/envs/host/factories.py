"""Makes and caches host environments, by name or by the function that makes them.

The same arguments give the same `Env`, so that the programs compiled with it are reused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

from ddpg_jax.envs.host.callback import host_env
from ddpg_jax.envs.host.make import maker, register
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import NO_OPTIONS, Env, EnvOptions

CACHE_SIZE = 16
"""Number of environments that are cached, of each kind."""


def from_function(make: Any, name: str, order: str = "textbook") -> Env:
    """Makes an `Env` from a user's function that makes environments; the same object for the same (hashable) function.

    Raises:
        ConfigError: `make` is no function, it fails or makes no environment, or DDPG does not support the spaces.
    """
    import gymnasium

    if isinstance(make, gymnasium.Env):
        raise ConfigError(
            f"env={name} is one environment; it must be a function that makes one, such as lambda: gymnasium.make(...), "
            "because several run side by side"
        )
    if not callable(make):
        raise ConfigError(f"env={make} is not allowed; it must be a name, an Env written in JAX, or a function that makes one")
    return _cached(make, name, order) if isinstance(make, Hashable) else host_env(make, name, order=order)


@functools.lru_cache(maxsize=CACHE_SIZE)
def _cached(make: Callable[[], Any], name: str, order: str) -> Env:
    return host_env(make, name, order=order)


class _Same:
    """Makes an object a key that is equal to itself alone."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


def make_host(name: str, options: EnvOptions = NO_OPTIONS, order: str = "textbook") -> Env:
    """Makes an `Env` from a registered Gymnasium environment; the same object for the same arguments and registration.

    Raises:
        ConfigError: there is no environment of this name, its extra is not installed, it does not take the options, or DDPG
            does not support its spaces.
    """
    import gymnasium

    return _registered(_Same(gymnasium.spec(register(name, options.imports))), name, options, order)


@functools.lru_cache(maxsize=CACHE_SIZE)
def _registered(spec: _Same, name: str, options: EnvOptions, order: str) -> Env:
    return host_env(maker(name, options), name, spec.value.reward_threshold, order=order)
