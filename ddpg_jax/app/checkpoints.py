"""Checkpoints by orbax: the newest few, each complete or absent, each with a checksum of what it holds."""

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
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddpg_jax.app.processes import ALONE, Processes
from ddpg_jax.errors import ConfigError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports every file it touches, and every error twice

KEEP = 2
STRIDE = 10**10
"""Orbax counts checkpoints with one number: that of the program times this, and the vector step."""
MARGIN = 1 << 20
"""Bytes that a checkpoint may need beside its arrays."""


class Checkpoint(NamedTuple):
    """All that a run needs to go on."""

    program: int
    """Which of the programs of the run, counted from 0."""
    iteration: int
    """Vector steps that it has done."""
    arrays: Any
    text: str | None
    """The environments, where they are no arrays."""
    journal: Any
    """What the run remembers besides, plain JSON."""


class Checkpoints:
    """The checkpoints of one run; of several processes each has its own, and what one has is whole when all have it.

    `run` is the digest of its experiment, by which it knows its own; whoever gives none takes any.
    """

    def __init__(self, folder: Path, processes: Processes = ALONE, run: str = ""):
        self._processes, self._run = processes, run
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True, cleanup_tmp_directories=True)
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> Checkpoints:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Waits, and ends orbax's threads. If something else went wrong before, that is what will be reported."""
        try:
            with contextlib.suppress(Exception) if kind else self._one_line():
                self._manager.close()
        finally:
            sys.unraisablehook = self._hook

    def _unraisable(self, event: Any) -> None:
        """Says nothing of reads that orbax still had under way when another one failed: that one was reported."""
        if not (inspect.iscoroutine(event.object) or str(event.exc_value) == "Event loop is closed"):
            self._hook(event)

    def save(self, checkpoint: Checkpoint) -> None:
        """Begins to write a checkpoint, of arrays that nothing writes to meanwhile: training may go on at once.

        Raises:
            OSError: no space for it, or the one before could not be written.
        """
        arrays = checkpoint.arrays
        self.wait()
        # The one before is whole everywhere, and only now the one before that may go.
        iteration = min(self._processes.gather(checkpoint.iteration))
        self._reserve(sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        meta = {"text": checkpoint.text, "journal": checkpoint.journal}
        meta["checksum"] = checksum(arrays, meta["text"], meta["journal"])
        number = checkpoint.program * STRIDE + iteration
        if number in self._manager.all_steps():  # a signal came again before all members were through with this step
            self._manager.delete(number)
        meta |= {"places": places(arrays), "run": self._run, "number": number}
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        with self._one_line():
            self._manager.save(number, args=items, force=True)

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._manager.all_steps())

    def wait(self) -> None:
        """Returns when all is on the disk.

        Raises:
            OSError: it could not be written.
        """
        with self._one_line():
            self._manager.wait_until_finished()

    def _reserve(self, size: int) -> None:
        """Fails here where the disk is full: orbax's threads would each print their own traceback."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                try:
                    os.posix_fallocate(file.fileno(), 0, size + MARGIN)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(self._folder)) from error

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """What orbax and tensorstore raise, as the OSError that it is."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            full = "RESOURCE_EXHAUSTED" in str(error) or os.strerror(errno.ENOSPC) in str(error)
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code), str(self._folder)) from error

    def newest(self, shapes: Callable[[int], Any | None], say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole in all processes, or None.

        Where an older one is whole, `say` is told of those that are damaged, and they are removed. `shapes` gives those of a
        program's arrays, or None where there is no such program. What it raises says nothing of the checkpoint, which stays.

        Raises:
            ConfigError: it was written with another number of devices; or there are some, and none can be read, which need not
                be their fault: they all stay.
        """
        here: list[int] = sorted(self._manager.all_steps(), reverse=True)
        everyone = self._processes.gather(here)
        everywhere = set.intersection(*map(set, everyone))
        if not everywhere and max(map(len, everyone)) >= KEEP:  # nobody begins a second one before all have the first
            raise ConfigError(f"the processes have no checkpoint in {self._folder} in common; mend what hides those of some")
        parts = [number for number in here if number not in everywhere]  # a process died before it had written its own
        damaged: dict[int, str] = {}
        for number in sorted(everywhere, reverse=True):
            found = self._read(number, shapes(number // STRIDE))
            reasons = [reason for reason in self._processes.gather(found if isinstance(found, str) else None) if reason]
            if isinstance(found, Checkpoint) and not reasons:
                for late, reason in damaged.items():
                    say(f"the checkpoint at vector step {late % STRIDE} is damaged and left out: {reason}")
                self._delete([*damaged, *parts])
                if jax.default_backend() != "cpu":
                    return found
                return found._replace(arrays=jax.tree.map(jax.numpy.copy, found.arrays))  # orbax's memory is not ours to donate
            damaged[number] = reasons[0]
            del found
            gc.collect()  # what is left of the reads that failed
        if damaged:
            raise ConfigError(
                f"none of the checkpoints in {self._folder} can be read ({next(iter(damaged.values()))}); mend what is in the "
                "way, or start anew with --overwrite"
            )
        self._delete(parts)
        return None

    def _delete(self, numbers: list[int]) -> None:
        for number in numbers:
            self._manager.delete(number)

    def _read(self, number: int, shapes: Any | None) -> Checkpoint | str:
        """A checkpoint, or what is wrong with it."""
        program, iteration = divmod(number, STRIDE)
        if shapes is None:
            return "it is of another run"
        try:
            meta: Any = self._manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            if (self._run and meta.get("run", self._run) != self._run) or meta.get("number", number) != number:
                raise ValueError("it is of another run, or of another step")
            here = places(shapes)
            if meta.get("places", here) != here:
                raise ConfigError(
                    f"{self._folder} was written with {meta['places']} places for members, and this machine makes {here}; a "
                    "run goes on with as many cores or devices, and as many processes, as it had"
                )
            arrays = self._manager.restore(number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes)))["arrays"]
            if checksum(arrays, meta["text"], meta["journal"]) != meta["checksum"]:
                raise ValueError("its checksum does not match")
            return Checkpoint(program, iteration, arrays, meta["text"], meta["journal"])
        except ConfigError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def places(tree: Any) -> int:
    """The length of the leading axis of arrays or shapes: members, with the padding for the devices that there are."""
    leaf = jax.tree.leaves(tree)[0]
    return leaf.shape[0] if leaf.shape else 0


def checksum(tree: Any, text: str | None, journal: list[Any]) -> int:
    """CRC-32 over all arrays of a tree, in order, and what stands beside them."""
    value = zlib.crc32(json.dumps([text, journal]).encode())
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value
