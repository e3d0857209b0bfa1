"""Declares fields: what may be set, by whom it is read, and how it is explained, in one place for each."""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Callable, Collection
from typing import Any


@dataclasses.dataclass(frozen=True)
class Field:
    """Describes a field of `Experiment` or `Hyperparams`. Its default and its type stand beside it."""

    help: str
    """A sentence or two; the first of them is shown on the command line."""
    low: float = 0.0
    """The least value of a number."""
    high: float = math.inf
    """The greatest one."""
    whole: bool = False
    """Whether a number that is traced, and so has a float as its default, must be whole."""
    off: float | None = None
    """The value of a number at which the part that it belongs to does nothing. The part is then left out of the program: it
    costs nothing, and a sweep over both that value and others makes two programs."""
    read_by: Callable[[Any], bool] | None = None
    """`(experiment) -> bool`, whether an experiment reads the field at all; None if all do."""
    choices: tuple[str, ...] = ()
    """All words that are allowed, if there are only a few."""
    table: str = ""
    """`module:NAME` of the table whose keys are allowed; it is looked up when a value is checked, as users add to it."""
    read: Callable[[str, Any], Any] | None = None
    """`(name, value) -> value`, which reads values of any other form."""
    repeated: bool = False
    """Whether it can be given several times on the command line."""
    also: tuple[str, ...] = ()
    """What other systems call it."""

    def is_read(self, experiment: Any) -> bool:
        """Returns True if an experiment reads the field."""
        return self.read_by is None or self.read_by(experiment)

    def allowed(self) -> Collection[str]:
        """Returns all words that are allowed now; empty if it is no choice."""
        if not self.table:
            return self.choices
        module, _, name = self.table.partition(":")
        return (*self.choices, *getattr(importlib.import_module(f"ddpg_jax.{module}"), name))


def declared(kind: type) -> dict[str, Field]:
    """Returns the fields that a class declares as `name: Annotated[type, Field(...)] = default`.

    >>> from ddpg_jax.hyperparams import Hyperparams
    >>> declared(Hyperparams)["gamma"].high
    1.0
    """
    annotations = typing.get_type_hints(kind, include_extras=True)
    found = {name: typing.get_args(annotation)[1:] for name, annotation in annotations.items()}
    return {name: parts[0] for name, parts in found.items() if parts and isinstance(parts[0], Field)}
