"""Chooses the thread in which environments are stepped while a compiled program runs."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Flag:
    """Is set by handlers of signals. An `Event` is no use there: one handler within another would wait for its lock forever."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Sets it."""
        self._is_set = True

    def clear(self) -> None:
        """Resets it."""
        self._is_set = False

    def is_set(self) -> bool:
        """Returns whether it is set."""
        return self._is_set


stopping = Flag()
"""Set after a signal: all programs of this process end after their current step."""


POLL_INTERVAL = 0.05
"""Seconds between checks for signals by a waiting thread, since a signal delivered to another thread does not wake it."""


class Threads(Protocol):
    """Runs compiled programs, and the functions that they ask for."""

    def run(self, call: Callable[[], Any], poll: Callable[[], None]) -> Any:
        """Runs `call()` in another thread, so that this one can be interrupted, and calls `poll` from time to time.

        A thread in which XLA computes cannot be interrupted.
        """
        ...

    def ask(self, function: Callable[[], None]) -> None:
        """Runs a function whose end a compiled program waits for. The function must not raise."""
        ...

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        """Starts a function while the program continues, and returns a function that waits for its end."""
        ...


class Direct:
    """Steps environments in the threads in which XLA computes, which may differ from step to step."""

    def run(self, call: Callable[[], Any], poll: Callable[[], None]) -> Any:
        def wait(done: threading.Event) -> None:
            if not done.wait(POLL_INTERVAL):
                poll()

        return _run_in_thread(call, wait)

    def ask(self, function: Callable[[], None]) -> None:
        function()

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return lambda: None


class Served:
    """Steps environments in the thread that called `run`, so that XLA can continue meanwhile.

    Outside of `run` they are stepped in the thread that asks.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._serving = 0

    def run(self, call: Callable[[], Any], poll: Callable[[], None]) -> Any:
        def serve(done: threading.Event) -> None:
            while not done.is_set():
                try:
                    request = self._requests.get(timeout=POLL_INTERVAL)
                except queue.Empty:
                    poll()
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
        return _run_in_thread(announced, serve)

    def ask(self, function: Callable[[], None]) -> None:
        self.post(function)()

    def post(self, function: Callable[[], None]) -> Callable[[], None]:
        if not self._serving:
            function()
            return lambda: None
        done = threading.Lock()  # faster than an Event
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
def _deferred_interrupt() -> Iterator[list[int]]:
    """Makes Ctrl-C set `stopping` instead of raising KeyboardInterrupt, which in the middle of a step would lose it."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        noted.append(number)
        stopping.set()
        signal.signal(number, signal.default_int_handler)  # a second Ctrl-C interrupts at once

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # somebody else handles it
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if noted:
            stopping.clear()


def _run_in_thread(call: Callable[[], Any], meanwhile: Callable[[threading.Event], Any]) -> Any:
    """Runs `call()` in another thread, and `meanwhile(done)` in this one until the call has ended.

    Ctrl-C is raised afterwards, because only an environment can interrupt XLA, after its step. A second one is raised at once.
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

    with _deferred_interrupt() as noted:
        threading.Thread(target=work, name="ddpg-jax program", daemon=True).start()
        while not done.is_set():
            meanwhile(done)
    if noted:
        raise KeyboardInterrupt
    result, error = found[0]
    if error:
        raise error
    return result
