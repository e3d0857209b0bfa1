"""Sweeps over several processes, on one host or many: how they find each other, and what they tell each other.

Each process trains members of its own, and no array spans two of them: to JAX each is alone. What crosses are a few lines of
JSON after every block of steps, on a plain connection from each process to process 0. JAX's own runtime would carry them too,
but when a process dies it aborts the others with a stack trace, or lets them wait in a collective; a connection just breaks,
and those that are left can say what happened and leave their files whole. What JAX does is to detect the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np

from ddpg_jax.app.stderr import tell
from ddpg_jax.errors import ConfigError
from ddpg_jax.running.placement import make_placement
from ddpg_jax.running.program import Program
from ddpg_jax.training.loop import Metrics

T = TypeVar("T")

WAIT = 300.0
"""Seconds that processes wait for each other at the start."""
GRACE = 10.0
"""Seconds that a process has, after another one died, to stop by itself: it may be in the middle of a long computation."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000, "TCP_NODELAY": 1}
"""After 25 seconds without an answer a host is gone: one that loses its power closes no connections."""


class Ended(Exception):
    """The sweep cannot go on: another process has died or failed, or a signal came to one."""

    def __init__(self, line: str, status: int):
        super().__init__(line)
        self.status = status


class Processes(NamedTuple):
    """The processes of a sweep, as one of them sees them; by default it is alone."""

    total: int = 1
    number: int = 0
    neighbours: int = 1
    """How many of them are on this host, with this one."""
    gather: Callable[[Any], list[Any]] = lambda message: [message]
    """`(message) -> messages`, plain JSON, one from each process in order. It returns when all have called it.

    Raises `Ended`."""

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes what belongs to all."""
        return self.number == 0

    def share(self, items: list[T]) -> list[T]:
        """The items of this process: contiguous, in the order of the processes, as many as others have or one more or less.

        >>> [Processes(3, k).share([1, 2, 3, 4]) for k in range(3)]
        [[1, 2], [3], [4]]
        """
        each, more = divmod(len(items), self.total)
        begin = self.number * each + min(self.number, more)
        return items[begin : begin + each + (self.number < more)]


ALONE = Processes()


class Meeting(NamedTuple):
    """Where processes find each other: process 0 listens there, and the others come."""

    host: str
    port: int
    total: int
    number: int

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"{self.host}:{self.port}"


class Peer(NamedTuple):
    """A connection to another process."""

    connection: socket.socket
    stream: Any


def detect() -> Meeting:
    """What JAX knows of the cluster, as in `jax.distributed.initialize()`; each process keeps to the devices that are its own.

    Raises:
        ConfigError: JAX detects none.
    """
    try:
        from jax._src.clusters import ClusterEnv  # behind `jax.distributed.initialize`, which would start its runtime as well

        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(WAIT)
        )
    except Exception as error:  # whatever its detection met with
        raise ConfigError(f"distributed: JAX failed to detect the cluster: {error}; {_EXPLICIT}") from error
    if address is None or count is None or index is None:
        raise ConfigError(f"distributed: JAX detects no cluster here; {_EXPLICIT}")
    if devices is not None:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, ",".join(map(str, devices)))
    host, _, port = address.rpartition(":")
    return Meeting(host, int(port), count, index)


_EXPLICIT = "give --coordinator, --num-processes and --process-id"


@contextlib.contextmanager
def connected(meeting: Meeting | None) -> Iterator[Processes]:
    """The processes that came to the meeting; this one alone, if there is none. The others learn of an error in the context.

    Raises:
        ConfigError: they did not find each other.
        Ended: another one could not begin.
    """
    if meeting is None or meeting.total == 1:
        yield ALONE
        return
    peers: dict[int, Peer] = {}
    stopping = threading.Event()
    try:
        _receive_others(meeting, peers) if meeting.number == 0 else _visit_first(meeting, peers)
        gather = _gathering(meeting, peers, stopping)
        hosts = gather(platform.node())
        yield Processes(meeting.total, meeting.number, hosts.count(platform.node()), gather)
    except BaseException as error:
        said = " ".join(str(error).split()) or type(error).__name__
        failed = f"process {meeting.number} of this sweep has failed: {said}"
        _send(peers, {"end": [said, error.status] if isinstance(error, Ended) else [failed, 2]})
        raise
    else:
        _send(peers, {"end": ["it is finished", 0]})
    finally:
        stopping.set()
        for peer in peers.values():
            with contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_WR)


def _receive_others(meeting: Meeting, peers: dict[int, Peer]) -> None:
    """Process 0 waits for the others."""
    local = meeting.host in ("localhost", "127.0.0.1")  # then nobody else needs to reach it
    both = not local and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("127.0.0.1" if local else "", meeting.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"coordinator={meeting.address} cannot be listened at: {os.strerror(error.errno or 0)}; it must be a free port of "
            "the host of process 0"
        ) from error
    deadline = time.monotonic() + WAIT
    with server:
        while missing := [k for k in range(1, meeting.total) if k not in peers]:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = _watched(server.accept()[0])
            except TimeoutError as error:
                raise ConfigError(
                    f"num_processes={meeting.total}: process {missing[0]} did not come to {meeting.address} in {WAIT:.0f} s"
                ) from error
            greeting = _greeting(peer)
            if greeting is None:  # somebody who is no process of a sweep
                peer.connection.close()
                continue
            count, index = greeting
            known = index in peers
            peers[-1 if known else index] = peer  # it learns of the error, too
            if count != meeting.total:
                raise ConfigError(f"num_processes={count} at process {index} is not the {meeting.total} of process 0")
            if known or not 0 < index < meeting.total:
                raise ConfigError(
                    f"process_id={index} is not allowed for two; each from 0 to {meeting.total - 1} must be there once"
                )


def _visit_first(meeting: Meeting, peers: dict[int, Peer]) -> None:
    """Another process goes to process 0, which may not be there yet."""
    deadline = time.monotonic() + WAIT
    while 0 not in peers:
        try:
            connection = socket.create_connection((meeting.host, meeting.port), timeout=5.0)
            if connection.getsockname() != connection.getpeername():  # a free port of this host may connect to itself
                peers[0] = _watched(connection)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"coordinator={meeting.address} could not be reached in {WAIT:.0f} s: {error.strerror or error}; it must "
                    "be the host of process 0 and a port of it"
                ) from error
            time.sleep(0.1)
    _send(peers, {"greeting": [meeting.total, meeting.number]})


def _watched(connection: socket.socket) -> Peer:
    """A connection that breaks when the other host is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Peer(connection, connection.makefile("rb"))


