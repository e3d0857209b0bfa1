"""Records episodes of a run's policy, or its replay, as a dataset: the command `record`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpg_jax import __version__
from ddpg_jax.agent.policy import Policy
from ddpg_jax.api import find_env
from ddpg_jax.app.evaluation import recorded, trained
from ddpg_jax.app.options import check_file
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.data import minari_file
from ddpg_jax.data.collect import AT_ONCE, Act, collect
from ddpg_jax.data.episodes import Episode, from_ring
from ddpg_jax.data.minari_file import Target, write_minari
from ddpg_jax.data.npz_file import write_npz
from ddpg_jax.data.run_replay import newest_ring
from ddpg_jax.envs.host.make import maker
from ddpg_jax.envs.spaces import check_same_spaces
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.build import env_options
from ddpg_jax.experiment.experiment import Experiment
from ddpg_jax.types import Array, Env, EnvSpec

Source = Callable[[Env, Callable[[], Any] | None, Any, Policy, int], list[Episode]]
"""`(env, make, space, policy, at_once) -> episodes`; `make` makes Gymnasium's environment, or is None for one in JAX, `space`
is the space of observations, and `at_once` how many environments there may be at a time."""


class InJax:
    """Has the spaces of an environment in JAX, as Gymnasium's environments have them."""

    spec = None

    def __init__(self, spec: EnvSpec):
        from gymnasium.spaces import Box

        low, high = (
            np.array(bound, spec.action_dtype).reshape(spec.action_shape) for bound in (spec.action_low, spec.action_high)
        )
        self.observation_space = Box(-np.inf, np.inf, spec.obs_shape, np.float32)
        self.action_space = Box(low, high, dtype=low.dtype.type)

    def close(self) -> None:
        """Does nothing."""


def target_of(out: str) -> Target:
    """Returns where a dataset is written: a new `.npz` file, or see `minari_file.target_of`.

    Raises:
        ConfigError: there is something already, its folder does not exist, or a package is missing.
    """
    path = Path(out)
    if path.suffix != ".npz":
        return minari_file.target_of(out)
    if path.exists():
        raise ConfigError(f"out={out} is not allowed; it exists already, so name another file or remove it")
    check_file("out", path)
    return Target(out, path.absolute(), listed=False)  # an environment may change the current folder


def record(folder: Path, policy_at: Path, target: Target, *, source: Source, describes: str) -> list[Episode]:
    """Writes episodes as a dataset, and returns them.

    Args:
        folder: of the run.
        policy_at: the folder of its policy.
        target: from `target_of`.
        source: gives the episodes; see `play` and `replay`.
        describes: what the episodes are, for the dataset's description.

    Raises:
        ConfigError: the folder holds no complete run, or its environment does not have the shapes and bounds of the policy.
        EnvironmentFailure: the environment failed.
    """
    x = recorded(folder, policy_at)
    policy = trained(x, policy_at)
    options = env_options(x)
    env = find_env(x)
    check_same_spaces(env.spec, policy.spec)
    if env.outside is not None:
        env.outside.close(())  # there may be one of its kind only
    make = None if env.outside is None else maker(x.env, options)
    with contextlib.closing(make() if make else InJax(env.spec)) as spaces:
        space, action_space, own_spec = spaces.observation_space, spaces.action_space, spaces.spec
    at_once = 1 if x.eval_env == "shared" else AT_ONCE["host" if make else "device"]
    try:
        episodes = source(env, make, space, policy, at_once)
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(f"env={x.env} {failure}") from failure
    if target.path.suffix == ".npz":
        write_npz(target.path, episodes)
        return episodes
    manifest = RunFolder(folder).manifest()
    write_minari(
        target,
        episodes,
        observation_space=space,
        action_space=action_space,
        env_spec=own_spec if make else _known_to_gymnasium(x),
        about={
            "algorithm_name": f"DDPG, preset {manifest['identity']['preset']}, ddpg_jax {__version__}",
            "description": f"{describes}; env={x.env}, run {manifest.get('hash', '')}, {policy_at.name}.",
        },
    )
    return episodes


def _known_to_gymnasium(experiment: Experiment) -> Any:
    """Returns Gymnasium's spec of an environment in JAX that has the same name and no keyword arguments, else None."""
    import gymnasium

    return gymnasium.registry.get(experiment.env) if experiment.env_kwargs == "{}" else None


def play(act_of: Callable[[Policy], Act], *, episodes: int, seed: int) -> Source:
    """Plays whole episodes; `act_of(policy)` is how to act in them."""
    return lambda env, make, space, policy, at_once: collect(
        env, act_of(policy), episodes=episodes, seed=seed, make=make, at_once=at_once
    )


def mu(policy: Policy) -> Callable[[Array], Array]:
    """Returns the policy as a function `obs [E, O] -> action [E, A]` in [-1, 1]."""
    return lambda obs: policy.unit_action(policy.params, obs)


def replay(folder: Path, policy_at: Path) -> Source:
    """Gives the episodes in the replay of the newest checkpoint of a run.

    Raises:
        ConfigError: see `newest_ring`.
    """
    member = int(policy_at.name.removeprefix("member_")) if policy_at.name.startswith("member_") else None
    rows, head, size = newest_ring(folder, RunFolder(folder).manifest(), member)
    return lambda env, make, space, policy, at_once: from_ring(rows, head, size, spec=policy.spec, space=space)
