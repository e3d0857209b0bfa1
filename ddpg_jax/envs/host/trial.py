"""Tries an environment before a run: one reset and one step show most of what is wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.envs.host.lanes import RESET, STEP, Lane, layers_of, unpacked
from ddpg_jax.errors import ConfigError, EnvironmentFailure, defined_at

TRIAL_SEED = 2**32 - 2**16
"""Nearly the largest seed that a run may give to a reset; to the largest, environments may want to add something."""


class Spaces(NamedTuple):
    """The spaces that all copies of an environment have, and keep."""

    observation_space: Any
    action_space: Any

    def check(self, env: Any, name: str, when: str) -> None:
        """Checks the spaces of an environment.

        Raises:
            ConfigError: they differ; the message ends with `when`.
        """
        for which, expected in self._asdict().items():
            found = getattr(env, which)
            if type(found) is not type(expected) or found != expected:
                raise ConfigError(f"env={name} has the {which} {expected}, and {found} {when}")


def try_out(lane: Lane, name: str, spaces: Spaces, *, action: np.ndarray) -> None:
    """Resets an environment and takes one step. The trial does not affect a later reset, which has a seed of its own.

    Raises:
        EnvironmentFailure: it raised, or returned what is not allowed.
        ConfigError: its spaces change.
    """
    calls: dict[str, Callable[[], Any]] = {RESET: lambda: lane.reset(TRIAL_SEED), STEP: lambda: lane.step(action)}
    for call, run in calls.items():
        try:
            run()
        except EnvironmentFailure as failure:
            told = _explain(lane, failure, call, action=action)
            raise EnvironmentFailure(f"env={name} {told} in a trial of its first {call}") from failure.__cause__
        spaces.check(lane.env, name, f"after a {call}; it must keep its spaces")


def _explain(lane: Lane, failure: EnvironmentFailure, call: str, *, action: np.ndarray) -> str:
    """Says what is wrong, and where the method at fault is defined if the error passed through no line of it."""
    layers, error = layers_of(lane.env), failure.__cause__
    method = getattr(type(layers[-1]), call)
    if error is None:
        return f"{failure}{defined_at(method)}"
    if call == RESET and (isinstance(error, OverflowError) or (isinstance(error, ValueError) and "seed" in str(error).lower())):
        return f"{failure}; reset must take seeds of 32 bits, such as {TRIAL_SEED}{defined_at(method)}"
    if call == RESET and isinstance(error, TypeError) and "'seed'" in str(error):
        return f"does not take the seed of reset; it must have reset(*, seed=None, options=None){defined_at(method)}"
    if isinstance(error, ValueError | TypeError) and "unpack" in str(error):  # a wrapper took apart what a layer gave
        for layer in reversed(layers):
            with contextlib.suppress(ValueError, TypeError):
                result = layer.reset() if call == RESET else layer.step(action)
                try:
                    unpacked(result, call)
                except EnvironmentFailure as wrong:
                    return f"{wrong}{defined_at(getattr(type(layer), call))}"
    return str(failure)
