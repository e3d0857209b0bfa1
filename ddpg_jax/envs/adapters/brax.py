"""Brax's environments as an `Env`: `brax/halfcheetah`, or `brax/halfcheetah@spring` for another of its physics backends."""

from __future__ import annotations

from typing import Any

from ddpg_jax.envs.adapters.physics import physics_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Env

PREFIX = "brax/"
BACKENDS = ("generalized", "positional", "spring", "mjx")
MAX_STEPS = 1_000
"""The limit that brax itself puts on an episode while training; its environments have none of their own."""


def names() -> list[str]:
    """The environments, with the physics that brax takes by default (generalized); `@BACKEND` behind a name takes another."""
    return [PREFIX + name for name in _library()._envs if name != "fast"]  # which only tests brax itself


def make(name: str) -> Env:
    """The environment `brax/NAME` or `brax/NAME@BACKEND`, truncated after 1,000 steps.

    It is stepped without brax's wrappers, whose auto-reset goes back to the same start every time and drops the last
    observation of an episode.

    Raises:
        KeyError: there is none of this name.
        ConfigError: a backend that is not known, or that this environment does not run on.
    """
    envs = _library()
    own, at, backend = name.removeprefix(PREFIX).partition("@")
    if own not in envs._envs:
        raise KeyError(name)
    if at and backend not in BACKENDS:
        raise ConfigError(f"env={name} is not known; it must end in @{', @'.join(BACKENDS)} or be {PREFIX}{own}")
    physics = {"backend": backend} if at else {}
    return physics_env(name, lambda: envs.get_environment(own, **physics), MAX_STEPS, lambda state: state.obs)


def _library() -> Any:
    import brax.envs

    return brax.envs
