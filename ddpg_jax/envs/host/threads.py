"""Which threads environments are stepped in, while a compiled program runs."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

stopping = threading.Event()
"""Set when a signal has come: all programs of this process end after the step that they are at."""


ATTENTION = 0.05
"""Seconds after which a thread that waits looks for signals: one that another thread was given does not wake it."""


class Threads(Protocol):
    """Runs compiled programs and what they ask of environments."""

    def run(self, call: Callable[[], Any], look: Callable[[], None]) -> Any:
        """`call()`, in a thread of its own: this one can be interrupted meanwhile, which it cannot be while XLA computes.

        `look` is called now and then.
        """
        ...

    def ask(self, function: Callable[[], None]) -> None:
        """Has something done that a compiled program waits for. The function does not raise."""
        ...

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        """Has something done while the program goes on; gives what waits for its end."""
        ...


class Direct:
    """Environments are stepped in the threads in which XLA computes, which may be another one at every step."""

    def run(self, call: Callable[[], Any], look: Callable[[], None]) -> Any:
        def wait(done: threading.Event) -> None:
            if not done.wait(ATTENTION):
                look()

        return _beside(call, wait)

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

    def run(self, call: Callable[[], Any], look: Callable[[], None]) -> Any:
        def serve(done: threading.Event) -> None:
            while not done.is_set():
                try:
                    request = self._requests.get(timeout=ATTENTION)
                except queue.Empty:
                    look()
                    continue
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


@contextlib.contextmanager
def _noting() -> Iterator[list[int]]:
    """Has Ctrl-C set `stopping` where it would raise KeyboardInterrupt: anywhere in the middle, that would lose a step."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        noted.append(number)
        stopping.set()
        signal.signal(number, signal.default_int_handler)  # a second one does not wait

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # who else handles it, does
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if noted:
            stopping.clear()


def _beside(call: Callable[[], Any], meanwhile: Callable[[threading.Event], Any]) -> Any:
    """`call()` in another thread, while this one does something until it is told that the call is over.

    Ctrl-C is raised when it is: nothing can interrupt XLA but an environment, after its step. A second one does not wait.
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

    with _noting() as noted:
        threading.Thread(target=work, name="ddpg-jax program", daemon=True).start()
        while not done.is_set():
            meanwhile(done)
    if noted:
        raise KeyboardInterrupt
    result, error = found[0]
    if error:
        raise error
    return result
