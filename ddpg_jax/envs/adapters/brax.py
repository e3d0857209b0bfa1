"""Adapts Brax environments: `brax/halfcheetah`, or `brax/halfcheetah@spring` for another of its physics backends."""

from __future__ import annotations

from typing import Any

from ddpg_jax.envs.adapters.physics import physics_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Env

PREFIX = "brax/"
BACKENDS = ("generalized", "positional", "spring", "mjx")
MAX_STEPS = 1_000
"""Time limit that Brax itself uses in training; its environments have none of their own."""


def names() -> list[str]:
    """Lists the environments. They use Brax's default physics (generalized); a suffix `@BACKEND` selects another."""
    return [PREFIX + name for name in _library()._envs if name != "fast"]  # "fast" exists for Brax's own tests


def make(name: str) -> Env:
    """Makes the environment `brax/NAME` or `brax/NAME@BACKEND`, truncated after 1,000 steps.

    It is stepped without Brax's wrappers, because their auto-reset returns to the same start every time and drops the last
    observation of an episode.

    Raises:
        KeyError: there is no environment of this name.
        ConfigError: the backend is unknown, or this environment does not run on it.
    """
    envs = _library()
    own, at, backend = name.removeprefix(PREFIX).partition("@")
    if own not in envs._envs:
        raise KeyError(name)
    if at and backend not in BACKENDS:
        raise ConfigError(f"env={name} is not known; it must end in @{', @'.join(BACKENDS)} or be {PREFIX}{own}")
    physics = {"backend": backend} if at else {}
    return physics_env(name, lambda: envs.get_environment(own, **physics), MAX_STEPS, observe=lambda state: state.obs)


def _library() -> Any:
    import brax.envs

    return brax.envs
