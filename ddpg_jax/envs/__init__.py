"""Environments: names, and one adapter a file. Third parties are imported only when one of theirs is asked for."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable

from ddpg_jax.envs import functional
from ddpg_jax.envs.device import make_env
from ddpg_jax.envs.functional import from_functional
from ddpg_jax.envs.goals import point_reach
from ddpg_jax.envs.mountain_car import mountain_car
from ddpg_jax.envs.probes import PROBES
from ddpg_jax.types import ConfigError, Env

__all__ = ["DEVICE", "from_functional", "make_device", "make_env", "nearest", "on_device"]

DEVICE: dict[str, Callable[..., Env]] = {
    "Pendulum-v1": functional.pendulum,
    "MountainCarContinuous-v0": mountain_car,
    "point-reach": point_reach,
    **PROBES,
}
"""Environments written in JAX, by name; the parameters of the functions are the keyword arguments that they take."""


def on_device(backend: str, name: str) -> bool:
    """Whether an environment of this name is compiled into the program, for a backend of device, host or auto."""
    return backend == "device" or (backend == "auto" and name in DEVICE)


@functools.cache
def make_device(name: str) -> Env:
    """The environment of this name written in JAX.

    Raises:
        ConfigError: there is none.
    """
    if name not in DEVICE:
        raise ConfigError(f"env={name} is not written in JAX; with backend=device there are {', '.join(DEVICE)}")
    return DEVICE[name]()


def nearest(word: str, words: list[str]) -> str:
    """`word`'s neighbours among `words` as the end of a sentence; all of them if they are few."""
    lowered = {w.lower(): w for w in words}
    close = [lowered[w] for w in difflib.get_close_matches(word.lower(), list(lowered), n=3, cutoff=0.5)]
    if close:
        return "nearest are " + ", ".join(close)
    return "allowed are " + ", ".join(sorted(words)) if len(words) <= 40 else "none is near"
