"""Defines what Ctrl-C does until a run handles it: an exception would sometimes get lost while modules are imported."""

import os
import signal
from typing import Any


def end_quietly() -> None:
    """Lets Ctrl-C end the process at once, without a word."""
    signal.signal(signal.SIGINT, _end)


def raise_as_usual() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again, if it ended the process at once so far."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: Any) -> None:
    del frame
    os._exit(128 + number)
