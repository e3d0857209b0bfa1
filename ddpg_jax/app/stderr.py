"""Writes to standard error, which may no longer be read: its terminal was closed, or its pipe has no reader."""

from __future__ import annotations

import contextlib
import sys


def ignoring_closed() -> contextlib.AbstractContextManager[None]:
    """Ignores errors of a stream that nobody reads, which are no reason to stop a run."""
    return contextlib.suppress(OSError, ValueError)


def tell(line: str) -> None:
    """Writes one line to standard error."""
    with ignoring_closed():
        print(line, file=sys.stderr, flush=True)


def message_of(error: BaseException) -> str:
    """Returns the message of an error as one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
