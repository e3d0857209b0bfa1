"""Lets members of a program take over the states of others, without compiling anew each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ddpg_jax.running.placement import Placement
from ddpg_jax.running.seats import Seats
from ddpg_jax.training.step import fork


class Copying(NamedTuple):
    """Functions that move the state of one member, compiled once for all members of a program."""

    take: Any
    """`(tree [K, ...], lane) -> tree`: the state of one of the members of a call, or a part of it."""
    place: Any
    """`(state [K, ...], state, lane) -> state [K, ...]`: gives a copy to another one; the first argument is consumed."""
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


def take_over(state: list[Any], seats: Seats, copying: Copying, *, member: int, parent: int, replay: str) -> list[Any]:
    """Returns the state after a member has taken over that of another one; the state is consumed.

    Args:
        state: one entry for each call.
        seats: of the members in the calls.
        copying: for these calls.
        member: index of the member.
        parent: index of the other one.
        replay: `copy` for all of the state, `keep` for the networks and optimizers alone.
    """
    (c, k), (p, j) = seats.find(member), seats.find(parent)
    if replay == "copy":
        new = copying.place(state[c], copying.take(state[p], j), k)
    else:
        train = copying.place_train(state[c].train, copying.take(state[p].train, j), k)
        new = state[c].replace(train=train)
    return [new if i == c else one for i, one in enumerate(state)]
