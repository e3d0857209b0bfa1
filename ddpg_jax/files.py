"""Writes files so that none is ever half there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: to a temporary name first, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with naming_errors(path):
        temporary.write_bytes(data)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text atomically, as `write_bytes` does."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Adds the path to errors of the system that do not name one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
