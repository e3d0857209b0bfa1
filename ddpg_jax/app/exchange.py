"""Carries states of members from one process to another, in files of the run folder."""

from __future__ import annotations

import errno
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpg_jax.app.processes import Processes
from ddpg_jax.files import naming_errors
from ddpg_jax.running.heirs import Exchange, Loan, nothing_to_exchange


def make_exchange(folder: Path, processes: Processes) -> Exchange:
    """Returns the exchange of one of these processes. Each writes into a folder of its own, which it removes afterwards.

    Args:
        folder: which all processes share, such as that of the checkpoints.
        processes: which take part.
    """
    if processes.total == 1:
        return nothing_to_exchange
    own = folder / f"exchange_{processes.number}"
    shutil.rmtree(own, ignore_errors=True)  # of a run that was killed

    def exchange(lent: Mapping[Loan, Any], wanted: Mapping[Loan, Any]) -> Mapping[Loan, Any]:
        try:
            files = [[*loan, str(_write(own, tree).relative_to(folder))] for loan, tree in lent.items()]
            told = processes.gather(files)  # when all have been written
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)  # which nobody reads yet, and which may have filled the disk
            raise
        paths = {(member, replay): folder / name for each in told for member, replay, name in each}
        got = {loan: _read(paths[loan], shapes) for loan, shapes in wanted.items()}
        processes.gather(None)  # when all have been read
        shutil.rmtree(own, ignore_errors=True)
        return got

    return exchange


def _write(folder: Path, tree: Any) -> Path:
    """Writes arrays of any dtype, as bytes, into a file with a new name, since network file systems remember old ones."""
    path = folder / f"{uuid.uuid4().hex}.npz"
    with naming_errors(path):
        folder.mkdir(exist_ok=True)
        np.savez(path, *[np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in jax.tree.leaves(tree)])
    return path


def _read(path: Path, shapes: Any) -> Any:
    """Reads arrays of these shapes and dtypes.

    Raises:
        OSError: they cannot be read, or have not arrived whole.
    """
    leaves, structure = jax.tree.flatten(shapes)
    try:
        with naming_errors(path), np.load(path) as file:
            data = [file[name] for name in file.files]
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise OSError(errno.EIO, "what another process wrote there is not whole", str(path)) from error
    arrays = [raw.view(leaf.dtype).reshape(leaf.shape) for raw, leaf in zip(data, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)
