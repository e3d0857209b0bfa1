"""Provides a program without members, for a process whose share of a sweep is empty."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ddpg_jax.running.placement import make_placement
from ddpg_jax.running.program import Program
from ddpg_jax.training.loop import Metrics
from ddpg_jax.types import Episodes


class IdleProgram:
    """A stand-in for `Program` that does nothing while other processes train."""

    members: ClassVar[list[Any]] = []
    calls = 1
    outside_bytes = 0
    store = ()
    state_survives_failure = False

    def __init__(self) -> None:
        self.placement = make_placement(1)

    def start(self) -> Any:
        """Returns an empty state."""
        return ()

    def advance(self, state: Any, begin: Any, end: int, *, active: Any, so_far: Any = None) -> tuple[Any, Metrics, float]:
        """Returns metrics of no members, after no time."""
        del begin, end, active, so_far
        empty: Any = np.zeros(0, int)
        return state, Metrics({}, {}, empty, empty, empty), 0.0

    def evaluate(self, state: Any, i: int) -> Episodes:
        """Returns the episodes of no members."""
        del state, i
        return Episodes(*[np.zeros((0, 1))] * 3)

    def time_limit_missing(self) -> None:
        """Returns no warning."""

    def keeps_environments(self) -> bool:
        """Returns True, since there are none."""
        return True

    def after_evaluation(self, state: Any, i: int) -> Any:
        """Returns the state."""
        del i
        return state

    def regroup(self, state: Any, stopped: np.ndarray) -> Any:
        """Returns the state."""
        del stopped
        return state

    def adopt(self, changes: Any) -> None:
        """Does nothing."""

    def inherit(self, state: Any, changes: Any, exchange: Any) -> Any:
        """Returns the state; takes part in the exchange of others, as all processes must."""
        if any(change.parent != change.member for change in changes):
            exchange({}, {})
        return state

    def actors(self, state: Any, members: Any) -> list[Any]:
        """Returns the actors of no members."""
        del state, members
        return []

    def save(self, state: Any) -> tuple[Any, None]:
        """Returns a placeholder, since orbax refuses empty trees."""
        del state
        return {"nothing": np.zeros(1, np.float32)}, None

    def load(self, arrays: Any, text: str | None, i: int) -> Any:
        """Returns an empty state."""
        del arrays, text, i
        return ()

    def shapes(self) -> Any:
        """Returns the shapes of what `save` returns."""
        return self.placement.abstract({"nothing": np.zeros(1, np.float32)})

    def memory(self) -> int:
        """Returns 0."""
        return 0

    def close(self) -> None:
        """Does nothing."""


def idle_program() -> Program:
    """Makes the program of a process that has no members."""
    program: Any = IdleProgram()
    return program
