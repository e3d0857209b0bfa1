"""Reads and writes episodes as `.npz` files of named arrays, one row for each step."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax.data.episodes import Episode, flat_obs
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.files import write_bytes

NEEDED = ("observations", "actions", "rewards", "terminations", "truncations")
"""Arrays that a file must have, `[D, ...]` each."""
SUCCESSORS = "next_observations"
"""The array that it may have, besides."""


def write_npz(path: Path, episodes: Sequence[Episode]) -> None:
    """Writes episodes, one after the other, with the observations after each step. The parts of goals are concatenated.

    >>> import tempfile
    >>> one = Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.zeros(2), True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_npz(Path(folder) / "one.npz", [one])
    ...     read_npz(Path(folder) / "one.npz")[0].obs.shape
    (3, 2)
    """
    obs = [flat_obs(episode.obs) for episode in episodes]
    ends = np.concatenate([np.arange(1, episode.length + 1) == episode.length for episode in episodes])
    terminated = np.repeat([episode.terminated for episode in episodes], [episode.length for episode in episodes])
    arrays = {
        "observations": np.concatenate([one[:-1] for one in obs]),
        SUCCESSORS: np.concatenate([one[1:] for one in obs]),
        "actions": np.concatenate([episode.action for episode in episodes]),
        "rewards": np.concatenate([episode.reward for episode in episodes]),
        "terminations": ends & terminated,
        "truncations": ends & ~terminated,
    }
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_bytes(path, data.getvalue())


def read_npz(path: Path) -> list[Episode]:
    """Reads episodes from a file.

    Without `next_observations`, the successor of a step is the next row, and the last step of an episode that did not
    terminate is left out, since its successor is not known. With it, an episode is also divided where the next row is not the
    successor.

    Raises:
        ConfigError: the file cannot be read, lacks an array, its arrays have different lengths or hold no numbers, or the
            successors of all its steps are unknown.
    """
    arrays = _read(path, lambda file: {name: np.asarray(file[name]) for name in (*NEEDED, SUCCESSORS) if name in file.files})
    absent = [name for name in NEEDED if name not in arrays]
    if absent:
        raise ConfigError(f"{path} has no array {', '.join(absent)}; it must have {', '.join(NEEDED)}")
    _check_types(path, arrays)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ConfigError(f"{path} has arrays of different lengths ({found}); they must have one row for each step")
    obs, action, reward, terminated, truncated = (arrays[name] for name in NEEDED)
    if reward.ndim != 1 or terminated.ndim != 1 or truncated.ndim != 1:
        raise ConfigError(f"{path} has rewards, terminations or truncations that are no vectors; they must have one dimension")
    after = arrays.get(SUCCESSORS)
    if after is not None and after.shape != obs.shape:
        raise ConfigError(f"{path} has {SUCCESSORS} of shape {after.shape}; it must be that of observations, {obs.shape}")
    if not len(reward):
        return []
    terminated, truncated = terminated.astype(bool), truncated.astype(bool)
    ends = terminated | truncated
    ends[-1] = True
    if after is not None:
        differ = after[:-1].astype(np.float32) != obs[1:].astype(np.float32)  # one of them may be in float64
        ends[:-1] |= differ.any(axis=tuple(range(1, obs.ndim)))
    episodes, begin = [], 0
    for end in np.flatnonzero(ends) + 1:
        over = bool(terminated[end - 1])
        known = after is not None or over
        stop = end if known else end - 1
        last = after[end - 1 : end] if after is not None else obs[end - 1 : end]  # after a termination, it does not matter
        states = np.concatenate([obs[begin:stop], last]) if known else obs[begin:end]
        episodes.append(Episode(states, action[begin:stop], reward[begin:stop], over))
        begin = end
    episodes = [episode for episode in episodes if episode.length]
    if not episodes:
        raise ConfigError(f"{path} has no step whose successor is known; add {SUCCESSORS}")
    return episodes


def check_achieved(path: Path) -> None:
    """Raises ConfigError if the goals are not known that the last steps of terminated episodes achieved, for hindsight."""
    if _read(path, lambda file: SUCCESSORS not in file.files and np.any(file["terminations"])):
        raise ConfigError(f"{path} has terminations without {SUCCESSORS}, which hindsight needs; add them")


def _check_types(path: Path, arrays: dict[str, Any]) -> None:
    """Raises ConfigError unless arrays hold real numbers, and those of ends nothing but 0 and 1."""
    for name, array in arrays.items():
        end = name in ("terminations", "truncations")
        wanted = "booleans, or numbers 0 and 1" if end else "numbers"
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"{path} has {name} of type {array.dtype}; they must be {wanted}")
        if end and not np.isin(array, (0, 1)).all():
            raise ConfigError(f"{path} has {name} other than 0 and 1; they must be {wanted}")


def _read(path: Path, take: Callable[[Any], Any]) -> Any:
    """Returns what is taken from a file, which reads an array when it is asked for one, without unpickling anything."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return take(file)
    except Exception as error:  # damaged files can fail in any way
        raise ConfigError(f"{path} cannot be read as a .npz file: {one_line(error)}") from error
