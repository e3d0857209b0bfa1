"""The dm_control suite of MuJoCo Playground as an `Env`: `playground/CheetahRun`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddpg_jax.envs.adapters.physics import physics_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array, Env

PREFIX = "playground/"


def names() -> list[str]:
    """The tasks of the dm_control suite."""
    return [PREFIX + name for name in _library().dm_control_suite.ALL_ENVS]


def make(name: str) -> Env:
    """The task `playground/NAME`, truncated at the length of an episode that its configuration says.

    It is stepped without the wrappers of Playground, whose auto-reset goes back to the same start every time and drops the last
    observation of an episode. The physics is MuJoCo XLA. Of observations in parts, `state` is taken.

    Raises:
        KeyError: there is none of this name.
        ConfigError: a task that is not of the dm_control suite, or one that cannot be made.
    """
    library, own = _library(), name.removeprefix(PREFIX)
    suite = library.dm_control_suite
    if own not in suite.ALL_ENVS:
        if own in library.registry.ALL_ENVS:  # asked of the list alone: to load it would download its robot
            raise ConfigError(
                f"env={name} is not of the dm_control suite; it must be, since other tasks download assets when they are made"
            )
        raise KeyError(name)

    def load() -> Any:
        return suite.load(own, config_overrides={"impl": "jax"})  # its default, warp, is slow on a CPU

    return physics_env(name, load, suite.get_default_config(own).episode_length, _vector)


def _library() -> Any:
    import mujoco_playground

    return mujoco_playground


def _vector(state: Any) -> Array:
    return state.obs["state"] if isinstance(state.obs, Mapping) else state.obs
