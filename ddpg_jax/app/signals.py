"""Collects the signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ddpg_jax.envs.host import stopping


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGINT, SIGTERM and SIGHUP in a list; a second signal of a kind has its usual effect.

    SIGHUP, which a closed terminal sends in pairs, is ignored the second time. Under nohup it is ignored from the start.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        stopping.set()
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else handlers[number])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            handlers[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        stopping.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
