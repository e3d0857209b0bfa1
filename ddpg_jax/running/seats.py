"""Seats the members of a program in its compiled calls, and seats them again once some of them have stopped.

A slot is a member or padding. Mapped members take turns, one for each device in a call: those that go on move together into
full calls, and calls of members that have all stopped are no longer made. Vmapped members share a call: those that go on move
into the first of two calls, which has a power of two of lanes for each device, and the second one is no longer made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpg_jax.running.placement import Placement

CALLS_IN_FLIGHT = 2
"""Upper bound on calls of a program that run at the same time."""


class Call(NamedTuple):
    """One compiled call: the slots that it advances, and where they are."""

    slots: tuple[int, ...]
    placement: Placement


class Seats(NamedTuple):
    """All calls of a program; together they have every slot once."""

    calls: tuple[Call, ...]
    live: int
    """The number of calls that are made, the first ones; the others hold the states of members that have stopped."""

    def find(self, slot: int) -> tuple[int, int]:
        """Returns the call of a slot, and its index there."""
        width = len(self.calls[0].slots)
        if slot // width < len(self.calls) and self.calls[slot // width].slots[slot % width : slot % width + 1] == (slot,):
            return slot // width, slot % width  # nobody has moved
        return next((c, call.slots.index(slot)) for c, call in enumerate(self.calls) if slot in call.slots)


def seat(placement: Placement, stopped: np.ndarray | None = None) -> Seats:
    """Seats all slots; those of stopped members come last.

    Args:
        placement: of all members.
        stopped: `[M]` bool, or None if nobody has stopped.

    >>> from ddpg_jax.running.placement import make_placement
    >>> place = make_placement(2, "map")
    >>> [call.slots for call in seat(place._replace(slots=4), np.array([True, False, True, False])).calls]
    [(1,), (3,), (0,), (2,)]
    """
    call, total = placement.per_call, placement.slots
    if stopped is None or not stopped.any():
        groups = [range(first, first + call.slots) for first in range(0, total, call.slots)]
        return Seats(tuple(Call(tuple(slots), call) for slots in groups), len(groups))
    going_on = np.flatnonzero(~stopped).tolist()
    order = going_on + [slot for slot in range(total) if slot not in set(going_on)]  # padding may go wherever there is room
    if placement.vmapped:
        lanes = len(placement.devices)
        while lanes < len(going_on):
            lanes *= 2
        parts = [order[:lanes], order[lanes:]] if lanes < total else [list(range(total))]
        return Seats(tuple(Call(tuple(own), placement._replace(slots=len(own))) for own in parts), 1)
    groups = [order[first : first + call.slots] for first in range(0, total, call.slots)]
    live = max(1, -(-len(going_on) // call.slots))
    return Seats(tuple(Call(tuple(slots), call) for slots in groups), live)


def move(state: list[Any], old: Seats, new: Seats) -> list[Any]:
    """Moves the states of all slots from their calls to others. Calls that stay as they are keep their arrays."""
    known: dict[Call, Any] = dict(zip(old.calls, state, strict=True))
    places = {slot: (c, k) for c, call in enumerate(old.calls) for k, slot in enumerate(call.slots)}
    moving = {places[slot][0] for call in new.calls if call not in known for slot in call.slots}
    arrays = {c: jax.tree.map(np.asarray, state[c]) for c in moving}

    def of(slot: int) -> Any:
        c, k = places[slot]
        return arrays[c] if old.calls[c].placement.single else jax.tree.map(lambda x: x[k], arrays[c])

    def assembled(call: Call) -> Any:
        if call.placement.single:
            return call.placement.put(jax.tree.map(np.array, of(call.slots[0])))
        return call.placement.put(jax.tree.map(lambda *parts: np.stack(parts), *[of(slot) for slot in call.slots]))

    return [known[call] if call in known else assembled(call) for call in new.calls]


def in_order(columns: list[np.ndarray], seats: Seats) -> np.ndarray:
    """Brings results of the calls into the order of the slots: `[slots of the call, ...]` each -> `[slots, ...]`."""
    given = [column[None] if call.placement.single else column for column, call in zip(columns, seats.calls, strict=True)]
    order = [slot for call in seats.calls for slot in call.slots]
    joined = np.concatenate(given)
    return joined if order == sorted(order) else joined[np.argsort(order)]


def in_turn(run: Callable[[Any], Any], given: list[Any]) -> list[Any]:
    """Calls `run` with each. Devices work on one call while they are given the next; more calls would need more workspace."""
    results = []
    for each in given:
        if len(results) >= CALLS_IN_FLIGHT:
            jax.block_until_ready(results[-CALLS_IN_FLIGHT])
        results.append(run(each))
    return results


def pick(tree: Any, m: int, placement: Placement) -> Any:
    """Selects member m from the result of a function made by `over_members`, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x if placement.single else x[m]), tree)
