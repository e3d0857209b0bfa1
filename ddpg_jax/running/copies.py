"""Makes the copies of an environment outside that a program needs, if they fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.running import hardware
from ddpg_jax.types import EnvSpec, Outside


class TooManyCopies(ConfigError):
    """The copies of an environment outside do not fit in memory; those of `members` members would."""

    def __init__(self, line: str, members: int):
        super().__init__(line)
        self.members = members


def prepare(outside: Outside, spec: EnvSpec, experiment: Experiment, *, members: int, slots: int, evaluated: int) -> int:
    """Makes and tries the copies that training and evaluation will use, and returns an estimate of their bytes of memory.

    Args:
        outside: the environment.
        spec: its spec.
        experiment: what they are used for.
        members: the number of members that train.
        slots: this number with the padding that fills all devices.
        evaluated: the number of members that are evaluated at a time.

    Raises:
        TooManyCopies: they do not fit in memory.
        ConfigError: hindsight cannot be used with the environment.
    """
    x = experiment

    def needed(members: int) -> int:
        return outside.copies(members * x.num_envs, evaluations=min(evaluated, members), episodes=x.eval_episodes)

    try:
        return _prepare(outside, spec, x, members=members, count=needed(slots), needed=needed)
    except BaseException:
        outside.close(np.zeros(0))  # there may be one of its kind only, which another run will want
        raise


def _prepare(outside: Outside, spec: EnvSpec, x: Experiment, *, members: int, count: int, needed: Callable[[int], int]) -> int:
    """Makes and tries the copies, and returns the bytes that they take; `needed(members)` is how many so many members need."""
    _measure(outside, count)
    each, free = outside.copy_bytes, int(hardware.free_memory() * hardware.HEADROOM)
    if each * (count - 2) > free:
        fitting = 2 + free // each
        raise TooManyCopies(
            f"env={spec.name} takes {each / 2**20:,.0f} MiB a copy, and only {fitting:,} copies fit in memory, where "
            f"num_envs={x.num_envs}, eval_episodes={x.eval_episodes} and {members} members need {count:,}; lower one of these",
            next((fewer for fewer in reversed(range(1, members)) if needed(fewer) <= fitting), 0),
        )
    outside.prepare(count)
    outside.try_out()
    if x.hindsight != "none" and outside.goal_fault:
        raise ConfigError(f"hindsight={x.hindsight} is not allowed with env={spec.name}: {outside.goal_fault}")
    return each * count


def _measure(outside: Outside, count: int) -> None:
    """Makes and tries two copies, or one if only one is needed, and notes the bytes of memory that the second took."""
    before = 0
    for made in range(1, min(count, 2) + 1):
        before = hardware.resident_memory()
        outside.prepare(made)
        outside.try_out()
    if count > 1:  # later ones may take what earlier ones have left
        outside.copy_bytes = max(outside.copy_bytes, hardware.resident_memory() - before)
