"""Shows, before a run, whether an environment that is restored from a snapshot goes on as the saved one does.

State behind a handle, in a global variable or in another process is not in a snapshot, and a number that stands for it pickles
without an error. A run that was resumed with it would join an observation to the state of another world.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ddpg_jax.envs.host.lanes import Lane
from ddpg_jax.envs.host.snapshots import attributes_kept, restore, snapshot
from ddpg_jax.envs.host.surroundings import surroundings

SEEDS = (0, 1)
"""Seeds of the saved copy and of the other one, which must be in another state before it is restored."""
STEPS = 20
"""Steps that the saved copy takes; all but the first are compared, and then a few more steps of a new episode."""


def goes_on_after_restore(saved: Lane, other: Lane, *, actions: np.ndarray) -> bool:
    """Returns True if the second copy, restored from a snapshot of the first, takes the same steps, bit by bit.

    Returns False if anything fails, or if anything else that their methods can reach changes meanwhile. The copies keep the
    objects that they hold, but not the states of these: reset them.

    Args:
        saved: an idle copy.
        other: another one, or the same where there is only one.
        actions: `[STEPS, *action_shape]`; all but the first are compared.
    """
    try:
        around = surroundings([saved.env])
        saved.reset(SEEDS[0])
        saved.step(actions[0])
        text = snapshot([saved.env])
        if text is None:
            return False
        expected = _play(saved, actions[1:])
        other.reset(SEEDS[1])
        for action in actions[-3:]:  # not as many steps as before, since what counts them outside must differ, too
            other.step(action)
        with attributes_kept(other.env):
            restore([other.env], text)
            return _play(other, actions[1:]) == expected and surroundings([saved.env]) == around
    except Exception:
        return False


def _play(lane: Lane, actions: np.ndarray) -> list[Any]:
    """Takes steps as training does, begins an episode, takes a few more steps, and returns all that they gave."""
    told: list[Any] = []
    for n, action in enumerate([*actions, *actions[:3]]):
        step = lane.step(action)
        told += [step, lane.obs.tobytes()]
        if step[2] or n == len(actions) - 1:
            told.append(lane.reset().tobytes())
    return told
