"""Gymnasium vector environments, which step on the host's processor, made to tell the truth about successors.

Whatever the autoreset mode, `HostEnv.step` gives the transitions that really happened, with the last observation of an
episode as the successor of its last step, and apart from them the observations to act on next.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.envs import snapshots
from ddpg_jax.envs.goals import goal_on_host
from ddpg_jax.envs.naming import maker
from ddpg_jax.envs.spaces import flatten_goals, has_goals, join_goals, spec_of, to_native
from ddpg_jax.types import NO_OPTIONS, ConfigError, EnvironmentFailure, EnvOptions, EnvSpec, said


class HostStep(NamedTuple):
    """What one step of a `HostEnv` gave; float32 and bool arrays of NumPy."""

    reward: np.ndarray
    """`[N]`"""
    terminated: np.ndarray
    """`[N]` bool"""
    last: np.ndarray
    """`[N]` bool, terminated or truncated"""
    next_obs: np.ndarray
    """`[N, O]`, the true successors"""
    obs: np.ndarray
    """`[N, O]`, what to act on next: after a reset where an episode has ended"""
    valid: np.ndarray
    """`[N]` bool; False where the environment only reset itself and nothing happened (NEXT_STEP)"""


class HostEnv:
    """A `gymnasium.vector.VectorEnv` in the units of the agent: flat float32 observations, actions in [-1, 1].

    Observations with goals, Dict of `observation`, `achieved_goal` and `desired_goal`, are put end to end in this order.
    """

    def __init__(self, vector_env: Any, name: str, reward_threshold: float | None = None):
        from gymnasium.vector import AutoresetMode

        self.vector_env = vector_env
        self.num_envs: int = vector_env.num_envs
        limit = _time_limit(vector_env)
        space = vector_env.single_observation_space
        self._has_goals = has_goals(space)
        self.spec: EnvSpec = spec_of(
            name,
            flatten_goals(space) if self._has_goals else space,
            vector_env.single_action_space,
            limit,
            reward_threshold,
        )
        if self._has_goals:
            self.spec = self.spec._replace(goal=goal_on_host(vector_env))
        modes = AutoresetMode
        self._mode = modes(vector_env.metadata.get("autoreset_mode", modes.NEXT_STEP))
        self._next_step, self._same_step = self._mode is modes.NEXT_STEP, self._mode is modes.SAME_STEP
        self._low = np.asarray(self.spec.action_low)
        self._high = np.asarray(self.spec.action_high)
        self._action_dtype = vector_env.single_action_space.dtype
        self._resting = np.zeros(self.num_envs, bool)  # NEXT_STEP: its next step will only reset it

    def reset(self, seeds: list[int]) -> np.ndarray:
        """Starts all episodes anew; `[N, O]`. `seeds` has one number for each environment.

        Raises:
            EnvironmentFailure: as `step`.
        """
        self._resting[:] = False
        obs, _ = self._ask(self.vector_env.reset, seed=seeds)
        return _finite("observation", self._flat(obs))

    def native(self, action: np.ndarray) -> np.ndarray:
        """Actions `[N, A]` in [-1, 1] in the environment's own shape, units and type."""
        scaled = to_native(np.asarray(action, np.float64), self._low, self._high)
        return scaled.astype(self._action_dtype).reshape(-1, *self.spec.action_shape)

    def step(self, action: np.ndarray) -> HostStep:
        """Steps all environments with actions `[N, A]` in [-1, 1].

        Raises:
            EnvironmentFailure: the environment raised, gave a number that is not finite, or changed its shapes.
        """
        obs, reward, terminated, truncated, info = self._ask(self.vector_env.step, self.native(action))
        valid = ~self._resting
        next_obs = self._flat(obs)
        ended = (terminated | truncated) & valid
        if self._same_step:
            obs, next_obs = next_obs, next_obs.copy()
            for n in np.flatnonzero(ended):
                next_obs[n] = self._flat(_alone(info["final_obs"][n]))[0]
        elif self._next_step:
            obs = next_obs
            self._resting = ended
        else:
            obs = next_obs
            if ended.any():
                fresh, _ = self._ask(self.vector_env.reset, options={"reset_mask": ended})
                obs = np.where(ended[:, None], self._flat(fresh), next_obs)
        reward = _finite("reward", np.asarray(reward, np.float32))
        next_obs, obs = _finite("observation", next_obs), _finite("observation", obs)
        return HostStep(reward, terminated & valid, ended, next_obs, obs, valid)

    def _ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Whatever an environment raises, as an `EnvironmentFailure`."""
        try:
            return call(*arguments, **options)
        except EnvironmentFailure:
            raise
        except (Exception, SystemExit) as error:
            raise EnvironmentFailure(f"raised {said(error)}") from error

    def close(self) -> None:
        """Closes the environments; what they raise then is nothing that anybody waits for."""
        with contextlib.suppress(Exception):
            self.vector_env.close()

    def snapshot(self) -> str | None:
        """The whole state of the environments as text, or None where they do not let themselves be written."""
        known = self._same_step and hasattr(self.vector_env, "envs")
        return snapshots.snapshot(self.vector_env.envs) if known else None

    def restore(self, snapshot: str) -> None:
        """Puts back what `snapshot` gave. It unpickles: only for checkpoints of one's own runs.

        Raises:
            EnvironmentFailure: the environment is not as it was, another version of it perhaps.
        """
        snapshots.restore(self.vector_env.envs, snapshot)

    def _flat(self, obs: Any) -> np.ndarray:
        obs = join_goals(obs) if self._has_goals else np.asarray(obs)
        _check_shape(obs.shape[1:], self.spec.obs_shape)
        return obs.reshape(obs.shape[0], -1).astype(np.float32)


def vectorize(make: Any, name: str, count: int, reward_threshold: float | None = None) -> HostEnv:
    """`count` environments that `make()` makes, stepped one after the other in this process.

    Raises:
        ConfigError: no function, one that fails or does not make an environment, or spaces that DDPG cannot work with.
    """
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    if isinstance(make, gymnasium.Env):
        raise ConfigError(
            f"env={name} is one environment; it must be a function that makes it, such as lambda: gymnasium.make(...), since "
            "several run side by side"
        )
    if not callable(make):
        raise ConfigError(f"env={make} is not allowed; it must be a name, an Env written in JAX, or a function that makes one")

    def made() -> Any:
        try:
            env: Any = make()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"env={name} cannot be made: {said(error)}") from error
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(f"env={name} makes a {type(env).__name__}; it must make a gymnasium.Env")
        for space in ("observation_space", "action_space"):
            if not isinstance(getattr(env, space, None), gymnasium.Space):
                raise ConfigError(f"env={name} has no {space}; it must be one of gymnasium.spaces")
        return _truthful()(env)

    return HostEnv(SyncVectorEnv([made] * count, autoreset_mode=AutoresetMode.SAME_STEP), name, reward_threshold)  # pyright: ignore


@functools.cache
def _truthful() -> Any:
    """A Gymnasium wrapper, defined when Gymnasium is there, for what a vector of environments does not ask itself."""
    from gymnasium import Wrapper

    class Truthful(Wrapper):
        """Observations are copies: the last of an episode is handed on while the environment resets, and some write into it.

        There are no infos: nobody reads them, those of several environments must have the same shapes, and one that is called
        `final_obs` would take the place of the last observation.
        """

        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            obs, _ = _several(self.env.reset(**options), "reset", "obs, info")
            return self._checked(obs), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            told = _several(self.env.step(action), "step", "obs, reward, terminated, truncated, info")
            obs, reward, terminated, truncated, _ = told
            reward = np.asarray(reward)
            if reward.dtype == object:
                raise EnvironmentFailure(f"gave {reward} as reward; it must be a number")
            if reward.size != 1:
                raise EnvironmentFailure(f"gave a reward of shape {reward.shape}; it must be one number")
            return self._checked(obs), reward.item(), bool(terminated), bool(truncated), {}

        def _checked(self, obs: Any) -> Any:
            if not isinstance(obs, dict):
                _check_shape(np.shape(obs), self.env.observation_space.shape)
            return copy.deepcopy(obs)

    return Truthful


def make_host(name: str, num_envs: int, options: EnvOptions = NO_OPTIONS) -> HostEnv:
    """`num_envs` copies of a registered Gymnasium environment, stepped one after the other in this process.

    Raises:
        ConfigError: no environment of that name, a missing extra, options that it does not take, or spaces that DDPG cannot
            work with.
    """
    import gymnasium

    make = maker(name, options)
    return vectorize(make, name, num_envs, gymnasium.spec(name.rpartition(":")[2]).reward_threshold)


def _alone(obs: Any) -> Any:
    """One observation as a batch of one."""
    return {part: np.asarray(value)[None] for part, value in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]


def _time_limit(vector_env: Any) -> int | None:
    spec = getattr(vector_env, "spec", None) or getattr(getattr(vector_env, "envs", [None])[0], "spec", None)
    return getattr(spec, "max_episode_steps", None)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    if shape != expected:
        raise EnvironmentFailure(f"gave an observation of shape {shape}; its space says {expected}")


def _several(told: Any, call: str, names: str) -> Any:
    """What an environment gives, if it is as much as Gymnasium's do."""
    if not isinstance(told, tuple | list) or len(told) != names.count(",") + 1:
        found = f"{len(told)} values" if isinstance(told, tuple | list) else f"a {type(told).__name__}"
        raise EnvironmentFailure(f"gave {found} from {call}; it must give {names}")
    return told


def _finite(what: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise EnvironmentFailure(f"gave {values[~np.isfinite(values)][0]} as {what}")
    return values
