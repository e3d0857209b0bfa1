"""Seeds environments: their episodes, and the global generators of Python and NumPy, from which some of them draw."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


class GlobalGenerators:
    """Seeds the global generators, and puts them back to where they were."""

    def __init__(self) -> None:
        self._before: tuple[Any, Any] | None = None

    def seed(self, *words: int) -> None:
        """Seeds both."""
        self._before = self._before or _states()
        (seed,) = np.random.SeedSequence([word % 2**32 for word in words]).generate_state(1).tolist()
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what environments draw from

    def restore(self) -> None:
        """Puts both back, if they were seeded."""
        if self._before is not None:
            _set(self._before)
            self._before = None


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Puts both global generators back at the end to where they were, also if a training is under way that has seeded them."""
    before = _states()
    try:
        yield
    finally:
        _set(before)


def _states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()  # noqa: NPY002 - what environments draw from


def _set(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 - what environments draw from


def episode_seeds(words: list[int], count: int) -> list[int]:
    """Derives seeds of episodes, from 0 to 2**32 - 1, from the words of a key."""
    return np.random.SeedSequence(words).generate_state(count).tolist()
