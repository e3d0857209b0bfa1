"""Which threads environments are stepped in, while a compiled program runs."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

stopping = threading.Event()
"""Set when a signal has come: all programs of this process end after the step that they are at."""


ATTENTION = 0.05
"""Seconds after which a thread that waits looks for signals: one that another thread was given does not wake it."""


class Threads(Protocol):
    """Runs compiled programs and what they ask of environments."""

    def run(self, call: Callable[[], Any]) -> Any:
        """`call()`, in a thread of its own: this one can be interrupted meanwhile, which it cannot be while XLA computes."""
        ...

    def ask(self, function: Callable[[], None]) -> None:
        """Has something done that a compiled program waits for. The function does not raise."""
        ...

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        """Has something done while the program goes on; gives what waits for its end."""
        ...


class Direct:
    """Environments are stepped in the threads in which XLA computes, which may be another one at every step."""

    def run(self, call: Callable[[], Any]) -> Any:
        return _beside(call, lambda done: done.wait(ATTENTION))

    def ask(self, function: Callable[[], None]) -> None:
        function()

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return lambda: None


class Served:
    """Environments are stepped in the thread that runs the program, so that XLA can go on meanwhile.

    Outside of `run` they are stepped in whichever thread asks.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._serving = 0

    def run(self, call: Callable[[], Any]) -> Any:
        def serve(done: threading.Event) -> None:
            while not done.is_set():
                with contextlib.suppress(queue.Empty):
                    request = self._requests.get(timeout=ATTENTION)
                    if request is not None:
                        request()

        def announced() -> Any:
            try:
                return call()
            finally:
                self._serving -= 1
                self._requests.put(None)

        self._serving += 1
        return _beside(announced, serve)

    def ask(self, function: Callable[[], None]) -> None:
        self.post(function)()

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        if not self._serving:
            function()
            return lambda: None
        done = threading.Lock()  # quicker than an Event
        done.acquire()

        def request() -> None:
            try:
                function()
            finally:
                done.release()

        self._requests.put(request)

        def wait() -> None:
            done.acquire()

        return wait


def _beside(call: Callable[[], Any], meanwhile: Callable[[threading.Event], Any]) -> Any:
    """`call()` in another thread, while this one does something until it is told that the call is over.

    A KeyboardInterrupt is raised when it is: nothing can interrupt XLA but an environment, after its step.
    """
    found: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            found.append((call(), None))
        except BaseException as error:
            found.append((None, error))
        finally:
            done.set()

    interrupt: KeyboardInterrupt | None = None
    thread = threading.Thread(target=work, name="ddpg-jax program", daemon=True)
    thread.start()
    while not done.is_set():
        try:
            meanwhile(done)
        except KeyboardInterrupt as error:
            interrupt = error
            stopping.set()
    result, error = found[0]
    if interrupt:
        stopping.clear()
        raise interrupt
    if error:
        raise error
    return result
