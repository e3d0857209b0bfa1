"""Reads the replay in the newest checkpoint of a run folder. It changes no file."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax.data.episodes import Episode, from_ring
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import EnvSpec

STRIDE = 10**10
"""Orbax numbers checkpoints with one integer: the index of the program times `STRIDE`, plus the vector step."""
PATTERNS = re.compile(r"[*?\[\\]|:(/|$)|orbax-checkpoint-tmp")
"""What orbax and tensorstore take for patterns, separators, addresses (`gs:/`) or unfinished checkpoints in file names."""


class Flat:
    """Stands for the space of flattened observations."""

    def __init__(self, obs_dim: int):
        self.shape, self.dtype = (obs_dim,), np.dtype(np.float32)


def read_run(folder: Path, spec: EnvSpec) -> list[Episode]:
    """Returns the episodes in the replay of a run of one member, with flattened observations.

    Raises:
        ConfigError: the run is a sweep, or one in another environment, or see `newest_ring`.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        env, members = manifest["experiment"]["env"], len(manifest["members"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/manifest.json cannot be read: {one_line(error)}") from error
    if env != spec.name:
        raise ConfigError(f"{folder} holds a run in env={env}; it must be one in env={spec.name}")
    if members > 1:
        raise ConfigError(
            f"{folder} holds a sweep of {members} members; record the replay of one, with ddpg-jax record {folder} --replay "
            "--member M --out FILE.npz"
        )
    rows, head, size = newest_ring(folder, manifest)
    return from_ring(rows, head, size, spec=spec, space=Flat(spec.obs_dim))


def newest_ring(folder: Path, manifest: dict[str, Any], member: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the replay of a member from the newest checkpoint: the fields of `types.ReplayState`.

    Args:
        folder: of the run.
        manifest: of the run.
        member: its number; by default the first one of the checkpoint.

    Raises:
        ConfigError: the run has several processes or no checkpoint, or the newest cannot be read, or lacks a replay of this
            package or this member.
    """
    root = folder / "checkpoints"
    if manifest.get("processes", 1) > 1:
        raise ConfigError(f"the replay of {folder} cannot be read, since it is a run of several processes; name a run of one")
    numbers = sorted(int(path.name) for path in root.glob("*") if path.name.isdigit())
    if not numbers:
        raise ConfigError(f"{folder} holds no checkpoint, and so no replay; continue the run with --resume")
    members = (manifest.get("programs") or [[0]])[numbers[-1] // STRIDE]
    number = members[0] if member is None else member
    if number not in members:
        raise ConfigError(f"member={number} is not in the newest checkpoint of {folder}; it must be one of {members}")
    import orbax.checkpoint as ocp

    alias, path = without_patterns(root.resolve())
    try:
        ring = _find_ring(ocp.PyTreeCheckpointer().restore(path / str(numbers[-1]) / "arrays"))
    except Exception as error:  # a damaged file can fail in any way
        raise ConfigError(f"the newest checkpoint of {folder} cannot be read: {one_line(error)}") from error
    finally:
        if alias:
            alias.cleanup()
    if ring is None:
        raise ConfigError(
            f"the replay of {folder} cannot be read, since the run has none, or one of your own; record episodes of its policy "
            f"instead, with ddpg-jax record {folder} --out FILE.npz"
        )
    place = members.index(number)
    rows, head, size = (np.asarray(ring[name]) for name in ("rows", "head", "size"))
    return (rows[place], head[place], size[place]) if rows.ndim == 3 else (rows, head, size)


def _find_ring(tree: Any) -> dict[str, Any] | None:
    """Returns the ring buffer in the arrays of a checkpoint, which orbax gives as dicts."""
    if not isinstance(tree, dict):
        return None
    if {"rows", "head", "size"} <= set(tree):
        return tree
    return next((found for found in map(_find_ring, tree.values()) if found), None)


def without_patterns(folder: Path) -> tuple[tempfile.TemporaryDirectory[str] | None, Path]:
    """Returns a path to a folder that orbax takes literally: its own, or a link in a temporary folder, which comes first.

    Raises:
        ConfigError: the folder for temporary files has such a name, too.
    """
    if not PATTERNS.search(str(folder)):
        return None, folder
    alias = tempfile.TemporaryDirectory(prefix="ddpg-jax-")
    link = Path(alias.name).resolve() / "checkpoints"
    if PATTERNS.search(str(link)):
        alias.cleanup()
        raise ConfigError(
            f"out={folder.parent} is not allowed; its path, or that of TMPDIR, must contain none of * ? [ \\ and no name that "
            "ends in :"
        )
    folder.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder, target_is_directory=True)
    return alias, link
