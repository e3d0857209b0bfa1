"""Makes the copies of one Gymnasium environment, tries each of them once, and keeps those that wait to be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ddpg_jax.envs.host.lanes import Lane, checked, spec_of_env
from ddpg_jax.envs.host.proof import STEPS, goes_on_after_restore
from ddpg_jax.envs.host.trial import Spaces, try_out
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import EnvSpec


@dataclasses.dataclass
class Pool:
    """Holds the idle copies of one environment, and what is known of all copies."""

    make: Callable[[], Any]
    name: str
    reward_threshold: float | None
    spec: EnvSpec = dataclasses.field(init=False)
    idle: list[Lane] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Makes the first copy, which tells what all must be like.

        Raises:
            ConfigError: it cannot be made, or DDPG does not support its spaces.
        """
        env = self._made()
        try:
            self.spec = spec_of_env(env, self.name, self.reward_threshold)
        except ConfigError:
            env.close()
            raise
        self._spaces = Spaces(env.observation_space, env.action_space)
        self.idle.append(Lane(env, self.spec.obs_shape))
        self._trying = False
        self._goes_on: bool | None = None

    def _made(self) -> Any:
        try:
            env = self.make()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"env={self.name} cannot be made: {one_line(error)}") from error
        try:
            return checked(env, self.name)
        except ConfigError:
            if callable(getattr(env, "close", None)):
                env.close()
            raise

    def _lane(self) -> Lane:
        """Makes another copy, which is tried if the others were.

        Raises:
            ConfigError: it cannot be made, or has other spaces.
            EnvironmentFailure: see `try_out`.
        """
        try:
            lane = Lane(self._made(), self.spec.obs_shape)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; this happened when another copy was made: if only one may exist, set eval_env=shared, and keep "
                "num_envs=1"
            ) from error
        try:
            self._spaces.check(lane.env, self.name, "in another copy; all copies must have the same")
            if self._trying:
                self._try(lane)
        except BaseException:
            lane.close()
            raise
        return lane

    def prepare(self, count: int) -> None:
        """Makes copies until `count` are idle.

        Raises:
            ConfigError: a copy cannot be made, or has other spaces.
        """
        while len(self.idle) < count:
            self.idle.append(self._lane())

    def try_out(self) -> None:
        """Resets and steps each copy that has not been tried. From here on, new copies are tried when they are made.

        Raises:
            EnvironmentFailure: see `try_out`; all idle copies are closed.
            ConfigError: a copy has other spaces after its reset.
        """
        self._trying = True
        try:
            for lane in self.idle:
                self._try(lane)
        except BaseException:
            self.close()
            raise

    def _try(self, lane: Lane) -> None:
        if not lane.tried:
            lane.tried = True
            try_out(lane, self.name, self._spaces, action=self.fixed_actions(1)[0])

    def take(self) -> Lane:
        """Removes and returns an idle copy, or makes a new one."""
        return self.idle.pop(0) if self.idle else self._lane()

    def any(self) -> Any:
        """Returns an environment, to query what is the same for all."""
        self.prepare(1)
        return self.idle[0].env

    def fixed_actions(self, count: int) -> np.ndarray:
        """Returns actions for trials, always the same, in the shape, units and type of the environment."""
        low, high = np.asarray(self.spec.action_low), np.asarray(self.spec.action_high)
        drawn = np.random.default_rng(0).uniform(low, high, (count, self.spec.action_dim))
        return drawn.astype(self.spec.action_dtype).reshape(count, *self.spec.action_shape)

    def goes_on_after_restore(self, *, now: bool) -> bool:
        """Returns True if a copy that is restored from a snapshot was shown to go on as the saved one does.

        It is tested once, with idle copies, and only if `now`: nothing may be restored while copies are in use, because they
        could share something with it.
        """
        if self._goes_on is None and now and self.idle:
            self._goes_on = goes_on_after_restore(self.idle[0], self.idle[:2][-1], actions=self.fixed_actions(STEPS))
        return bool(self._goes_on)

    def give_back(self, lanes: Iterable[Lane]) -> None:
        """Takes copies back that are no longer used."""
        self.idle += lanes

    def close(self) -> None:
        """Closes the idle copies."""
        for lane in self.idle:
            lane.close()
        self.idle.clear()
