"""Finds JAX environments by name: those written here, and families from other libraries."""

from __future__ import annotations

import difflib
import functools
import json
import warnings
from collections.abc import Callable
from typing import NamedTuple

from ddpg_jax.envs.adapters import brax, functional, gymnax, playground
from ddpg_jax.envs.extras import EXTRAS, installed, missing
from ddpg_jax.envs.make import as_env
from ddpg_jax.envs.native.mountain_car import mountain_car
from ddpg_jax.envs.native.point_reach import point_reach
from ddpg_jax.envs.native.probes import PROBES
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.registry import Registry
from ddpg_jax.types import Env

DEVICE: Registry[Callable[..., Env]] = Registry(
    "dj.envs.DEVICE",
    {"Pendulum-v1": functional.pendulum, "MountainCarContinuous-v0": mountain_car, "point-reach": point_reach, **PROBES},
)
"""Maps names to functions that make an environment written in JAX. The parameters of a function are the keyword arguments of
its environment; the field `env` can name your own entry."""


class Family(NamedTuple):
    """Describes the JAX environments of another library, whose names begin with `PREFIX/`."""

    names: Callable[[], list[str]]
    """`() -> names`, with the prefix. Imports the library and builds no environment."""
    make: Callable[[str], Env]
    """`(name) -> env`. Raises KeyError if there is no such environment, and ConfigError if it cannot be used."""
    extra: str
    """The extra of this package that installs the library."""


FAMILIES: dict[str, Family] = {
    "gymnax": Family(gymnax.names, gymnax.make, "gymnax"),
    "brax": Family(brax.names, brax.make, "brax"),
    "playground": Family(playground.names, playground.make, "playground"),
}
"""Families by prefix."""


def family_of(name: str) -> Family | None:
    """Returns the family that an environment of this name belongs to, if any."""
    prefix, slash, _ = name.partition("/")
    return FAMILIES.get(prefix) if slash else None


def in_jax(name: str) -> bool:
    """Returns True if an environment of this name is in `DEVICE` or belongs to a family."""
    return name in DEVICE or family_of(name) is not None


def only_in_jax(name: str) -> bool:
    """Returns True if an environment of this name exists in JAX and not in Gymnasium."""
    import gymnasium

    return in_jax(name) and (family_of(name) is not None or name not in gymnasium.registry)


def on_device(backend: str, name: str) -> bool:
    """Returns True if an environment of this name is compiled into the program, given the backend device, host or auto.

    Raises:
        ConfigError: the backend is host, and the environment of this name is only in JAX.
    """
    if backend == "host" and only_in_jax(name):
        raise ConfigError(f"backend=host is not allowed with env={name}; it must be device or auto")
    return backend == "device" or (backend == "auto" and in_jax(name))


def make_device(name: str) -> Env:
    """Makes the JAX environment of this name; the same object for the same name.

    Raises:
        ConfigError: there is no such environment, its extra is not installed, or DDPG cannot be used with it.
    """
    family = family_of(name)
    if family is not None:
        return make_of(family, name)
    if name not in DEVICE:
        raise ConfigError(f"env={name} is not written in JAX; with backend=device it must be one of {', '.join(DEVICE)}")
    return made(DEVICE[name], name)


@functools.cache  # the same object for the same arguments, so that compiled programs are reused
def made(make: Callable[..., Env], name: str, env_kwargs: str = "{}") -> Env:
    """Makes an environment of `DEVICE`, with keyword arguments as JSON.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        env = as_env(make(**json.loads(env_kwargs)))
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"env_kwargs={env_kwargs} is not allowed with env={name}: {one_line(error)}") from error
    except Exception as error:  # a maker of the user's can raise anything
        raise ConfigError(f"env={name} cannot be made: {one_line(error)}") from error
    if not isinstance(env, Env):
        raise ConfigError(
            f"env={name} cannot be made: its entry in DEVICE returns a {type(env).__name__}; it must return an Env"
        )
    return env


@functools.cache
def make_of(family: Family, name: str) -> Env:
    """Makes the environment of this name of a family; the same object for the same name.

    Raises:
        ConfigError: see `make_device`.
    """
    if not installed(EXTRAS[family.extra]):
        raise ConfigError(missing(f"env={name}", family.extra))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the library
            return family.make(name)
    except KeyError as error:
        raise ConfigError(f"env={name} is not known; {nearest(name, family.names())}") from error
    except ConfigError:
        raise
    except Exception as error:  # the library does not support this version of JAX
        raise ConfigError(f"env={name} cannot be made: {one_line(error)}") from error


def nearest(word: str, words: list[str]) -> str:
    """Ends an error message with those of `words` that are near `word`; if none is, with all of them if they are few."""
    lowered = {w.lower(): w for w in words}
    close = [lowered[w] for w in difflib.get_close_matches(word.lower(), list(lowered), n=3, cutoff=0.5)]
    if close:
        return "the nearest are " + ", ".join(close)
    return "it must be one of " + ", ".join(sorted(words)) if len(words) <= 40 else "no known name is similar"
