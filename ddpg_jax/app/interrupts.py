"""Defines what Ctrl-C does until a run handles it: an exception would sometimes get lost while modules are imported."""

import contextlib
import os
import signal
import sys
import threading
from typing import Any


def end_quietly() -> None:
    """Lets Ctrl-C end the process at once, without a word."""
    signal.signal(signal.SIGINT, _end)


def raise_as_usual() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again, if it ended the process at once so far."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with(status: int) -> int:
    """Returns the exit status; ends the process with it at once if it failed and threads are left that would be waited for.

    Libraries leave threads that wait for each other, such as those of a checkpoint for which there was no memory.
    """
    if status and any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status


def _end(number: int, frame: Any) -> None:
    del frame
    os._exit(128 + number)
