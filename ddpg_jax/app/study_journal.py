"""Opens the journal of a study, so that processes that were killed at any moment leave it usable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ddpg_jax.files import naming_errors

SEARCHED = 4096
"""Bytes that are read at once to find the end of the last whole line."""


def open_journal(path: Path) -> Any:
    """Opens the journal of Optuna at a path, or begins it.

    Optuna appends lines while it holds a lock, a file beside the journal. If a process is killed or the disk is full while it
    writes, the next line would follow a part of one, and the journal could no longer be read. A lock that a process has left
    behind is removed after half a minute. Optuna's default lock is a symbolic link, which nobody removes if its target is
    relative.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Backend(JournalFileBackend):
        """Drops what was written of a line, before it appends others."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            if not ends_whole(path):
                lock.acquire()  # while another process writes, a line is not whole either
                try:
                    drop_unfinished(path)
                finally:
                    lock.release()
            with naming_errors(path):
                super().append_logs(logs)

    lock = JournalFileOpenLock(str(path))
    return JournalStorage(Backend(str(path), lock_obj=lock))


def ends_whole(path: Path) -> bool:
    """Returns True if a file is empty or ends with a whole line."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        return size == 0 or (file.seek(size - 1) < size and file.read(1) == b"\n")


def drop_unfinished(path: Path) -> None:
    """Removes what stands after the last end of a line."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - SEARCHED)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                file.truncate(begin + found + 1)
                return
            end = begin
        file.truncate(0)
