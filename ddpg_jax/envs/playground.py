"""The dm_control suite of MuJoCo Playground as an `Env`: `playground/CheetahRun`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ddpg_jax.envs.device import make_env
from ddpg_jax.envs.spaces import unit_spec
from ddpg_jax.types import Array, ConfigError, Env, Key

PREFIX = "playground/"


def names() -> list[str]:
    """The tasks of the dm_control suite."""
    from mujoco_playground import dm_control_suite

    return [PREFIX + name for name in dm_control_suite.ALL_ENVS]


def make(name: str) -> Env:
    """The task `playground/NAME`, truncated at the length of an episode that its configuration says.

    It is stepped without the wrappers of Playground, whose auto-reset goes back to the same start every time and drops the last
    observation of an episode. The physics is MuJoCo XLA. Of observations in parts, `state` is taken.

    Raises:
        KeyError: there is none of this name.
        ConfigError: a task that is not of the dm_control suite, or one that cannot be made.
    """
    from mujoco_playground import dm_control_suite, registry

    own = name.removeprefix(PREFIX)
    if own not in dm_control_suite.ALL_ENVS:
        if own in registry.ALL_ENVS:  # asked of the list alone: to load it would download its robot
            raise ConfigError(
                f"env={name} is not of the dm_control suite; it must be, since other tasks download assets when they are made"
            )
        raise KeyError(name)
    try:
        limit = dm_control_suite.get_default_config(own).episode_length
        env = dm_control_suite.load(own, config_overrides={"impl": "jax"})  # its default, warp, is slow on a CPU
        shape = jax.eval_shape(lambda key: _vector(env.reset(key).obs), jax.random.PRNGKey(0)).shape
    except Exception as error:  # a version of MuJoCo that it does not know
        raise ConfigError(f"env={name} cannot be made: {' '.join(str(error).split())}") from error
    spec = unit_spec(name, shape, env.action_size, limit)

    def start(key: Key) -> Any:
        return env.reset(jax.random.key_data(key))  # of the old type: tasks keep it in their state

    def advance(key: Key, state: Any, action: Array) -> tuple[Any, Array, Array]:
        del key
        after = env.step(state, action)
        return after, after.reward, after.done > 0

    return make_env(spec, start, advance, lambda state: _vector(state.obs))


def _vector(obs: Array | Mapping[str, Array]) -> Array:
    return obs["state"] if isinstance(obs, Mapping) else obs
