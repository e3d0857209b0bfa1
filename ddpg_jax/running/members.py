"""Defines the members of a program: their seeds and hyperparameters, and how these change while a run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.errors import ConfigError
from ddpg_jax.running.placement import Placement
from ddpg_jax.running.seats import Call
from ddpg_jax.types import Hyperparams


class Member(NamedTuple):
    """One training run: its seed and its hyperparameters."""

    seed: int
    hyper: Hyperparams
    number: int = 0
    """Index among all members of a sweep."""
    swept: tuple[tuple[str, Any], ...] = ()
    """The fields that the sweep varies, with this member's values."""


def index_of(members: Sequence[Member]) -> dict[int, int]:
    """Maps the numbers of members to their indices."""
    return {member.number: m for m, member in enumerate(members)}


def stack_members(members: list[Member], placement: Placement) -> tuple[jax.Array, Hyperparams]:
    """Stacks the keys `[M]` and the hyperparameters `[M]` of the members, padded with copies of the last one."""
    padded = members + members[-1:] * (placement.slots - len(members))
    hypers = Hyperparams(*np.array([member.hyper for member in padded], np.float32).T)
    if placement.single:
        return placement.put((jax.random.key(padded[0].seed), jax.tree.map(lambda x: x[0], hypers)))
    return placement.put((jax.vmap(jax.random.key)(np.array([member.seed for member in padded], np.uint32)), hypers))


def inputs_of(members: list[Member], call: Call) -> tuple[jax.Array, Hyperparams]:
    """Stacks the keys and the hyperparameters of the members in a call; padding is copies of the last one."""
    last = len(members) - 1
    return stack_members([members[min(slot, last)] for slot in call.slots], call.placement)


class Change(NamedTuple):
    """What a member takes over at a step: the state of another member, and hyperparameters."""

    step: int
    """The step from which the change holds."""
    member: int
    """The number of the member."""
    parent: int
    """The number of the member whose state it takes over; its own if it goes on from where it is."""
    values: Mapping[str, float]
    """The hyperparameters that it has from here on, by name. Those that are missing stay as they are."""
    replay: str = "copy"
    """`copy` if it takes over everything, or `keep` if it keeps its replay and goes on in its own environments."""


def changed(member: Member, values: Mapping[str, float]) -> Member:
    """Returns a member with other hyperparameters, which its swept fields show."""
    swept = tuple((name, values.get(name, value)) for name, value in member.swept)
    return member._replace(hyper=member.hyper._replace(**values), swept=swept)


FROM_THE_START = ("value_min", "value_max", "priority_alpha")
"""Numbers that a member keeps: the atoms of its critic and the priorities in its replay have been made with them."""


def check_can_change(names: Iterable[str], where: str) -> None:
    """Checks that these hyperparameters can change while a run goes on.

    Args:
        names: of the fields.
        where: what changes them, for the message.

    Raises:
        ConfigError: one of them cannot.
    """
    fixed = next((name for name in names if name in FROM_THE_START), None)
    if fixed is not None:
        raise ConfigError(f"{fixed} cannot be in a {where}, since a run keeps the value that it began with; sweep it instead")


class Stage(NamedTuple):
    """The values that are in force from a step on."""

    step: int
    values: Mapping[str, float]
    member: int = 0
    """Who had them."""


def ancestry(changes: Sequence[Change], member: int) -> list[Stage]:
    """Returns the values that were in force on the way to a member's last state, in the order of their steps.

    Args:
        changes: of a whole population, in the order of their steps, with the beginnings.
        member: whose state it is.

    >>> changes = [Change(0, 0, 0, {"tau": 0.1}), Change(0, 1, 1, {"tau": 0.2}), Change(500, 1, 0, {"tau": 0.08})]
    >>> [(stage.step, stage.member, stage.values["tau"]) for stage in ancestry(changes, 1)]
    [(0, 0, 0.1), (500, 1, 0.08)]
    """
    stages: list[Stage] = []
    for change in reversed(changes):
        if change.member == member:
            stages.append(Stage(change.step, dict(change.values), member))
            member = change.parent
    return stages[::-1]
