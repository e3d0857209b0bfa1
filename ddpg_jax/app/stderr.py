"""Standard error, whose other end may be gone: a terminal that was closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import sys


def unheard() -> contextlib.AbstractContextManager[None]:
    """That nobody listens is no reason to stop."""
    return contextlib.suppress(OSError, ValueError)


def tell(line: str) -> None:
    """One line, for whoever listens."""
    with unheard():
        print(line, file=sys.stderr, flush=True)
