"""Holds a run folder: keeps other commands out of it, and notices when another folder has taken its place."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpg_jax.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
"""Error numbers of a lock that another process holds. All others mean that the file system has no locks."""
LOCK = ".lock"


class Hold:
    """Keeps a folder open from `take` on, so that it is known again wherever it is moved.

    A path says nothing about what stands there: a run whose folder was moved would go on writing into a new folder of the old
    name, and mix its rows with those of another run.
    """

    def __init__(self, path: Path, given: Path):
        self._path, self._given = path, given
        self._folder: int | None = None
        self._lock: Any = None

    def lock(self) -> bool:
        """Locks the folder against other commands, with a mark of its own; returns False if its file system has no locks.

        Raises:
            ConfigError: another command has locked it.
        """
        self._lock = open(self._path / LOCK, "a")  # noqa: SIM115 - held until the process ends
        locked = fcntl is not None
        try:
            if fcntl:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise ConfigError(
                    f"out={self._given} is in use by another process; wait for it, or name another folder"
                ) from error
            locked = False
        (self._path / LOCK).write_text(secrets.token_hex(8))
        return locked

    def take(self) -> None:
        """Keeps the folder open. Its descriptor also keeps the system from giving its number to another folder."""
        self._folder = os.open(self._path, os.O_RDONLY)

    def check(self) -> None:
        """Checks that the folder that was taken still stands at its path, before something is written there.

        Raises:
            ConfigError: it has been moved, removed or replaced, or its lock has.
        """
        if self._folder is None:
            return
        if not _same(self._folder, self._path):
            raise ConfigError(
                f"out={self._given} was moved, removed or replaced while this run was writing into it; move it back, or give "
                "its new path as --out, and continue with --resume"
            )
        if self._lock is not None and not _same(self._lock.fileno(), self._path / LOCK):
            raise ConfigError(
                f"out={self._given} has a {LOCK} other than the one that this run made, so another run may have begun there; "
                "go on with --resume once nothing else uses the folder"
            )


def _same(descriptor: int, path: Path) -> bool:
    """Returns whether what is open is what stands at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def locked_file(path: Path) -> Any | None:
    """Opens a file and locks it for as long as it stays open; returns None if another holder, or process, has locked it.

    On file systems without locks, nobody else is noticed.
    """
    file = open(path, "a")  # noqa: SIM115 - the caller holds it
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            file.close()
            return None
    return file


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Waits until no other process is inside, for which they share a file. On file systems without locks it does not wait."""
    with open(path, "a") as file:
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mark_of(path: Path) -> str | None:
    """Returns the mark of the process that has locked a folder, or None if there is none."""
    try:
        return (path / LOCK).read_text()
    except (OSError, ValueError):
        return None