def _greeting(peer: Peer) -> tuple[int, int] | None:
    """`(num_processes, process_id)` of a process that comes, or None if it says something else."""
    peer.connection.settimeout(5.0)
    try:
        count, index = json.loads(peer.stream.readline(100))["greeting"]
        peer.connection.settimeout(None)
        return int(count), int(index)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gathering(meeting: Meeting, peers: dict[int, Peer], stopping: threading.Event) -> Callable[[Any], list[Any]]:
    """`Processes.gather` over these connections: process 0 collects what the others say and tells them all of it."""
    inbox: queue.Queue[tuple[int, Any]] = queue.Queue()
    for k, peer in peers.items():
        threading.Thread(target=_listen, args=(k, peer.stream, inbox, stopping), daemon=True).start()

    def receive() -> tuple[int, Any]:
        k, message = inbox.get()
        if "end" in message:
            stopping.set()
            raise Ended(*message["end"])
        return k, message["say"]

    def gather(message: Any) -> list[Any]:
        if meeting.number:
            _send(peers, {"say": message})
            return receive()[1]
        said = {0: json.loads(json.dumps(message))}
        while len(said) < meeting.total:
            k, theirs = receive()
            said[k] = theirs
        everything = [said[k] for k in range(meeting.total)]
        _send(peers, {"say": everything})
        return everything

    return gather


def _listen(k: int, stream: Any, inbox: queue.Queue[tuple[int, Any]], stopping: threading.Event) -> None:
    """Takes in what process k says, until it has said that it ends, or is gone without a word."""
    message: Any = {}
    with contextlib.suppress(OSError, ValueError):  # it broke, or the last line is torn
        for line in stream:
            message = json.loads(line)
            inbox.put((k, message))
    if "end" not in message:
        line = f"process {k} of this sweep has died; go on with --resume"
        inbox.put((k, {"end": [line, 1]}))
        if not stopping.wait(GRACE):
            _leave(line)


def _leave(line: str) -> None:
    """Ends this process as it stands. Its files are whole at any time."""
    tell(f"ddpg-jax: {line}")
    os._exit(1)


def _send(peers: dict[int, Peer], message: Any) -> None:
    """Says it to all. One that is gone is noticed where its answer is missing."""
    line = json.dumps(message).encode() + b"\n"
    for peer in peers.values():
        with contextlib.suppress(OSError):
            peer.connection.sendall(line)


class Idle:
    """The program of a process that has no members: it does nothing, for as long as the others train."""

    members: ClassVar[list[Any]] = []
    calls = 1
    state_survives_failure = False

    def __init__(self) -> None:
        self.placement = make_placement(1)

    def start(self) -> Any:
        """No state."""
        return ()

    def advance(self, state: Any, begin: Any, end: int, *, alive: Any, so_far: Any = None) -> tuple[Any, Metrics, float]:
        """Nothing in no time."""
        del begin, end, alive, so_far
        nothing: Any = np.zeros(0, int)
        return state, Metrics({}, {}, nothing, nothing, nothing), 0.0

    def evaluate(self, state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Of no members."""
        del state, i
        return np.zeros((0, 1)), np.zeros((0, 1))

    def save(self, state: Any) -> tuple[Any, None]:
        """Something, as orbax writes no empty tree."""
        del state
        return {"nothing": np.zeros(1, np.float32)}, None

    def load(self, arrays: Any, text: str | None, i: int) -> Any:
        """No state."""
        del arrays, text, i
        return ()

    def shapes(self) -> Any:
        """Those of `save`."""
        return self.placement.abstract({"nothing": np.zeros(1, np.float32)})

    def memory(self) -> int:
        """None."""
        return 0

    def close(self) -> None:
        """Nothing."""


def idle_program() -> Program:
    """That of a process that has no members."""
    program: Any = Idle()
    return program
