"""Writes and reads episodes as Minari datasets (Younis et al. 2024), by a Minari id or in a folder (extra `data`)."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpg_jax.data.episodes import Episode
from ddpg_jax.envs.extras import installed, missing
from ddpg_jax.envs.spaces import is_box
from ddpg_jax.errors import ConfigError, one_line
from ddpg_jax.types import EnvSpec

IDENTITY = re.compile(r"(?:[-_\w][-_\w/]*/)?[-_\w]+-v\d+")
"""The form of Minari's ids, `namespace/name-v0`; the namespace is optional."""


class Target(NamedTuple):
    """Says where a dataset is written."""

    name: str
    """Its Minari id."""
    path: Path
    """Its folder, which has the folder `data` that `minari.MinariDataset` opens."""
    listed: bool
    """True if it is in the folder where Minari looks for ids."""


def target_of(out: str) -> Target:
    """Returns where a dataset is written: by a Minari id such as `pend/mine-v0`, or else in a folder such as `./mine`.

    Raises:
        ConfigError: the extra `data` is not installed, or there is something already.
    """
    _check_installed(f"out={out}")
    listed = IDENTITY.fullmatch(out) is not None
    if listed:
        from minari.storage.datasets_root_dir import get_dataset_path

        name, path = out, Path(get_dataset_path(out))
    else:
        path = Path(out).absolute()  # an environment may change the current folder
        name = f"{re.sub(r'[^-_0-9A-Za-z]', '_', path.resolve().name) or 'dataset'}-v0"
    if path.exists():
        raise ConfigError(f"out={out} is not allowed; {path} exists already, so name another dataset or remove it")
    if not listed and not path.parent.is_dir():
        raise ConfigError(
            f"out={out} is not allowed; it must be a Minari id, such as pend/mine-v0, or a new folder in an existing one"
        )
    return Target(name, path, listed)


def write_minari(
    target: Target,
    episodes: Sequence[Episode],
    *,
    observation_space: Any,
    action_space: Any,
    env_spec: Any,
    about: Mapping[str, Any],
) -> None:
    """Writes a Minari dataset, and opens it once to see that it is whole.

    Args:
        target: from `target_of`.
        episodes: at least one.
        observation_space: the Gymnasium space of the observations.
        action_space: that of the actions.
        env_spec: Gymnasium's spec of the environment, from which Minari makes it again; None if it is not Gymnasium's.
            One that JSON cannot hold, such as that of a class, is left out.
        about: more metadata of the dataset.

    Raises:
        OSError: it cannot be written, and nothing is left of it; or it is there already.
    """
    import minari
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = target.name.rpartition("/")[0]
    if target.listed and namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
    data = target.path.absolute() / "data"  # Minari looks for the files of a relative path at another place
    data.mkdir(parents=True)  # fails where another process has written meanwhile, whose data stay
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spaces: Any = {"observation_space": observation_space, "action_space": action_space}
            storage = MinariStorage.new(data, **spaces, env_spec=_as_json_holds(env_spec))
            storage.update_metadata({"dataset_id": target.name, "minari_version": minari.__version__, **about})
            storage.update_episodes(_buffer(i, episode) for i, episode in enumerate(episodes))
            found = minari.MinariDataset(data)
        if (found.total_episodes, found.total_steps) != (len(episodes), sum(episode.length for episode in episodes)):
            raise OSError(f"{target.path} does not hold what was written")
    except BaseException:
        shutil.rmtree(target.path, ignore_errors=True)
        raise


def read_minari(name: str, spec: EnvSpec) -> list[Episode]:
    """Reads the episodes of a Minari dataset, by its id or from its folder.

    Raises:
        ConfigError: the extra `data` is not installed, there is no such dataset, it cannot be read, or its actions have other
            bounds than those of the environment.
    """
    _check_installed(f"demonstrations={name}")
    import minari

    path = Path(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = path / "data" if (path / "data").is_dir() else path
            found = minari.MinariDataset(folder) if path.is_dir() else minari.load_dataset(name)
            episodes = [_episode(one) for one in found.iterate_episodes()]
            space: Any = found.action_space
    except Exception as error:  # damaged files can fail in any way
        if isinstance(error, FileNotFoundError) and not path.is_dir():
            raise ConfigError(
                f"Minari has no dataset of this name here; `minari download {name}` fetches one, and `minari list local` names "
                "those that are here"
            ) from error
        raise ConfigError(f"it cannot be read as a Minari dataset: {one_line(error)}") from error
    if not is_box(space):
        raise ConfigError(
            f"it has {type(space).__name__} actions; those of env={spec.name} are bounded by {list(spec.action_low)} and "
            f"{list(spec.action_high)}"
        )
    bounds = [np.ravel(getattr(space, side)).astype(np.float32) for side in ("low", "high")]
    wanted = [np.asarray(side, np.float32) for side in (spec.action_low, spec.action_high)]
    if any(len(own) == len(other) and not np.allclose(own, other) for own, other in zip(bounds, wanted, strict=True)):
        own, other = (f"{low.tolist()} and {high.tolist()}" for low, high in (bounds, wanted))
        raise ConfigError(f"it has actions bounded by {own}; those of env={spec.name} are bounded by {other}")
    return episodes


def _episode(data: Any) -> Episode:
    """Converts an episode from Minari."""
    return Episode(data.observations, np.asarray(data.actions), np.asarray(data.rewards), bool(data.terminations[-1]))


def _as_json_holds(env_spec: Any) -> Any:
    """Returns Gymnasium's spec of an environment, or None if JSON cannot hold it, as Minari requires."""
    try:
        if env_spec is not None:
            env_spec.to_json()
    except (TypeError, ValueError):
        return None
    return env_spec


def _check_installed(asked: str) -> None:
    for module in ("minari", "h5py"):
        if not installed(module):
            raise ConfigError(missing(asked, "data"))


def _buffer(number: int, episode: Episode) -> Any:
    """Returns an episode as Minari takes it."""
    from minari.data_collector import EpisodeBuffer

    ends = np.arange(1, episode.length + 1) == episode.length
    terminations, truncations = (ends & episode.terminated).tolist(), (ends & (not episode.terminated)).tolist()
    arrays: Any = {"observations": episode.obs, "actions": episode.action}
    own = {"rewards": episode.reward.tolist(), "terminations": terminations, "truncations": truncations}
    return EpisodeBuffer(id=number, seed=episode.seed, **arrays, **own)
