"""Reads demonstrations of any format as transitions, and checks that they fit an environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax.data.episodes import Episode, flat_obs
from ddpg_jax.data.minari_file import IDENTITY, read_minari
from ddpg_jax.data.npz_file import check_achieved, read_npz
from ddpg_jax.data.run_replay import read_run
from ddpg_jax.errors import ConfigError
from ddpg_jax.replay.demonstrations import make_store
from ddpg_jax.types import EnvSpec, Transition

TOLERANCE = 1e-5
"""How far actions may lie outside of their bounds, relative to their range; datasets are rounded to float32."""


def load_store(name: str, spec: EnvSpec, *, hindsight: bool) -> Any:
    """Reads demonstrations as the store that `replay.demonstrations` samples from, NumPy arrays.

    Args:
        name: a Minari id or folder, a `.npz` file, or a run folder.
        spec: of the environment that they must fit.
        hindsight: True if their goals are to be relabelled.

    Raises:
        ConfigError: see `read_episodes`, `transitions_of` and `npz_file.check_achieved`.
    """
    try:
        transitions = transitions_of(read_episodes(name, spec), spec)
        if hindsight and _is_npz(Path(name)):
            check_achieved(Path(name))
    except ConfigError as error:
        raise ConfigError(f"demonstrations={name}: {error}") from error
    return make_store(transitions, spec.goal if hindsight else None)


def read_episodes(name: str, spec: EnvSpec) -> list[Episode]:
    """Reads the episodes of a dataset.

    Raises:
        ConfigError: there is no such dataset, it cannot be read, its actions have other bounds, or a package is missing.
    """
    path = Path(name)
    if _is_run(path):
        return read_run(path, spec)
    if _is_npz(path):
        return read_npz(path)
    if path.is_dir() or IDENTITY.fullmatch(name):
        return read_minari(name, spec)
    raise ConfigError(
        "there is nothing of this name; it must be a Minari id, such as pend/mine-v0, a folder of Minari, a .npz file, or a "
        "run folder"
    )


def _is_run(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _is_npz(path: Path) -> bool:
    return path.suffix == ".npz" and not _is_run(path)  # a run folder may have any name


def transitions_of(episodes: Sequence[Episode], spec: EnvSpec) -> Transition:
    """Joins episodes to transitions `[D]`, as NumPy arrays with actions in [-1, 1].

    The last transition of each episode is marked as `last`. Its discount is 0 if it terminated, and 1 otherwise.

    Raises:
        ConfigError: there are none, their shapes are not those of the environment, a number is not finite, or an action is
            outside of its bounds.

    >>> import ddpg_jax as dj
    >>> spec = dj.envs.make_device("Pendulum-v1").spec
    >>> one = Episode(np.zeros((3, 3)), np.full((2, 1), -2.0), np.zeros(2), True)
    >>> found = transitions_of([one], spec)
    >>> found.action.tolist(), found.discount.tolist(), found.last.tolist()
    ([[-1.0], [-1.0]], [1.0, 0.0], [False, True])
    """
    if not sum(episode.length for episode in episodes):
        raise ConfigError("it is empty; it must hold at least one step")
    for episode in episodes:
        _check_shapes(episode, spec)
    obs = [flat_obs(episode.obs) for episode in episodes]
    action = np.concatenate([episode.action.reshape(episode.length, -1) for episode in episodes])
    lengths = np.array([episode.length for episode in episodes])
    last = np.zeros(lengths.sum(), bool)
    last[np.cumsum(lengths) - 1] = True
    terminated = np.repeat([episode.terminated for episode in episodes], lengths)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and are refused below
        arrays: Any = (
            np.concatenate([one[:-1] for one in obs]).astype(np.float32),
            unit_actions(action, spec).astype(np.float32),
            np.concatenate([episode.reward for episode in episodes]).astype(np.float32),
            1.0 - (last & terminated).astype(np.float32),
            last,
            np.concatenate([one[1:] for one in obs]).astype(np.float32),
        )
    found = Transition(*arrays)
    for name, array in (("observations", found.obs), ("observations", found.next_obs), ("rewards", found.reward)):
        if not np.isfinite(array).all():
            raise ConfigError(f"it has {name} that are not finite; all must be finite float32 numbers")
    return found


def unit_actions(action: np.ndarray, spec: EnvSpec) -> np.ndarray:
    """Converts actions `[D, A]` in the environment's units to [-1, 1].

    Raises:
        ConfigError: one of them is not finite or is outside of its bounds.
    """
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    if not np.isfinite(action).all():
        raise ConfigError("it has actions that are not finite; all must be finite numbers")
    unit = 2.0 * (action.astype(np.float64) - low) / (high - low) - 1.0
    wrong = np.flatnonzero((np.abs(unit) > 1.0 + 2.0 * TOLERANCE).any(axis=0))
    if wrong.size:
        k = wrong[0]
        raise ConfigError(
            f"it has actions from {action[:, k].min():g} to {action[:, k].max():g} in dimension {k}; they must be within "
            f"{low[k]:g} and {high[k]:g}, the bounds of env={spec.name}"
        )
    return unit.clip(-1.0, 1.0)


def _check_shapes(episode: Episode, spec: EnvSpec) -> None:
    obs = flat_obs(episode.obs)
    given = obs if isinstance(episode.obs, dict) else episode.obs
    for name, shape, wanted, dim in (
        ("observations", given.shape[1:], spec.obs_shape, spec.obs_dim),
        ("actions", episode.action.shape[1:], spec.action_shape, spec.action_dim),
    ):
        if np.prod(shape, dtype=int) != dim:
            raise ConfigError(f"it has {name} of shape {shape}; those of env={spec.name} have {wanted}")
    if not len(obs) == len(episode.action) + 1 == episode.length + 1:
        raise ConfigError(
            f"it has an episode of {len(obs)} observations, {len(episode.action)} actions and {episode.length} rewards; there "
            "must be as many actions as rewards, and one observation more"
        )
