"""Tables of named parts, which are open to whoever has a part of their own."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ddpg_jax.errors import ConfigError

T = TypeVar("T")


class Registry(dict[str, T], Generic[T]):
    """Maps names to parts. A name that is in the table is usable everywhere; to register another part under it is refused.

    To run the same definition again, as one does in a notebook, is no other part.

    >>> table = Registry("activations", {"relu": max})
    >>> table["relu"] = min
    Traceback (most recent call last):
    ddpg_jax.errors.ConfigError: activations has relu already; register yours under another name, or `del` that one first
    """

    def __init__(self, kind: str, parts: dict[str, T]):
        super().__init__(parts)
        self.kind = kind

    def __setitem__(self, name: str, part: T) -> None:
        if name in self and _definition(self[name]) != _definition(part):
            raise ConfigError(f"{self.kind} has {name} already; register yours under another name, or `del` that one first")
        super().__setitem__(name, part)


def _definition(part: Any) -> Any:
    """Returns where a function or a class was defined; anything else stands for itself."""
    return (part.__module__, part.__qualname__) if hasattr(part, "__qualname__") and hasattr(part, "__module__") else part
