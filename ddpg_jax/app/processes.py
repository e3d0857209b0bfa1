"""Connects the processes of a sweep, on one host or many, and exchanges messages between them.

Each process trains members of its own, and no array spans two processes: JAX does not know that there are several. They
exchange a few lines of JSON after every piece of a block, over a plain connection from each process to process 0. JAX's own
runtime could carry them too, but when a process dies it aborts the others with a stack trace, or leaves them waiting in a
collective. A connection just breaks, and the remaining processes can report what happened and leave their files intact. JAX
only detects the cluster.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax

from ddpg_jax.app.stderr import message_of, tell
from ddpg_jax.errors import ConfigError

T = TypeVar("T")

WAIT = 300.0
"""Seconds that processes wait for each other at the start."""
REFUSED = 30.0
"""Seconds that they wait while the host of process 0 says that nobody listens: process 0 listens from its first second on."""
PATIENCE = 5.0
"""Seconds after which they say that they wait."""
GRACE = 10.0
"""Seconds that a process has to stop by itself after another one died: it may be in the middle of a long computation."""
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000, "TCP_NODELAY": 1}
"""Options of a connection: it breaks after 25 seconds without an answer, since a host without power does not close it."""


class Ended(Exception):
    """The sweep cannot continue: another process died or failed, or one received a signal."""

    def __init__(self, line: str, status: int):
        super().__init__(line)
        self.status = status


class Processes(NamedTuple):
    """The processes of a sweep, as seen by one of them; by default there is only one."""

    total: int = 1
    number: int = 0
    local: int = 1
    """The number of processes on this host, including this one."""
    gather: Callable[[Any], list[Any]] = lambda message: [message]
    """`(message) -> messages`: plain JSON, one from each process in order. It returns when all processes have called it.

    Raises `Ended`."""

    @property
    def first(self) -> bool:
        """True for process 0, which writes the shared files."""
        return self.number == 0

    def share(self, items: list[T]) -> list[T]:
        """Returns the items of this process: a contiguous slice, whose length differs by at most one from those of the others.

        >>> [Processes(3, k).share([1, 2, 3, 4]) for k in range(3)]
        [[1, 2], [3], [4]]
        """
        each, more = divmod(len(items), self.total)
        begin = self.number * each + min(self.number, more)
        return items[begin : begin + each + (self.number < more)]


ALONE = Processes()


class Meeting(NamedTuple):
    """The address at which processes meet: process 0 listens there, and the others connect to it."""

    host: str
    port: int
    total: int
    number: int

    @property
    def address(self) -> str:
        """The address as `HOST:PORT`."""
        return f"{self.host}:{self.port}"


class Peer(NamedTuple):
    """A connection to another process."""

    connection: socket.socket
    stream: Any


def detect() -> Meeting:
    """Asks JAX about the cluster, as `jax.distributed.initialize()` does, and restricts each process to its own devices.

    Raises:
        ConfigError: JAX detects no cluster.
    """
    try:
        from jax._src.clusters import ClusterEnv  # `jax.distributed.initialize` would also start JAX's runtime

        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(WAIT)
        )
    except Exception as error:  # detection can fail in any way
        raise ConfigError(f"distributed: JAX failed to detect the cluster: {error}; {_EXPLICIT}") from error
    if address is None or count is None or index is None:
        raise ConfigError(f"distributed: JAX detects no cluster here; {_EXPLICIT}")
    if devices is not None:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, ",".join(map(str, devices)))
    host, _, port = address.rpartition(":")
    return Meeting(host, int(port), count, index)


_EXPLICIT = "give --coordinator, --num-processes and --process-id"


def listen(meeting: Meeting | None) -> socket.socket | None:
    """Begins to listen if this is process 0: before it imports and checks the rest, so that its death is noticed from then on.

    Raises:
        ConfigError: the port cannot be used.
    """
    if meeting is None or meeting.total == 1 or meeting.number:
        return None
    local = meeting.host in ("localhost", "127.0.0.1")  # no other host needs to reach it
    both = not local and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("127.0.0.1" if local else "", meeting.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"coordinator={meeting.address} cannot be used: {os.strerror(error.errno or 0)}; it must be a free port on the "
            "host of process 0"
        ) from error


@contextlib.contextmanager
def connected(meeting: Meeting | None, server: socket.socket | None = None) -> Iterator[Processes]:
    """Connects the processes of a meeting; without one, there is only this process. An error in the context ends the others.

    Args:
        meeting: where they meet.
        server: from `listen`, if process 0 listens already.

    Raises:
        ConfigError: they could not connect.
        Ended: another process could not start.
    """
    if meeting is None or meeting.total == 1:
        yield ALONE
        return
    peers: dict[int, Peer] = {}
    stopping = threading.Event()
    try:
        _accept_others(meeting, peers, server or listen(meeting)) if meeting.number == 0 else _connect_to_first(meeting, peers)
        gather = _make_gather(meeting, peers, stopping)
        hosts = gather(platform.node())
        yield Processes(meeting.total, meeting.number, hosts.count(platform.node()), gather)
    except BaseException as error:
        line = message_of(error)
        failed = f"process {meeting.number} of this sweep has failed: {line}"
        _send(peers, {"end": [line, error.status] if isinstance(error, Ended) else [failed, 2]})
        raise
    else:
        _send(peers, {"end": [f"process {meeting.number} of this sweep has finished", 0]})
    finally:
        stopping.set()
        for peer in peers.values():
            with contextlib.suppress(OSError):
                peer.connection.shutdown(socket.SHUT_WR)


def _accept_others(meeting: Meeting, peers: dict[int, Peer], server: Any) -> None:
    """Waits in process 0 until all others have connected."""
    deadline = time.monotonic() + WAIT
    with server:
        while missing := [k for k in range(1, meeting.total) if k not in peers]:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = _with_keepalive(server.accept()[0])
            except TimeoutError as error:
                raise ConfigError(
                    f"num_processes={meeting.total}: process {missing[0]} did not connect to {meeting.address} "
                    f"in {WAIT:.0f} s; start it, and check that it can reach this address"
                ) from error
            greeting = _greeting(peer)
            if greeting is None:  # it is not a process of a sweep
                peer.connection.close()
                continue
            count, index = greeting
            known = index in peers
            peers[-1 if known else index] = peer  # so that it learns of the error, too
            if count != meeting.total:
                raise ConfigError(
                    f"num_processes={count} at process {index} is not allowed; it must be {meeting.total}, as at process 0"
                )
            if known or not 0 < index < meeting.total:
                raise ConfigError(
                    f"process_id={index} is not allowed; each number from 0 to {meeting.total - 1} must be used once"
                )


def _connect_to_first(meeting: Meeting, peers: dict[int, Peer]) -> None:
    """Connects another process to process 0, which may not have started yet."""
    begin = time.monotonic()
    refused_since, told = math.inf, False
    while 0 not in peers:
        try:
            connection = socket.create_connection((meeting.host, meeting.port), timeout=5.0)
            if connection.getsockname() != connection.getpeername():  # a free port of this host can connect to itself
                peers[0] = _with_keepalive(connection)
        except OSError as error:
            now = time.monotonic()
            refused_since = min(refused_since, now) if isinstance(error, ConnectionRefusedError) else math.inf
            if now - begin > WAIT or now - refused_since > REFUSED:
                raise ConfigError(
                    f"coordinator={meeting.address} could not be reached in {now - begin:.0f} s: {error.strerror or error}; it "
                    "must be the host of process 0 and a port on it, and process 0 must be running"
                ) from error
            if now - begin > PATIENCE and not told:
                tell(f"process {meeting.number} waits for process 0 at {meeting.address}: {error.strerror or error}")
                told = True
            time.sleep(0.1)
    _send(peers, {"greeting": [meeting.total, meeting.number]})


def _with_keepalive(connection: socket.socket) -> Peer:
    """Makes a connection break when the other host is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Peer(connection, connection.makefile("rb"))


