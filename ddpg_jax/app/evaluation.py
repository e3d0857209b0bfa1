"""Evaluates the policy of a run folder without noise, in its environment or another, and films it: the command `eval`."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ddpg_jax.agent.policy import Policy, read_policy
from ddpg_jax.api import play_policy
from ddpg_jax.app.films import check_ending, new_film
from ddpg_jax.app.report import named, swept
from ddpg_jax.app.run_folder import RunFolder
from ddpg_jax.app.stopping import stops_of
from ddpg_jax.envs.host.make import import_modules, maker
from ddpg_jax.envs.registry import only_in_jax
from ddpg_jax.errors import ConfigError, EnvironmentFailure
from ddpg_jax.experiment.build import ENV_FIELDS, env_options
from ddpg_jax.experiment.experiment import Experiment, coerce
from ddpg_jax.running.rows import result_of
from ddpg_jax.types import Episodes


def evaluate(x: Experiment, policy_at: Path, episodes: int, *, seed: int) -> Episodes:
    """Evaluates a policy.

    Args:
        x: says what the environment is; see `recorded`.
        policy_at: the folder of the policy.
        episodes: their number.
        seed: of the initial states.

    Raises:
        ConfigError: the policy cannot be read or has diverged, or the environment is not one for it.
        EnvironmentFailure: the environment raised, or returned a number that is not finite.
    """
    return play_policy(trained(x, policy_at), x, episodes=episodes, seed=seed, name=f"policy={policy_at}")


def trained(x: Experiment, policy_at: Path) -> Policy:
    """Returns a policy, whose network may come from the modules that the experiment names."""
    import_modules(x.imports)
    return read_policy(policy_at)


def recorded(folder: Path, policy_at: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Experiment:
    """Returns the experiment that a policy was trained in, restricted to the fields of the environment.

    Args:
        folder: of the run.
        policy_at: of the policy.
        changes: values of these fields that replace those of the run. Modules are added. With another `env`, the other fields
            have their defaults.

    Raises:
        ConfigError: the folder holds no complete run, or a value is not allowed.
    """
    manifest = RunFolder(folder).manifest()
    number = policy_at.name.removeprefix("member_")
    swept = next((one for one in manifest["members"] if str(one["member"]) == number), {})
    values = {**manifest["experiment"], **swept}
    imports = [name for given in (values, changes) for name in coerce("imports", given.get("imports", ()))]
    values = {**({} if "env" in changes else values), **changes, "imports": imports}
    return Experiment(**{name: coerce(name, values[name]) for name in ENV_FIELDS if name in values})


def policy_folder(folder: Path, member: str | None = None, kind: str = "policy") -> Path:
    """Returns the folder of a run's policy; in a sweep, a member's, by default of the unpruned one with the best last return.

    With `kind="policy_best"`, it is the policy with the best evaluation, and by default the member with the best of all.

    Raises:
        ConfigError: there is no policy, or none of this member.
    """
    at = folder / kind
    if not at.exists() and kind != "policy":
        raise ConfigError(
            f"{folder} holds no {kind}; only runs with evaluations (eval_episodes above 0) keep the best policy, so leave out "
            "--best"
        )
    if not (at / "policy.json").exists() and at.exists():
        run = RunFolder(folder)
        rows = run.read_rows()
        if member is None:  # the rows choose
            run.check_rows(rows)
        value: dict[str, float] = {}
        for row in rows:  # those of a member are in order
            number, result = str(row["member"]), result_of(row)
            best = kind != "policy" and not result > value.get(number, -math.inf)
            value[number] = value.get(number, math.nan) if best else result
        known = {m: result for m, result in value.items() if (at / f"member_{m}").exists()}
        envs = {row["env"]: str(row["member"]) for row in rows if "env" in row}
        if member is None and len(envs) > 1:
            each = ", ".join(f"{m} in {env}" for env, m in envs.items())
            raise ConfigError(f"{folder} holds a sweep over environments; name a member with --member, such as {each}")
        if member is None and known:
            ended = {str(m) for m, stop in stops_of(RunFolder(folder).manifest()).items() if stop.reason == "prune"}
            member = max(known, key=lambda m: (m not in ended, -math.inf if math.isnan(known[m]) else known[m]))
        if not known:
            raise ConfigError(f"{folder} holds no policy; finish the run with --resume")
        if member not in known:
            raise ConfigError(f"member={member} is not in {folder}; it must be one of {', '.join(known)}")
        return at / f"member_{member}"
    if member is not None and at.exists():
        raise ConfigError(f"member={member} is not allowed, since {folder} holds a single run, not a sweep; leave out --member")
    return at


def describe_member(folder: Path, policy_at: Path) -> str:
    """Describes the member of a sweep that a policy belongs to: its number, its seed and its point."""
    number = policy_at.name.removeprefix("member_")
    own = next(row for row in reversed(RunFolder(folder).read_rows()) if str(row["member"]) == number)
    fields = swept([own])
    return ", ".join(filter(None, [policy_at.name, f"seed {own['seed']}", named(fields, [own[name] for name in fields])]))


def check_film(x: Experiment, path: Path) -> None:
    """Checks that a film of an environment can be made, before any work is done.

    Raises:
        ConfigError: the name has another ending, its folder does not exist, or the environment does not render.
    """
    check_ending(path)
    name = x.env
    if only_in_jax(name):
        raise ConfigError(f"video={path} cannot be made; env={name} does not render")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an environment that does not render is reported below
            env = maker(name, env_options(x), render_mode="rgb_array")()
            env.reset(seed=0)
            _picture(env.render())
            _milliseconds(env)
            env.close()
    except Exception as error:  # a missing package or screen, an unknown mode
        raise ConfigError(f"video={path} cannot be made; env={name} does not render here: {error}{_cure(error)}") from error


def film(x: Experiment, policy_at: Path, path: Path, *, seed: int) -> int:
    """Writes one episode as a film, and returns its number of frames.

    Raises:
        ConfigError: see `check_film`.
        EnvironmentFailure: the environment raised.
    """
    check_film(x, path)
    policy = trained(x, policy_at)
    env = maker(x.env, env_options(x), render_mode="rgb_array")()
    count = 0
    with contextlib.closing(env), new_film(path, _milliseconds(env)) as add:
        for picture in _pictures(env, policy, x.env, seed=seed):
            add(picture)
            count += 1
    return count


def _pictures(env: Any, policy: Policy, name: str, *, seed: int) -> Iterator[Any]:
    """Yields the frames of an episode.

    Raises:
        EnvironmentFailure: the environment raised.
    """
    try:
        obs, _ = env.reset(seed=seed)
        yield _picture(env.render())
        done = False
        while not done:
            obs, _, terminated, truncated, _ = env.step(policy(obs))
            yield _picture(env.render())
            done = terminated or truncated
    except Exception as error:  # an environment can raise anything
        raise EnvironmentFailure(f"env={name} raised {type(error).__name__}: {error} while being filmed") from error


def _cure(error: Exception) -> str:
    """Returns what helps against a failure of OpenGL, which looks for a screen unless it is told otherwise."""
    lost = any(word in f"{type(error).__name__} {error}" for word in ("GL", "gl", "DISPLAY", "X11"))
    unset = "MUJOCO_GL" not in os.environ
    return "; on a machine without a screen, set MUJOCO_GL=egl, or osmesa without a GPU" if lost and unset else ""


def _picture(frame: Any) -> Any:
    """Converts a frame, uint8 `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]`, to a picture.

    Raises:
        ValueError: it has another type or shape.
    """
    from PIL import Image

    pixels = np.asarray(frame)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)):
        what = "nothing" if frame is None else f"{pixels.dtype} of shape {pixels.shape}"
        raise ValueError(f"it renders {what} instead of uint8 of shape (height, width, 3)")
    return Image.fromarray(pixels)


def _milliseconds(env: Any) -> int:
    """Returns how long a frame is shown: the environment's own rate, else 30 frames per second."""
    return round(1000 / (env.metadata.get("render_fps") or 30))
