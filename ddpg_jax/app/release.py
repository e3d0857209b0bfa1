"""Lets points that were pruned go on, from the states in which they were stopped: `--resume --prune none`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.app.checkpoints import Checkpoint
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.blocks import Journal
from ddpg_jax.running.groups import Group
from ddpg_jax.running.program import Program
from ddpg_jax.running.stops import Referee


class Released(NamedTuple):
    """Members that were pruned, and what they go on from."""

    group: Group
    arrays: Any
    """Their states, `[members, ...]`."""
    journal: Journal
    begin: int
    """The vector step at which the first of them goes on."""


def release(group: Group, program: Program, state: Any, journal: Journal, referee: Referee) -> Released | None:
    """Takes the members that were pruned out of a program that has finished, and forgets that they were stopped.

    Args:
        group: the members of the program.
        program: the program, of a single process.
        state: its last state.
        journal: its last journal.
        referee: knows who was pruned.
    """
    pruned = [m for m, member in enumerate(group.members) if _reason(referee, member.number) == "prune"]
    if not pruned:
        return None
    stopped = journal.stopped or []
    waiting = [stopped[m] for m in pruned]
    arrays, _ = program.save(state)
    single = program.placement.single  # without an axis of members
    arrays = jax.tree.map(lambda x: x[None] if single else x[np.array(pruned)], arrays)
    for m in pruned:
        del referee.stops[group.members[m].number]
    first = min(waiting)
    later = Journal([], [journal.diverged[m] for m in pruned], first, elapsed=journal.elapsed, waiting=waiting)
    return Released(Group(group.experiment, [group.members[m] for m in pruned]), arrays, later, first)


def _reason(referee: Referee, number: int) -> str:
    stop = referee.stops.get(number)
    return stop.reason if stop else ""


def as_checkpoint(released: Released, k: int, program: Program) -> Checkpoint:
    """Returns what the k-th program, of these members, starts from; environments on the host begin new episodes."""
    count = len(released.group.members)
    padding = program.placement.slots - count
    single = program.placement.single

    def fit(x: np.ndarray) -> np.ndarray:
        return x[0] if single else np.concatenate([x, np.repeat(x[-1:], padding, axis=0)])

    return Checkpoint(k, released.begin, jax.tree.map(fit, released.arrays), None, released.journal)


def check_release(processes: int) -> None:
    """Checks that pruned points can go on here.

    Raises:
        ConfigError: several processes share the run.
    """
    if processes > 1:
        raise ConfigError(
            f"prune=none is not allowed with num_processes={processes}, since pruned points can go on only in a run of one "
            "process; leave it out"
        )
