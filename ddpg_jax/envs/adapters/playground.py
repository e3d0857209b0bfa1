"""Adapts the dm_control suite of MuJoCo Playground: `playground/CheetahRun`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddpg_jax.envs.adapters.physics import physics_env
from ddpg_jax.errors import ConfigError
from ddpg_jax.types import Array, Env

PREFIX = "playground/"


def names() -> list[str]:
    """Lists the tasks of the dm_control suite."""
    return [PREFIX + name for name in _library().dm_control_suite.ALL_ENVS]


def make(name: str) -> Env:
    """Makes the task `playground/NAME`, truncated at the episode length in its configuration.

    It is stepped without Playground's wrappers, because their auto-reset returns to the same start every time and drops the
    last observation of an episode. The physics is MuJoCo XLA. If the observation is a dict, its entry `state` is used.

    Raises:
        KeyError: there is no task of this name.
        ConfigError: the task is not in the dm_control suite, or it cannot be made.
    """
    library, own = _library(), name.removeprefix(PREFIX)
    suite = library.dm_control_suite
    if own not in suite.ALL_ENVS:
        if own in library.registry.ALL_ENVS:  # only looked up by name: loading it would download its robot
            raise ConfigError(
                f"env={name} is not in the dm_control suite; it must be, because other tasks download assets when they are made"
            )
        raise KeyError(name)

    def load() -> Any:
        return suite.load(own, config_overrides={"impl": "jax"})  # the default, warp, is slow on a CPU

    return physics_env(name, load, suite.get_default_config(own).episode_length, observe=_vector)


def _library() -> Any:
    import mujoco_playground

    return mujoco_playground


def _vector(state: Any) -> Array:
    return state.obs["state"] if isinstance(state.obs, Mapping) else state.obs
