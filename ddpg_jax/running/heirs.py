"""Lets members of a program take over the states of others, without compiling again each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ddpg_jax.running.members import Change
from ddpg_jax.running.placement import Placement
from ddpg_jax.running.seats import Seats
from ddpg_jax.training.step import fork


class Copying(NamedTuple):
    """Functions that move the state of one member, compiled once for all members of a program."""

    take: Any
    """`(tree [K, ...], lane) -> tree`: the state of one of the members of a call, or a part of it."""
    place: Any
    """`(state [K, ...], state, lane) -> state [K, ...]`: gives a member a copy of a state; the first argument is consumed."""
    place_train: Any
    """The same for the networks and optimizers alone."""


def make_copying(placement: Placement, *, outside: bool) -> Copying:
    """Makes these functions for calls of this placement.

    Args:
        placement: of the members of a call.
        outside: True if the environments live outside the program, where they cannot be copied.
    """

    def take(tree: Any, lane: jax.Array) -> Any:
        return tree if placement.single else jax.tree.map(lambda x: x[lane], tree)

    def placing(join: Callable[[Any, Any], Any]) -> Any:
        def place(state: Any, parent: Any, lane: jax.Array) -> Any:
            if placement.single:
                return join(state, parent)
            own = jax.tree.map(lambda x: x[lane], state)
            return jax.tree.map(lambda x, new: x.at[lane].set(new), state, join(own, parent))

        return jax.jit(place, donate_argnums=0, out_shardings=placement.sharding)

    def whole(own: Any, parent: Any) -> Any:
        return fork(own, parent) if outside else parent

    return Copying(jax.jit(take), placing(whole), placing(lambda own, parent: parent))


Loan: TypeAlias = tuple[int, str]
"""The number of a member whose state others take over, and how much of it: `copy` or `keep`, as in `Change.replay`."""

Exchange: TypeAlias = Callable[[Mapping[Loan, Any], Mapping[Loan, Any]], Mapping[Loan, Any]]
"""`(lent, wanted) -> got`: gives states of this process's members to the other processes, and returns those that it wants.

`wanted` has the shapes; `got` has NumPy arrays for each. All processes call it together, also those that neither lend nor want.
"""


def nothing_to_exchange(lent: Mapping[Loan, Any], wanted: Mapping[Loan, Any]) -> Mapping[Loan, Any]:
    """Exchanges nothing, since all members are in this process."""
    del lent, wanted
    return {}


def hand_over(
    state: list[Any],
    seats: Seats,
    copying: Copying,
    *,
    changes: Sequence[Change],
    index: Mapping[int, int],
    exchange: Exchange,
) -> list[Any]:
    """Returns the state after members have taken over the states of others; the given state is consumed.

    Args:
        state: one entry for each call.
        seats: of the members in the calls.
        copying: for these calls.
        changes: of all processes, in which no member is both replaced and a parent.
        index: the members of this process, by their numbers.
        exchange: brings states from one process to another.
    """

    def find(member: int, replay: str) -> tuple[Any, int, int]:
        """Returns the states of a call, or the networks and optimizers alone, and where the member is."""
        c, k = seats.find(index[member])
        return (state[c] if replay == "copy" else state[c].train), c, k

    def take(member: int, replay: str) -> Any:
        tree, _, k = find(member, replay)
        return copying.take(tree, k)

    lent = {(one.parent, one.replay) for one in changes if one.parent in index and one.member not in index}
    wanted = {(one.parent, one.replay): one.member for one in changes if one.member in index and one.parent not in index}
    parents = {loan: jax.tree.map(np.asarray, take(*loan)) for loan in lent}
    shapes = {loan: jax.eval_shape(lambda m=member, r=loan[1]: take(m, r)) for loan, member in wanted.items()}
    got = exchange(parents, shapes)
    for one in changes:
        if one.member not in index:
            continue
        parent = take(one.parent, one.replay) if one.parent in index else got[one.parent, one.replay]
        tree, c, k = find(one.member, one.replay)
        if one.replay == "copy":
            new = copying.place(tree, parent, k)
        else:
            new = state[c].replace(train=copying.place_train(tree, parent, k))
        state = [new if i == c else call for i, call in enumerate(state)]
    return state
