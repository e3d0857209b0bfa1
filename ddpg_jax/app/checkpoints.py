"""Saves checkpoints with orbax: the newest few, each complete or absent, each with a checksum of its contents."""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import json
import logging
import os
import sys
import tempfile
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpg_jax.app.processes import ALONE, Processes
from ddpg_jax.data.run_replay import STRIDE, without_patterns
from ddpg_jax.errors import ConfigError, lacks_memory

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports every file it touches, and every error twice
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # "Task exception was never retrieved", of reads that were given up

KEEP = 2
"""Checkpoints that are kept."""
MARGIN = 1 << 20
"""Bytes that a checkpoint may need beside its arrays."""


class Checkpoint(NamedTuple):
    """Everything that a run needs to continue."""

    program: int
    """Index of the program in the run, counted from 0."""
    iteration: int
    """Vector steps that it has done."""
    arrays: Any
    text: str | None
    """The environments, if they are not arrays."""
    journal: Any
    """The rest of the run, as plain JSON."""
    rows: int | None = None
    """How many rows of metrics.csv came before it; None in checkpoints of older versions."""
    rows_digest: str = ""
    """Their digest, from `RowDigest`."""


class Checkpoints:
    """The checkpoints of one run. Each process has its own, and a checkpoint is complete when all processes have it.

    `run` is the digest of the experiment, which identifies the checkpoints of a run; if it is empty, any run's are accepted.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE, run: str = ""):
        self._processes, self._run = processes, run
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True, cleanup_tmp_directories=True)
        self._folder = folder.resolve()
        self._alias, path = without_patterns(self._folder)
        self._manager = ocp.CheckpointManager(path, options=options)

    def __enter__(self) -> Checkpoints:
        _ignore_late_errors()
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Waits, and ends orbax's threads. If something else failed before, that error is reported."""
        try:
            with contextlib.suppress(Exception) if kind else self._as_os_error():
                self._manager.close()
        finally:
            if self._alias:
                self._alias.cleanup()

    def save(self, checkpoint: Checkpoint) -> None:
        """Starts to write a checkpoint. Training may continue at once, as long as nothing writes to the arrays.

        Raises:
            OSError: there is no space for it, or the previous one could not be written.
        """
        arrays = checkpoint.arrays
        self.wait()
        # Once all processes have come here, the previous checkpoint is complete, and orbax may delete the one before it.
        iteration = min(self._processes.gather(checkpoint.iteration))
        self._reserve(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        meta = {"text": checkpoint.text, "journal": checkpoint.journal}
        meta["checksum"] = checksum(arrays, meta["text"], meta["journal"])
        number = checkpoint.program * STRIDE + iteration
        if number in self._manager.all_steps():  # another signal came before all members had finished this step
            self._manager.delete(number)
        meta |= {"rows": checkpoint.rows, "rows_digest": checkpoint.rows_digest}
        meta |= {"places": slots_of(arrays), "run": self._run, "number": number}
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        with self._as_os_error():
            self._manager.save(number, args=items, force=True)

    def any(self) -> bool:
        """Returns True if there is a checkpoint."""
        return bool(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when everything has been written to disk.

        Raises:
            OSError: it could not be written.
        """
        with self._as_os_error():
            self._manager.wait_until_finished()

    def _reserve(self, size: int) -> None:
        """Fails if the disk is full, since orbax's threads would each print a traceback of their own."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                try:
                    os.posix_fallocate(file.fileno(), 0, size + MARGIN)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(self._folder)) from error

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Raises the errors of orbax and tensorstore as an OSError."""
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if lacks_memory(error):  # which is no damage
                raise MemoryError from error
            full = "RESOURCE_EXHAUSTED" in str(error) or os.strerror(errno.ENOSPC) in str(error)
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code), str(self._folder)) from error

    def newest(self, shapes: Callable[[int], Any | None], say: Callable[[str], None]) -> Checkpoint | None:
        """Reads the newest checkpoint that is complete in all processes, or returns None if there is no checkpoint.

        Newer checkpoints that are damaged are reported and removed.

        Args:
            shapes: `(program) -> shapes` of the program's arrays, or None if there is no such program. Its errors are not the
                checkpoint's, which stays.
            say: reports a line.

        Raises:
            ConfigError: the checkpoint was written with another number of devices, the processes have none in common, or none
                of those that exist can be read. All of them stay, since the cause may lie elsewhere.
        """
        here: list[int] = sorted(self._manager.all_steps(), reverse=True)
        everyone = self._processes.gather(here)
        everywhere = set.intersection(*map(set, everyone))
        if not everywhere and max(map(len, everyone)) >= KEEP:  # none starts a second one before all have the first
            raise ConfigError(
                f"the processes have no checkpoint in {self._folder} in common; restore those that some of them are missing"
            )
        incomplete = [number for number in here if number not in everywhere]  # another process died before writing its own
        damaged: dict[int, str] = {}
        for number in sorted(everywhere, reverse=True):
            found = self._read(number, shapes(number // STRIDE))
            reasons = [reason for reason in self._processes.gather(found if isinstance(found, str) else None) if reason]
            if isinstance(found, Checkpoint) and not reasons:
                for newer, reason in damaged.items():
                    say(f"the checkpoint at vector step {newer % STRIDE} is damaged and is ignored: {reason}")
                self._delete([*damaged, *incomplete])
                if jax.default_backend() != "cpu":
                    return found
                # On a CPU, arrays may share orbax's memory, which must not be donated.
                return found._replace(arrays=jax.tree.map(jax.numpy.copy, found.arrays))
            damaged[number] = reasons[0]
            del found
            gc.collect()  # frees what is left of failed reads
        if damaged:
            raise ConfigError(
                f"none of the checkpoints in {self._folder} can be read ({next(iter(damaged.values()))}); remove the cause, or "
                "start again with --overwrite"
            )
        self._delete(incomplete)
        return None

    def _delete(self, numbers: list[int]) -> None:
        for number in numbers:
            self._manager.delete(number)

    def _read(self, number: int, shapes: Any | None) -> Checkpoint | str:
        """Reads a checkpoint, or returns what is wrong with it."""
        program, iteration = divmod(number, STRIDE)
        if shapes is None:
            return "it belongs to another run"
        try:
            meta: Any = self._manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            if (self._run and meta.get("run", self._run) != self._run) or meta.get("number", number) != number:
                raise ValueError("it belongs to another run or another step")
            slots = slots_of(shapes)
            if meta.get("places", slots) != slots:
                raise ConfigError(
                    f"{self._folder} was written with {meta['places']} slots for members, and this machine has {slots}; resume "
                    "the run with as many cores or devices, and as many processes, as it was started with"
                )
            arrays = self._manager.restore(number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes)))["arrays"]
            if checksum(arrays, meta["text"], meta["journal"]) != meta["checksum"]:
                raise ValueError("its checksum does not match")
            table = meta.get("rows"), meta.get("rows_digest", "")
            return Checkpoint(program, iteration, arrays, meta["text"], meta["journal"], *table)
        except (ConfigError, MemoryError):
            raise
        except Exception as error:  # a damaged file can fail in any way
            if lacks_memory(error):  # which is no damage
                raise MemoryError from error
            return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _ignore_late_errors() -> None:
    """Ignores errors of orbax's threads and coroutines from here on: whoever waits for orbax gets them, or another error.

    They would be printed with tracebacks when a failed read is stopped, or whenever Python collects what is left of it.
    """
    unraisable, in_thread = sys.unraisablehook, threading.excepthook

    def ignore_unraisable(event: Any) -> None:
        if not (inspect.iscoroutine(event.object) or str(event.exc_value) == "Event loop is closed"):
            unraisable(event)

    def ignore_in_thread(event: threading.ExceptHookArgs) -> None:
        files = (frame.filename for frame in traceback.extract_tb(event.exc_traceback))
        if not any("orbax" in file or "tensorstore" in file for file in files):
            in_thread(event)

    if getattr(unraisable, "__qualname__", "") != ignore_unraisable.__qualname__:
        sys.unraisablehook = ignore_unraisable
    if getattr(in_thread, "__qualname__", "") != ignore_in_thread.__qualname__:
        threading.excepthook = ignore_in_thread


def slots_of(tree: Any) -> int:
    """Returns the length of the leading axis of arrays or shapes: members, padded for the number of devices."""
    leaf = jax.tree.leaves(tree)[0]
    return leaf.shape[0] if leaf.shape else 0


def checksum(tree: Any, text: str | None, journal: list[Any]) -> int:
    """Computes the CRC-32 of all arrays of a tree, in order, and of the text and the journal."""
    value = zlib.crc32(json.dumps([text, journal]).encode())
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value
