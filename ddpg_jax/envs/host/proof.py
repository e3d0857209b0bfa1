"""Shows, before a run, whether an environment that is restored from a snapshot goes on as the saved one does.

State behind a handle, in a global variable or in another process is not in a snapshot, and a number that stands for it pickles
without an error. A run that was resumed with it would join an observation to the state of another world.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.envs.host.snapshots import attributes_kept, restore, snapshot

SEEDS = (0, 1)
"""Seeds of the two copies, which must differ so that they are in different states before one is restored."""


def goes_on_after_restore(saved: Lane, other: Lane, *, actions: np.ndarray) -> bool:
    """Returns True if the second copy, restored from a snapshot of the first, takes the same steps, bit by bit.

    Whatever goes wrong counts as False. The copies keep what they hold, but not the state that it is in: reset them.

    Args:
        saved: an idle copy.
        other: another one.
        actions: `[steps, *action_shape]`; all but the first are compared.
    """
    try:
        saved.reset(SEEDS[0])
        saved.step(actions[0])
        text = snapshot([saved.env])
        if text is None:
            return False
        expected = _play(saved, actions[1:])
        other.reset(SEEDS[1])
        other.step(actions[-1])
        with attributes_kept(other.env):
            restore([other.env], text)
            return _play(other, actions[1:]) == expected
    except Exception:
        return False


def _play(lane: Lane, actions: np.ndarray) -> list[Any]:
    """Takes steps as training does, and returns all that they gave."""
    told: list[Any] = []
    for action in actions:
        step = lane.step(action)
        told += [step, lane.obs.tobytes()]
        if step[2]:
            told.append(lane.reset().tobytes())
    return told