def _greeting(peer: Peer) -> tuple[int, int] | None:
    """Reads `(num_processes, process_id)` of a process that connects, or None if it sends anything else."""
    peer.connection.settimeout(5.0)
    try:
        count, index = json.loads(peer.stream.readline(100))["greeting"]
        peer.connection.settimeout(None)
        return int(count), int(index)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_gather(meeting: Meeting, peers: dict[int, Peer], stopping: threading.Event) -> Callable[[Any], list[Any]]:
    """Makes `Processes.gather` for these connections: process 0 collects all messages and sends them to the others."""
    inbox: queue.Queue[tuple[int, Any]] = queue.Queue()
    for k, peer in peers.items():
        threading.Thread(target=_listen, args=(k, peer.stream, inbox), kwargs={"stopping": stopping}, daemon=True).start()

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
        received = {0: json.loads(json.dumps(message))}
        while len(received) < meeting.total:
            k, theirs = receive()
            received[k] = theirs
        everything = [received[k] for k in range(meeting.total)]
        _send(peers, {"say": everything})
        return everything

    return gather


def _listen(k: int, stream: Any, inbox: queue.Queue[tuple[int, Any]], *, stopping: threading.Event) -> None:
    """Receives the messages of process k until it ends or its connection breaks."""
    message: Any = {}
    with contextlib.suppress(OSError, ValueError):  # the connection broke, or its last line is torn
        for line in stream:
            message = json.loads(line)
            inbox.put((k, message))
    if "end" not in message:
        line = f"process {k} of this sweep has died; go on with --resume"
        inbox.put((k, {"end": [line, 1]}))
        if not stopping.wait(GRACE):
            _leave(line)


def _leave(line: str) -> None:
    """Ends this process immediately. Its files are intact at any time."""
    tell(f"ddpg-jax: {line}")
    os._exit(1)


def _send(peers: dict[int, Peer], message: Any) -> None:
    """Sends a message to all. A process that is gone is noticed when its answer is missing."""
    line = json.dumps(message).encode() + b"\n"
    for peer in peers.values():
        with contextlib.suppress(OSError):
            peer.connection.sendall(line)
